"""The ends of a space are configurations of it, and none costs more, or less."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import assume, given, settings
from torch import nn

from hpo.config.hyperparameters import Hyperparameters, MethodName, OptimizerName
from hpo.search.trial_sizes import COSTS, OPTIMIZER_STATES, cheapest, dearest, slowest
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import load_space, shipped_spaces
from hpo.training.optimizers import OPTIMIZERS
from tests.space.random_spaces import mappings

Corner = Callable[[SearchSpace], Hyperparameters]
MAX_COMBINATIONS = 3000


def space(**parameters: Any) -> SearchSpace:
    return SearchSpace.from_mapping(parameters, "s")


def cost(values: Hyperparameters, *, batch_sign: int = 1) -> tuple[float, ...]:
    """What a configuration costs, written down a second time."""
    method = {"head": 0, "top_layers": 1, "lora": 2, "full": 3}[values.method]
    layers = (values.kept_layers or math.inf, values.trained_layers or math.inf)
    passes = (batch_sign * values.batch_size, values.epochs, values.data_fraction)
    return method, values.max_length, *layers, *passes, OPTIMIZER_STATES[values.optimizer]


@settings(max_examples=150, deadline=None)
@given(mapping=mappings(counted=True, largest=8))
def test_an_extreme_is_a_configuration_of_the_space_and_none_is_beyond_it(mapping: dict[str, Any]) -> None:
    drawn = space(**mapping)
    assume(drawn.size() <= MAX_COMBINATIONS)
    all_of_them = [drawn.hyperparameters(values) for values in drawn.combinations()]
    for extreme in (dearest(drawn), slowest(drawn), cheapest(drawn)):
        assert extreme in all_of_them
    costs = [cost(values) for values in all_of_them]
    assert cost(dearest(drawn)) == max(costs)
    assert cost(cheapest(drawn)) == min(costs)
    assert cost(slowest(drawn), batch_sign=-1) == max(cost(values, batch_sign=-1) for values in all_of_them)


@settings(max_examples=100, deadline=None)
@given(mapping=mappings())
def test_every_space_has_its_extremes(mapping: dict[str, Any]) -> None:
    drawn = space(**mapping)
    assert cost(cheapest(drawn)) <= cost(dearest(drawn))


@pytest.mark.parametrize("name", shipped_spaces())
def test_the_ends_of_the_shipped_spaces_have_their_largest_and_smallest_lengths(name: str) -> None:
    shipped = load_space(name)
    for field in ("max_length", "batch_size", "epochs", "data_fraction"):
        assert getattr(dearest(shipped), field) == shipped.largest(field)
        assert getattr(cheapest(shipped), field) <= getattr(shipped.hyperparameters(shipped.default_values()), field)


def test_what_costs_nothing_stays_at_its_default() -> None:
    found = dearest(space(epochs={"min": 1, "max": 9}, dropout={"min": 0.0, "max": 0.5, "default": 0.2}))
    assert (found.epochs, found.dropout) == (9, 0.2)


def test_of_equally_dear_values_it_is_the_default() -> None:
    optimizers = {"values": ["adam", "adamw", "radam", "sgd"], "default": "adamw"}
    assert dearest(space(optimizer=optimizers)).optimizer == "adamw"


def test_all_layers_are_more_than_any_number_of_them() -> None:
    layers = space(kept_layers={"values": [4, None, 8]})
    assert dearest(layers).kept_layers is None
    assert cheapest(layers).kept_layers == 4


def test_a_value_behind_conditions_two_deep_is_found() -> None:
    nested = space(
        schedule={"values": ["linear", "cosine"]},
        method={"values": ["head", "full"], "when": {"schedule": ["cosine"]}, "default": "head"},
        max_length={"values": [16, 512], "when": {"method": ["head"]}, "default": 16},
    )
    assert (dearest(nested).method, dearest(nested).max_length) == ("full", 128)
    assert (cheapest(nested).method, cheapest(nested).max_length) == ("head", 16)


def test_the_slowest_takes_the_most_steps() -> None:
    batches = space(batch_size={"values": [8, 16, 64]}, epochs={"min": 1, "max": 3})
    assert (slowest(batches).batch_size, slowest(batches).epochs) == (8, 3)
    assert (dearest(batches).batch_size, dearest(batches).epochs) == (64, 3)


def test_every_method_and_every_optimizer_has_its_cost() -> None:
    for field, names in (("method", get_args(MethodName)), ("optimizer", get_args(OptimizerName))):
        assert all(COSTS[field](name) >= 0 for name in names)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_an_optimizer_keeps_as_many_numbers_for_each_weight(name: OptimizerName) -> None:
    weights = nn.Parameter(torch.ones(64, 64))
    hyperparameters = Hyperparameters(optimizer=name)
    group = {"params": [weights], "rate_factor": 1.0, "hidden": True, "lr": hyperparameters.learning_rate}
    optimizer = OPTIMIZERS[name].build([group], hyperparameters)
    weights.grad = torch.ones(64, 64)
    optimizer.step()
    assert round(numbers_in(optimizer.state_dict()) / weights.numel()) == OPTIMIZER_STATES[name]


def numbers_in(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel()
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(numbers_in, inner))
