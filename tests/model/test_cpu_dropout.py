"""Dropout on a CPU: masks of the right share, and torch's own results wherever no mask is drawn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hpo.model.cpu_dropout import CpuDropout, attention, fast_dropout, kept_elements

CPU = torch.device("cpu")
ELEMENTS = 200_003
"""Not a multiple of the elements per random integer."""


@settings(deadline=None)
@given(probability=st.floats(1e-7, 1.0), seed=st.integers(0, 2**32))
def test_masks_keep_the_share_asked_for(probability: float, seed: int):
    torch.manual_seed(seed)
    kept = kept_elements((ELEMENTS,), probability, CPU)
    share = max(1, round(probability * 2**16)) / 2**16
    assert abs(kept.float().mean().item() - share) <= 6 * math.sqrt(share * (1 - share) / ELEMENTS) + 1 / ELEMENTS


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = kept_elements((ELEMENTS,), 0.5, CPU).float() - 0.5
    for apart in (1, 2, 3, 4, 5, 8, 64):
        correlation = (kept[apart:] * kept[:-apart]).mean().item() * 4
        assert abs(correlation) < 6 / math.sqrt(ELEMENTS)


def test_equal_seeds_give_equal_masks_and_later_draws_give_others():
    torch.manual_seed(3)
    first, second = kept_elements((50, 7), 0.7, CPU), kept_elements((50, 7), 0.7, CPU)
    torch.manual_seed(3)
    assert torch.equal(kept_elements((50, 7), 0.7, CPU), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_scaled_and_gradients_have_the_same_mask(dtype: torch.dtype):
    states = torch.ones(1000, dtype=dtype, requires_grad=True)
    with CpuDropout():
        found = functional.dropout(states, 0.25, training=True)
    found.sum().backward()
    assert found.dtype == dtype
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75, dtype=dtype).item()}
    assert torch.equal(states.grad, found.detach())


def query_key_value() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, 1, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8)


READ = (torch.arange(6) < torch.tensor([6, 3])[:, None])[:, None, None]
MASKS = {"none": None, "boolean": READ, "added": torch.zeros(2, 1, 1, 6).masked_fill(~READ, -1e9)}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_without_dropped_weights_is_torchs(mask: torch.Tensor | None, scale: float | None):
    query, key, value = query_key_value()
    expected = functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    found = attention(query, key, value, mask, 0.0, 8**-0.5 if scale is None else scale)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_with_dropped_weights_is_torchs_without_in_the_mean(mask: torch.Tensor | None, scale: float | None):
    query, key, value = query_key_value()
    expected = functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    draws = 2000
    with CpuDropout():
        many = [
            functional.scaled_dot_product_attention(query, key, value, mask, 0.2, scale=scale) for _ in range(draws)
        ]
    assert not torch.equal(many[0], many[1])
    stacked = torch.stack(many)
    assert ((stacked.mean(0) - expected).abs() <= 6 * stacked.std(0) / math.sqrt(draws) + 1e-6).all()


@pytest.mark.parametrize("kind", ["boolean", "added"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_that_attends_to_no_token_changes_nothing_else(kind: str, dtype: torch.dtype):
    """ModernBERT's window reaches no text from padding far behind it; NaN there would reach all tokens."""
    torch.manual_seed(0)
    states = torch.randn(1, 2, 6, 8, dtype=dtype, requires_grad=True)
    mask = torch.ones(6, 6, dtype=torch.bool).triu(-1).tril(1) & (torch.arange(6) < 3)
    assert not mask[4:].any()
    given_mask = mask if kind == "boolean" else torch.zeros(6, 6).masked_fill(~mask, -torch.inf)
    found = attention(states, states, states, given_mask, 0.0, 0.5)
    expected = functional.scaled_dot_product_attention(states, states, states, mask, 0.0, scale=0.5)
    if dtype == torch.float32:
        torch.testing.assert_close(found[..., :4, :], expected[..., :4, :])
    with CpuDropout():
        found = functional.scaled_dot_product_attention(states, states, states, given_mask, 0.3)
    found.square().sum().backward()
    assert found.isfinite().all()
    assert states.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"is_causal": True}, {"enable_gqa": True}, {"dropout_p": 0.0}])
def test_other_attention_is_left_to_torch(options: dict):
    query, key, value = torch.randn(1, 4, 3, 8), torch.randn(1, 4, 3, 8), torch.randn(1, 4, 3, 8)
    named = {"dropout_p": 0.5, **options}
    torch.manual_seed(0)
    expected = functional.scaled_dot_product_attention(query, key, value, **named)
    torch.manual_seed(0)
    with CpuDropout():
        assert torch.equal(functional.scaled_dot_product_attention(query, key, value, **named), expected)


def test_other_dropout_is_left_to_torch():
    states = torch.randn(40)
    with CpuDropout():
        assert functional.dropout(states, 0.5, training=False) is states
        assert functional.dropout(states, 0.0) is states
        assert not functional.dropout(states, 1.0).any()
        assert functional.dropout(states, 0.3, inplace=True) is states
        with pytest.raises(ValueError, match="probability"):
            functional.dropout(states, 1.5)


def test_only_passes_with_gradients_on_a_cpu_use_it():
    assert isinstance(fast_dropout(CPU), CpuDropout)
    assert not isinstance(fast_dropout(torch.device("cuda")), CpuDropout)
    with torch.no_grad():
        assert not isinstance(fast_dropout(CPU), CpuDropout)
