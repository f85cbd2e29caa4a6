"""Frozen layers of the architectures that people fine-tune: given what they gave before, or recognised as others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BioGptConfig,
    FNetConfig,
    T5Config,
    XLNetConfig,
    set_seed,
)

from hpo.data.batching import Batch, collate
from hpo.data.tokenization import TokenizedSplit
from hpo.files.shared import SharedFiles
from hpo.model.backbone import Backbone
from hpo.model.frozen_layers import FrozenLayers, StateCache
from hpo.model.methods import frozen_layers, head_parameters
from hpo.model.trial_model import TrialModel
from hpo.tasks.classification import Classification
from tests.model.architectures import ARCHITECTURES, NUMBERS, tiny_network
from tests.models import plain_tokens, tiny_hyperparameters

CPU = torch.device("cpu")
HEAD = {"method": "head"}
TOP = {"method": "top_layers", "trained_layers": 1}
LENGTHS = (9, 4, 7)


def split_of(lengths: tuple[int, ...]) -> TokenizedSplit:
    ids = np.random.default_rng(0).integers(5, 27, sum(lengths))
    tokens = plain_tokens(ids, lengths)
    return TokenizedSplit(tokens=tokens, targets=np.arange(len(lengths)) % 2, source="texts")


SPLIT = split_of(LENGTHS)
BATCH = collate(SPLIT, range(3), 0)


def trial_over(network: Any, tokenizer_of: Path, task: Classification, values: dict[str, Any]) -> TrialModel:
    """Return a trial over a network, in training mode."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    backbone = Backbone(network, tokenizer, frozenset(head_parameters(network)), CPU, None)
    return TrialModel(backbone, task, tiny_hyperparameters(**values), seed=0)


def frozen_of(model: TrialModel) -> FrozenLayers:
    layers = frozen_layers(model.backbone.network, model.parameters)
    return FrozenLayers(model.backbone, layers, "fp32", StateCache(None, "", CPU))


@pytest.mark.parametrize("values", [HEAD, TOP], ids=["head", "top"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_answers_alike_from_what_is_kept(
    name: str, values: dict[str, Any], tiny_bert: Path, task: Classification
) -> None:
    model = trial_over(tiny_network(name), tiny_bert, task, values)
    frozen = frozen_of(model)
    assert frozen.depth == (3 if values is HEAD else 2)
    assert frozen.agrees(BATCH)
    model.backbone.network.eval()
    expected = model.backbone.answer(BATCH, "fp32")
    passes: list[int] = []
    embeddings = model.backbone.network.get_input_embeddings()
    embeddings.register_forward_hook(lambda *_: passes.append(1))
    for chosen in (BATCH, BATCH.take(np.array([1, 2])), BATCH.take(np.array([2]))):
        with frozen.given(chosen):
            found = model.backbone.answer(chosen, "fp32")
        rows = chosen.origins[0][1]
        torch.testing.assert_close(found, expected[torch.from_numpy(rows)], rtol=1e-5, atol=1e-6)
    assert len(passes) == 4, "one for the states of all, and one for each answer"


OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "layers that are shared": (
        AlbertConfig(
            **NUMBERS, vocab_size=40, embedding_size=16, hidden_size=16, num_attention_heads=2, intermediate_size=32,
            num_hidden_layers=3,
        ),
        HEAD,
    ),
    "positions handed on from layer to layer": (
        T5Config(**NUMBERS, vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
                 decoder_start_token_id=0),
        HEAD,
    ),
    "positions in front": (XLNetConfig(**NUMBERS, vocab_size=40, d_model=16, n_layer=3, n_head=2, d_inner=32), TOP),
    "padding that is mixed in": (
        FNetConfig(**NUMBERS, vocab_size=40, hidden_size=16, num_hidden_layers=3, intermediate_size=32), HEAD
    ),
    "dropout below what trains": (
        BioGptConfig(
            **NUMBERS, vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
            hidden_dropout_prob=0.5, max_position_embeddings=32,
        ),
        TOP,
    ),
    "dropout of embeddings in a trained module": (
        BartConfig(
            **NUMBERS, vocab_size=40, d_model=16, encoder_layers=3, decoder_layers=3, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=0.5, max_position_embeddings=32,
        ),
        TOP,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_recognised(name: str, tiny_bert: Path, task: Classification) -> None:
    config, values = OTHERS[name]
    set_seed(0)
    model = trial_over(AutoModelForSequenceClassification.from_config(config), tiny_bert, task, values)
    frozen = frozen_of(model)
    assert frozen.depth
    assert not frozen.agrees(BATCH)


def test_nothing_is_kept_of_rows_that_are_not_known(tiny_bert: Path, task: Classification) -> None:
    model = trial_over(tiny_network("bert"), tiny_bert, task, HEAD)
    frozen = frozen_of(model)
    assert frozen.agrees(BATCH)
    model.backbone.network.eval()
    batch = Batch(inputs=BATCH.inputs, targets=BATCH.targets)
    with frozen.given(batch):
        found = model.backbone.answer(batch, "fp32")
    torch.testing.assert_close(found, model.backbone.answer(batch, "fp32"), rtol=0, atol=0)


@pytest.mark.parametrize("is_shared", [True, False])
def test_all_files_of_the_cache_together_keep_to_its_limit(
    is_shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are sparse: none of the first takes space on the disk while the next is opened."""
    most = 1900
    monkeypatch.setattr("hpo.model.frozen_layers.cache_bytes", lambda _: most)
    cache = StateCache(SharedFiles(tmp_path) if is_shared else None, "", CPU)
    found = [cache.of(SPLIT, depth, 8, torch.float32) for depth in range(1, 6)]
    rows = [0 if states is None else states._file.rows for states in found]
    assert rows == [3, 3, 2, 0, 0]
    assert sum(states._file.bytes for states in found if states) <= most


def test_the_state_of_a_trials_dropout_is_left_as_it_is(tiny_bert: Path, task: Classification) -> None:
    model = trial_over(tiny_network("bert"), tiny_bert, task, TOP)
    before = torch.get_rng_state()
    frozen = frozen_of(model)
    assert frozen.agrees(BATCH)
    with frozen.given(BATCH):
        pass
    assert torch.equal(torch.get_rng_state(), before)
