"""Every combination of a space and no other, in order; their number without going through them."""

from collections.abc import Iterator
from itertools import islice, product
from math import prod
from typing import Any

import optuna
import pytest
from hypothesis import given, settings

from hpo.config.parsing import parse_yaml
from hpo.errors import SpaceError
from hpo.space.search_space import SearchSpace
from tests.space.random_spaces import mappings


def space(text: str) -> SearchSpace:
    return SearchSpace.from_mapping(parse_yaml(text, "the test"), name="s")


def by_hand(counted: SearchSpace) -> Iterator[dict[str, Any]]:
    """All values of all parameters side by side, then what is inactive taken out, then what is there twice."""
    specs = counted.to_mapping()
    seen: list[dict[str, Any]] = []
    for values in product(*(_values(spec) for spec in specs.values())):
        trial: dict[str, Any] = {}
        for (name, spec), value in zip(specs.items(), values, strict=True):
            if all(trial.get(parent, "none") in wanted for parent, wanted in spec.get("when", {}).items()):
                trial[name] = value
        if trial not in seen:
            seen.append(trial)
            yield trial


def _values(spec: dict[str, Any]) -> list[Any]:
    if "min" not in spec:
        return [spec["value"]] if "value" in spec else spec["values"]
    step = spec.get("q", 1)
    return [round(spec["min"] + index * step, 9) for index in range(round((spec["max"] - spec["min"]) / step) + 1)]


@settings(deadline=None)
@given(mapping=mappings(counted=True, largest=6))
def test_they_are_those_found_by_trying_everything(mapping: dict[str, Any]) -> None:
    counted = SearchSpace.from_mapping(mapping, name="s")
    if prod(parameter.domain.count() for parameter in counted.parameters) > 300:
        assert next(counted.combinations())
        return
    found = list(counted.combinations())
    assert found == list(by_hand(counted))
    assert counted.size() == len(found)


@settings(deadline=None)
@given(mapping=mappings(counted=True))
def test_optuna_takes_each_as_it_is_and_each_can_be_trained(mapping: dict[str, Any]) -> None:
    counted, study = SearchSpace.from_mapping(mapping, name="s"), optuna.create_study()
    for values in islice(counted.combinations(), 3):
        study.enqueue_trial(counted.sampled(values))
        assert counted.suggest(study.ask()) == values
        assert counted.hyperparameters(values)


KNOWN = space("""
optimizer: {values: [sgd, momentum]}
momentum: {values: [0.8, 0.9], when: {optimizer: [momentum]}}
max_length: {value: 64}
epochs: {min: 1, max: 2}
""")


def test_the_last_parameter_varies_fastest_and_what_is_inactive_is_absent() -> None:
    assert list(KNOWN.combinations()) == [
        {"optimizer": "sgd", "max_length": 64, "epochs": 1},
        {"optimizer": "sgd", "max_length": 64, "epochs": 2},
        {"optimizer": "momentum", "momentum": 0.8, "max_length": 64, "epochs": 1},
        {"optimizer": "momentum", "momentum": 0.8, "max_length": 64, "epochs": 2},
        {"optimizer": "momentum", "momentum": 0.9, "max_length": 64, "epochs": 1},
        {"optimizer": "momentum", "momentum": 0.9, "max_length": 64, "epochs": 2},
    ]
    assert KNOWN.size() == 6


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("epochs: {value: 3}", 1),
        ("epochs: {min: 1, max: 1000000000}", 10**9),
        ("dropout: {distribution: q_uniform, min: 0.0, max: 0.9, q: 0.000001}", 900_001),
        ("learning_rate: {values: [0.5, 1.0, 2.0], relative_to: {adamw: 3e-5}}", 3),
        # 2 of 4 epochs have 3 batch sizes each, the two others none.
        ("{epochs: {min: 1, max: 4}, batch_size: {values: [8, 16, 32], when: {epochs: [2, 4]}}}", 2 * 3 + 2),
        # A grandchild, and a child of two parents.
        (
            """{optimizer: {values: [sgd, momentum, adamw]}, momentum: {values: [0.7, 0.8, 0.9],
                when: {optimizer: [momentum]}}, epochs: {min: 1, max: 5, when: {momentum: [0.9]}},
                seed: {values: [1, 2], when: {momentum: [0.8, 0.9], optimizer: [momentum, sgd]}}}""",
            2 + (1 + 1 * 2 + 5 * 2),
        ),
        # Conditions that can never hold together.
        (
            """{method: {values: [full, head]}, epochs: {values: [1, 2], when: {method: [head]}},
                seed: {values: [1, 2, 3], when: {method: [full], epochs: [1]}}}""",
            1 + 2,
        ),
    ],
)
def test_known_sizes(text: str, size: int) -> None:
    assert space(text).size() == size


@pytest.mark.parametrize("ask", [SearchSpace.combinations, SearchSpace.size])
def test_a_parameter_that_takes_any_number_is_named_with_the_remedy(ask: Any) -> None:
    with pytest.raises(SpaceError) as caught:
        ask(space("{epochs: {min: 1, max: 3}, dropout: {min: 0.0, max: 0.3}}"))
    assert str(caught.value) == (
        "Space s, dropout takes any number of a range, so the combinations of this space cannot be counted; list its "
        "`values:`, or give it steps by `distribution: q_uniform` with a `q`."
    )


def test_a_condition_on_a_grid_holds_however_optuna_rounds() -> None:
    grid = space("""
    warmup_ratio: {distribution: q_uniform, min: 0.0, max: 0.2, q: 0.05}
    epochs: {value: 9, when: {warmup_ratio: [0.15]}}
    """)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [grid.suggest(study.ask()) for _ in range(60)]
    rounded = [values for values in drawn if values["warmup_ratio"] == 0.15000000000000002]
    assert rounded
    assert all(("epochs" in values) == (round(float(values["warmup_ratio"] or 0), 9) == 0.15) for values in drawn)
    assert grid.size() == 5
