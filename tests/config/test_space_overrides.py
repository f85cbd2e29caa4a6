"""Overrides of a study's space: a value at a dotted path changes one parameter, and fits what else the space says."""

from typing import Any, get_args

import optuna
import pytest

from hpo.config.hyperparameters import APPLIES_TO, MethodName, OptimizerName, ScheduleName
from hpo.config.loading import load_config
from hpo.errors import ConfigurationError
from hpo.space.domains import Constant
from hpo.space.space_file import read_space, shipped_spaces, space_of
from tests.config.test_study_file import MINIMAL, SPACE


def test_an_override_changes_a_space_in_the_study_file() -> None:
    study = load_config(values=MINIMAL | {"space": SPACE}, overrides=["space.learning_rate.max=10"])
    assert study.space["learning_rate"] == {"min": 1e-5, "max": 10}  # type: ignore[index]


def test_an_override_changes_a_named_space() -> None:
    named = load_config(values=MINIMAL | {"space": "quickstart"})
    study = load_config(values=MINIMAL | {"space": "quickstart"}, overrides=["space.epochs={min: 2, max: 5}"])
    assert named.space == "quickstart"
    assert study.space["epochs"]["max"] == 5  # type: ignore[index]
    assert study.space["optimizer"]["values"] == ["adamw", "momentum"]  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
@pytest.mark.parametrize(
    ("override", "rates"),
    [
        ("space.learning_rate.value=3e-5", (3e-5,)),
        ("space.learning_rate={value: 3e-5}", (3e-5,)),
        ("space.learning_rate.values=[1e-5, 3e-5]", (1e-5, 3e-5)),
    ],
)
def test_an_override_replaces_a_relative_rate_by_absolute_values(
    name: str, override: str, rates: tuple[float, ...]
) -> None:
    space = space_of(load_config(values=MINIMAL | {"space": name}, overrides=[override]).space)
    values = space.default_values()
    assert {space.hyperparameters(values | {"learning_rate": rate}).learning_rate for rate in rates} == set(rates)
    assert space.largest("learning_rate") == 3e-5


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field, names in {"optimizer": OptimizerName, "method": MethodName, "schedule": ScheduleName}.items()
        for value in get_args(names)
    ],
)
def test_an_override_fixes_any_choice_of_a_shipped_space(name: str, field: str, value: str) -> None:
    written = read_space(name)
    overrides = [f"space.{field}={{value: {value}}}"]
    rates = written["learning_rate"]["relative_to"]
    path, rates = ("relative_to.optimizer", rates["optimizer"]) if "optimizer" in rates else ("relative_to", rates)
    if field == "optimizer" and value not in rates:
        overrides.append(f"space.learning_rate.{path}.{value}=1e-2")
        # Schedule-free weights are an average, so a schedule and the proximal L1 are refused.
        if value == "schedule_free_adamw":
            overrides += ["space.schedule={value: constant}", "space.l1_form={value: penalty}"]
    if value == "lora":
        overrides.append("space.regularize_towards={value: zero}")
        if "lora" not in written["learning_rate"]["relative_to"].get("method", {"lora": 10}):
            overrides.append("space.learning_rate.relative_to.method.lora=10")
    if field == "schedule" and "schedule_free_adamw" in str(written.get("optimizer")):
        overrides.append("space.optimizer={value: sgd}")
    space = space_of(load_config(values=MINIMAL | {"space": name}, overrides=overrides).space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        values = space.suggest(study.ask())
        assert getattr(space.hyperparameters(values), field) == value
    assert getattr(space.hyperparameters(space.default_values()), field) == value
    left_out = {name for name, (other, fitting) in APPLIES_TO.items() if other == field and value not in fitting}
    assert not left_out & {parameter.name for parameter in space.parameters}


@pytest.mark.parametrize("space", [["learning_rate"], 3, None])
def test_an_override_of_an_invalid_space_is_refused(space: object) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_config(values=MINIMAL | {"space": space}, overrides=["space.epochs.max=3"])
    assert f"'space' is {space!r}, so it has no 'epochs' to override; give it the name" in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"space": "encoder", "space.learning_rate": {"value": 1e-5}},
        {"space": "encoder", "space.lr.value": 1e-5},
        {"space": {"learning_rate": {"value": 1e-5}}},
    ],
)
def test_a_dotted_key_sets_a_parameter_of_the_space(given: dict[str, Any]) -> None:
    space = space_of(load_config(values=MINIMAL | given).space)
    assert next(one for one in space.parameters if one.name == "learning_rate").domain == Constant(value=1e-5)


def test_several_dotted_keys_set_parts_of_one_parameter() -> None:
    given = {"space": "encoder", "space.epochs.min": 2, "space.epochs.max": 9, "store": "a.db"}
    by_overrides = load_config(values=MINIMAL, overrides=[f"{key}={value}" for key, value in given.items()])
    assert load_config(values=MINIMAL | given) == by_overrides
    assert space_of(by_overrides.space).largest("epochs") == 9
