"""Reading a study: YAML 1.2, defaults, overrides by dotted path, and every mistake in one sentence."""

from pathlib import Path
from typing import Any

import pytest

from hpo.config.study_file import StudyConfig, load_study
from hpo.errors import ConfigurationError

MINIMAL: dict[str, Any] = {"study": "s", "model": {"name": "m"}, "data": {"train": "t.csv"}}
SPACE = {"learning_rate": {"min": 1e-5, "max": 1e-3}, "epochs": {"min": 1, "max": 3}}


def study_file(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


WHOLE = """
study: off
seed: 7
model: {name: ./model}
data:
  train: texts.csv
  validation_fraction: 1e-1
  label_column: no
space:
  learning_rate: {min: 1e-5, max: 1e-3}
budget: {trials: 12}
store: {url: "sqlite:///night.db"}
"""


def test_a_file_is_read_as_yaml_1_2(tmp_path: Path) -> None:
    """`1e-1` is a number, and `off` and `no` are names."""
    study = load_study(study_file(tmp_path, WHOLE))
    assert study.study == "off"
    assert study.data.label_column == "no"
    assert study.data.validation_fraction == 0.1
    assert study.data.train == Path("texts.csv")
    assert (study.seed, study.budget.trials, study.store.url) == (7, 12, "sqlite:///night.db")


def test_what_is_not_given_has_its_default() -> None:
    study = load_study(values=MINIMAL)
    assert (study.space, study.search.sampler, study.search.pruner) == ("encoder", "tpe", "median")
    assert (study.budget.trials, study.task.metric, study.compute.device) == (40, "auto", "auto")


def test_values_replace_those_of_the_file_key_by_key(tmp_path: Path) -> None:
    values = {"budget": {"trials": 3}, "data": {"test_fraction": 0.1}}
    study = load_study(study_file(tmp_path, WHOLE), values)
    assert study.budget.trials == 3
    assert study.data.test_fraction == 0.1
    assert study.data.label_column == "no"


def test_overrides_win_the_later_over_the_earlier(tmp_path: Path) -> None:
    overrides = ["budget.trials=5", "budget.trials=6", "model.name=other=model", "task.metric=off", "seed=1"]
    study = load_study(study_file(tmp_path, WHOLE), {"budget": {"trials": 3}}, overrides)
    assert study.budget.trials == 6
    assert study.model.name == "other=model"
    assert study.task.metric == "off"
    assert study.seed == 1


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("search.startup_trials=null", ("search", "startup_trials"), None),
        ("data.validation_fraction=25e-2", ("data", "validation_fraction"), 0.25),
        ("data.strict=true", ("data", "strict"), True),
        ("data.train=/a b/c.csv", ("data", "train"), Path("/a b/c.csv")),
        (" budget.trials = 9", ("budget", "trials"), 9),
    ],
)
def test_an_overrides_value_is_yaml(override: str, path: tuple[str, str], expected: object) -> None:
    study = load_study(values=MINIMAL, overrides=[override])
    assert getattr(getattr(study, path[0]), path[1]) == expected


def test_an_override_reaches_into_a_space_of_the_file() -> None:
    study = load_study(values=MINIMAL | {"space": SPACE}, overrides=["space.learning_rate.max=10"])
    assert study.space["learning_rate"] == {"min": 1e-5, "max": 10}  # type: ignore[index]


def test_an_override_reaches_into_a_named_space() -> None:
    named = load_study(values=MINIMAL | {"space": "quickstart"})
    study = load_study(values=MINIMAL | {"space": "quickstart"}, overrides=["space.epochs.max=5"])
    assert named.space == "quickstart"
    assert study.space["epochs"]["max"] == 5  # type: ignore[index]
    assert study.space["optimizer"]["values"] == ["adamw", "momentum"]  # type: ignore[index]


def test_what_is_given_is_not_changed() -> None:
    values = MINIMAL | {"budget": {"trials": 3}, "space": SPACE}
    before = repr(values)
    load_study(values=values, overrides=["budget.trials=5", "space.epochs.max=4", "model.name=x"])
    assert repr(values) == before


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bugdet": {"trials": 3}}, "study: unknown key 'bugdet'. Did you mean 'budget'? Known: "),
        ({"budget": {"trails": 3}}, "study: unknown key 'budget.trails'. Did you mean 'trials'? Known: trials."),
        ({"budget": {"trials": 0}}, "study: 'budget.trials' is 0, but it should be greater than or equal to 1."),
        ({"budget": {"trials": "many"}}, "study: 'budget.trials' is 'many', but it should be a valid integer"),
        ({"budget": 3}, "study: 'budget' is 3, but it should be a valid dictionary"),
        ({"search": {"sampler": "tpee"}}, "study: 'search.sampler' cannot be 'tpee'. Did you mean 'tpe'? Known: "),
        ({"study": "../up"}, "study: 'study' is '../up', but string should match pattern"),
        ({"study": "a\x00b"}, "study: 'study' is 'a\\x00b', but string should match pattern"),
        ({"study": "n" * 129}, "study: 'study' is "),
        ({"data": {}}, "study: 'data.train' is missing."),
        (
            {"data": {"train": "t.csv", "validation_fraction": 0.6, "test_fraction": 0.4}},
            "study: data.validation_fraction and data.test_fraction take 100% of the training rows; leave",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_study(values=MINIMAL | values)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("budget.trials", "An override reads `dotted.path=value`, as in budget.trials=40, but got 'budget.trials'."),
        ("=3", "An override reads `dotted.path=value`"),
        ("budget..trials=3", "An override reads `dotted.path=value`"),
        ("bugdet.trials=3", "Unknown key 'bugdet' in 'bugdet.trials=3'. Did you mean 'budget'?"),
        ("budget.trails=3", "study: unknown key 'budget.trails'. Did you mean 'trials'?"),
        ("seed.of=3", "'seed.of=3' leads into 'seed', which is a single value and has no keys."),
        ("budget.trials={", "the value of budget.trials is not valid YAML"),
        ("space.learning_rat.max=1", "The space has no parameter 'learning_rat'. Did you mean 'learning_rate'?"),
        ("space.learning_rate.max.x=1", "'space.learning_rate.max.x=1' leads into 'max', which is a single value"),
    ],
)
def test_a_bad_override_is_told_in_one_sentence(override: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_study(values=MINIMAL | {"seed": 1, "space": SPACE}, overrides=[override])
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_study_cannot_be_changed() -> None:
    study = load_study(values=MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        study.seed = 3  # type: ignore[misc]


def test_every_field_is_documented() -> None:
    def undocumented(model: type[Any], path: str) -> list[str]:
        found: list[str] = []
        for name, field in model.model_fields.items():
            inner = getattr(field.annotation, "model_fields", None)
            if inner is not None:
                found += undocumented(field.annotation, f"{path}{name}.")
            elif not field.description:
                found.append(f"{path}{name}")
        return found

    assert undocumented(StudyConfig, "") == []


def test_a_recorded_study_is_the_same_study() -> None:
    study = load_study(values=MINIMAL | {"space": SPACE})
    assert StudyConfig.model_validate(study.model_dump(mode="json")) == study
