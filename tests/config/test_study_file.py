"""Reading of a study: YAML 1.2, defaults, overrides by dotted path, and a sentence for every mistake."""

from pathlib import Path
from typing import Any

import pytest

from hpo.config.loading import load_config
from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.errors import ConfigurationError

MINIMAL: dict[str, Any] = {"study": "s", "model": {"name": "m"}, "data": {"train": "t.csv"}}
URL = "postgresql+psycopg://user:secret@host/database"
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
    """In YAML 1.2 `1e-1` is a number, and `off` and `no` are text."""
    study = load_config(study_file(tmp_path, WHOLE))
    assert (study.study, study.data.label_column, study.data.train) == ("off", "no", "texts.csv")
    assert study.data.validation_fraction == 0.1
    assert (study.seed, study.budget.trials, study.store.url) == (7, 12, "sqlite:///night.db")


def test_missing_keys_have_defaults() -> None:
    study = load_config(values=MINIMAL)
    assert (study.space, study.search.sampler, study.search.pruner) == ("auto", "tpe", "auto")
    assert (study.evaluation.folds, study.data.group_column) == (None, None)
    assert (study.budget.trials, study.budget.most_trials) == (None, 40)
    assert (study.task.metric, study.compute.device, study.compute.runner) == ("auto", "auto", "auto")


@pytest.mark.parametrize("limit", [{"time": "8h"}, {"until": "07:30"}, {"gpu_hours": 2}])
def test_a_budget_of_time_alone_has_no_limit_of_trials(limit: dict[str, object]) -> None:
    assert load_config(values=MINIMAL | {"budget": limit}).budget.most_trials is None
    assert load_config(values=MINIMAL | {"budget": limit | {"trials": 7}}).budget.most_trials == 7


@pytest.mark.parametrize("until", ["07:30", "2026-11-23", "2026-11-23 07:30", "2026-11-23T07:30:00+02:00"])
def test_a_time_of_the_end_needs_no_quotes(tmp_path: Path, until: str) -> None:
    """YAML reads some of these as dates and times."""
    study = load_config(study_file(tmp_path, WHOLE.replace("{trials: 12}", f"\n  until: {until}")))
    assert study.budget.until == until.replace("T", " ")


def test_values_replace_those_of_the_file_key_by_key(tmp_path: Path) -> None:
    values = {"budget": {"trials": 3}, "data": {"test_fraction": 0.1}}
    study = load_config(study_file(tmp_path, WHOLE), values)
    assert (study.budget.trials, study.data.test_fraction, study.data.label_column) == (3, 0.1, "no")


def test_a_dotted_key_is_read_as_nested_keys(tmp_path: Path) -> None:
    content = WHOLE + "\nevaluation.full_reports: 3\n"
    study = load_config(study_file(tmp_path, content), {"budget.trials": 7})
    assert (study.evaluation.full_reports, study.budget.trials) == (3, 7)
    assert load_config(values={"study": "s", "model.name": "m", "Data.Train": "t.csv"}).data.train == "t.csv"


def test_paths_may_be_texts_or_paths(tmp_path: Path) -> None:
    study = load_config(str(study_file(tmp_path, WHOLE)), {"model": {"name": tmp_path}, "space": tmp_path / "s.yaml"})
    assert (study.model.name, study.space) == (str(tmp_path), str(tmp_path / "s.yaml"))


def test_overrides_replace_values_and_later_ones_earlier_ones(tmp_path: Path) -> None:
    overrides = ["budget.trials=5", "budget.trials=6", "model.name=other=model", "task.metric=off", "seed=1"]
    study = load_config(study_file(tmp_path, WHOLE), {"budget": {"trials": 3}}, overrides)
    assert (study.budget.trials, study.model.name) == (6, "other=model")
    assert (study.task.metric, study.seed) == ("off", 1)


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("search.startup_trials=null", ("search", "startup_trials"), None),
        ("data.validation_fraction=25e-2", ("data", "validation_fraction"), 0.25),
        ("data.strict=true", ("data", "strict"), True),
        ("data.train=/a b/c.csv", ("data", "train"), "/a b/c.csv"),
        (" budget.trials = 9", ("budget", "trials"), 9),
        ("task.positive_label=0", ("task", "positive_label"), "0"),
        *((f"data.delimiter={sign}", ("data", "delimiter"), sign) for sign in ",|&*#%:"),
    ],
)
def test_the_value_of_an_override_is_yaml_or_a_sign(override: str, path: tuple[str, str], expected: object) -> None:
    study = load_config(values=MINIMAL, overrides=[override])
    assert getattr(getattr(study, path[0]), path[1]) == expected


@pytest.mark.parametrize(
    ("values", "pruner"),
    [
        ({}, "promotion"),
        ({"evaluation": {"rungs": 0}}, "asynchronous_median"),
        ({"evaluation": {"folds": 5}}, "wilcoxon"),
        ({"search": {"pruner": "none"}, "evaluation": {"folds": 5}}, "none"),
        ({"search": {"pruner": "threshold", "lowest_score": 0.5}, "evaluation": {"folds": 5}}, "threshold"),
        ({"search": {"pruner": "threshold", "lowest_score": 0.5}}, "threshold"),
        ({"search": {"pruner": "hyperband"}}, "hyperband"),
    ],
)
def test_the_pruner_is_the_default_of_the_evaluation_or_the_given_one(values: dict[str, Any], pruner: str) -> None:
    assert load_config(values=MINIMAL | values).pruner == pruner


def test_fractions_are_only_limited_if_they_divide_the_training_rows() -> None:
    """With folds no validation is split off, and a separate source takes no training rows."""
    fractions = {"train": "t.csv", "validation_fraction": 0.6, "test_fraction": 0.4}
    assert load_config(values=MINIMAL | {"data": fractions, "evaluation": {"folds": 2}}).data.test_fraction == 0.4
    assert load_config(values=MINIMAL | {"data": fractions | {"validation": "v.csv"}}).data.validation == "v.csv"
    assert load_config(values=MINIMAL | {"data": fractions | {"test": "e.csv"}}).data.test == "e.csv"


def test_reading_does_not_change_the_given_values() -> None:
    values = MINIMAL | {"budget": {"trials": 3}, "space": SPACE}
    before = repr(values)
    load_config(values=values, overrides=["budget.trials=5", "space.epochs.max=4", "model.name=x"])
    assert repr(values) == before


NAME_RULE = "but a study's name is made of letters and digits of any script"
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"bugdet": {"trials": 3}}, "study: unknown key 'bugdet'. Did you mean 'budget'? Known: "),
    (
        {"budget": {"trails": 3}},
        "study: unknown key 'budget.trails'. Did you mean 'budget.trials'? Known: budget.gpu_hours, ",
    ),
    (
        {"compute": {"slots": "two"}},
        "study: 'compute.slots' is 'two', but it should be a valid integer, unable to parse string as an integer, or "
        "'auto'.",
    ),
    ({"budget": {"trials": 0}}, "study: 'budget.trials' is 0, but it should be greater than or equal to 1."),
    ({"budget": {"trials": "many"}}, "study: 'budget.trials' is 'many', but it should be a valid integer"),
    (
        {"budget": [3]},
        "study: 'budget' is [3], but it is a section, of `key: value` lines. Known: budget.trials, budget.time, ",
    ),
    *(
        ({part: {key: True}}, f"study: '{part}.{key}' is 'true', but it should be a valid {kind}")
        for part, key, kind in (
            ("compute", "slots", "integer, unable to parse string as an integer, or 'auto'."),
            ("budget", "trials", "integer"),
            ("budget", "gpu_hours", "number"),
        )
    ),
    ({"search": {"sampler": "tpee"}}, "study: 'search.sampler' cannot be 'tpee'. Did you mean 'tpe'? Known: "),
    ({"search": {"pruner": "medain"}}, "study: 'search.pruner' cannot be 'medain'. Did you mean 'median'? Known:"),
    ({"study": "../up"}, f"study: 'study' is '../up', {NAME_RULE}"),
    ({"study": "a\x00b"}, f"study: 'study' is 'a\\x00b', {NAME_RULE}"),
    ({"study": "a/b"}, f"study: 'study' is 'a/b', {NAME_RULE}"),
    ({"study": ""}, f"study: 'study' is '', {NAME_RULE}"),
    ({"study": "n" * 129}, "study: 'study' is "),
    ({"space": 3}, "study: 'space' is 3, but it should be a valid string."),
    ({"data": {}}, "study: 'data.train' is missing."),
    (
        {"data": {"train": "t.csv", "validation_fraction": 0.6, "test_fraction": 0.4}},
        "study: data.validation_fraction and data.test_fraction take 100% of the training rows; leave",
    ),
    (
        {"search": {"pruner": "median"}, "evaluation": {"folds": 3}},
        "study: search.pruner is median, which judges learning curves, but with evaluation.folds a trial's steps "
        "are folds; choose wilcoxon or threshold or none.",
    ),
    (
        {"search": {"pruner": "wilcoxon"}},
        "study: search.pruner is wilcoxon, which compares trials fold by fold; give evaluation.folds, or choose "
        "promotion.",
    ),
    (
        {"search": {"pruner": "threshold"}},
        "study: search.pruner is threshold; give search.lowest_score, the score below which it prunes.",
    ),
    (
        {"data": {"train": "t.csv", "validation": "v.csv"}, "evaluation": {"folds": 3}},
        "study: evaluation.folds makes validation from data.train, fold by fold, so data.validation must be left "
        "out; put its rows into data.train, or leave the folds out.",
    ),
    ({"evaluation": {"folds": 1}}, "study: 'evaluation.folds' is 1, but it should be greater than or equal to 2."),
    ({"budget": {"trials": 3}, "budget.trials": 4}, "'budget.trials' is given twice."),
    ({"lr": 1e-5}, "Unknown key 'lr' in 'lr'. Here it is space.learning_rate, as in space.l"),
    ({"evaluation.steps": 10}, "study: unknown key 'evaluation.steps'. Known: evaluation."),
    ({"Data.Trian": "t.csv"}, "Unknown key 'Data' in 'Data.Trian'. Did you mean 'data'?"),
    ({"store": {"url": [URL]}}, "study: 'store.url' is (not shown), but it should be a valid string."),
    ({"store": {"ulr": URL}}, "study: unknown key 'store.ulr'. Did you mean 'store.url'?"),
    ({"store": [URL]}, "study: 'store' is (not shown), but it is a section, of"),
]
FORM = "An override reads `dotted.path=value`"
BAD_OVERRIDES = [
    ("budget.trials", f"{FORM}, as in budget.trials=40, but got 'budget.trials'."),
    ("=3", FORM),
    ("budget..trials=3", FORM),
    ("bugdet.trials=3", "Unknown key 'bugdet' in 'bugdet.trials'. Did you mean 'budget'?"),
    ("budget.trails=3", "study: unknown key 'budget.trails'. Did you mean 'budget.trials'?"),
    ("seed.of=3", "The override of 'seed.of' leads into 'seed', which is a single value and has no keys."),
    ("budget.trials={a", "the value of budget.trials is not valid YAML"),
    ("space.learning_rat.max=1", "The space has no parameter 'learning_rat'. Did you mean 'learning_rate'?"),
    (
        "space.learning_rate.max.x=1",
        "The override of 'space.learning_rate.max.x' leads into 'max', which is a single value",
    ),
    (f"stroe={URL}", "Unknown key 'stroe' in 'stroe'. Did you mean 'store'?"),
    (URL, f"{FORM}, as in budget.trials=40, but got"),
    (f"store..url={URL}", FORM),
    (f"store.url=[{URL}", "the value of store.url is not valid YAML"),
    (f"store.url={{{URL}", "the value of store.url is not valid YAML"),
    (f"store.url.x={URL}", "study: 'store.url' is (not shown), but it should be a valid string."),
]


@pytest.mark.parametrize(
    ("values", "overrides", "sentence"),
    [
        *((values, [], sentence) for values, sentence in MISTAKES),
        *(({"seed": 1, "space": SPACE}, [override], sentence) for override, sentence in BAD_OVERRIDES),
    ],
)
def test_a_mistake_is_refused_in_one_sentence_without_the_password_of_the_store(
    values: dict[str, Any], overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_config(values=MINIMAL | values, overrides=overrides)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_a_store_may_be_given_as_its_url_alone(tmp_path: Path) -> None:
    alone = load_config(values=MINIMAL | {"store": URL})
    assert alone == load_config(values=MINIMAL | {"store": {"url": URL}})
    both = load_config(values=MINIMAL | {"store": {"url": URL, "keep_weights": 0}})
    assert load_config(values=MINIMAL | {"store": URL, "store.keep_weights": 0}) == both
    assert load_config(values=MINIMAL | {"store.keep_weights": 0, "store": URL}) == both
    assert load_config(values=MINIMAL | {"store": URL}, overrides=["store.keep_weights=0"]) == both
    assert load_config(values=MINIMAL, overrides=["store.keep_weights=0", f"store={URL}"]) == both
    file = study_file(tmp_path, WHOLE.replace('{url: "sqlite:///night.db"}', URL))
    assert load_config(file, {"store": {"keep_weights": 0}}).store == both.store
    assert load_config(values=MINIMAL, overrides=[f"store={URL}"]) == alone


@pytest.mark.parametrize(
    "given",
    [
        {"budget.trials": 4, "n_trials": 3},
        {"n_trials": 3, "budget.trials": 4},
        {"n_trials": 3, "num_trials": 4},
        {"budget": {"n_trials": 4}, "budget.trials": 3},
        {"data": {"train": "t.csv", "text-column": "q"}, "data.text_column": "r"},
        {"Seed": 1, "random_state": 2},
        {"space": SPACE, "space.learning_rate.max": 1},
        {"space": "encoder", "space.lr.max": 1, "space.learning_rate": {"value": 1}},
    ],
)
def test_a_key_that_is_given_twice_under_any_names_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"is given twice|unknown key '(n|num)_trials'|unknown key 'random_state'"
    ):
        load_config(values=MINIMAL | given)


def test_a_study_cannot_be_changed() -> None:
    study = load_config(values=MINIMAL)
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


def test_a_study_survives_a_round_trip_through_json() -> None:
    study = load_config(values=MINIMAL | {"space": SPACE})
    assert StudyConfig.model_validate(study.model_dump(mode="json")) == study


@pytest.mark.parametrize(
    ("compute", "sentence"),
    [
        ({"gpus_per_trial": 1.5}, "several GPUs of a trial are whole ones"),
        ({"gpus_per_trial": 2, "ranks": 3}, "each rank has a GPU of its own"),
        ({"gpus_per_trial": 0.5, "ranks": 2}, "each rank has a GPU of its own"),
        ({"gpus_per_trial": 2, "device": "cpu"}, "but compute.device is cpu"),
    ],
)
def test_impossible_numbers_of_gpus_are_refused(compute: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ComputeConfig.model_validate(compute)


def test_a_trial_has_a_rank_for_each_of_its_gpus() -> None:
    assert ComputeConfig().ranks_of_trial == 1
    assert ComputeConfig(gpus_per_trial=0.5).ranks_of_trial == 1
    assert ComputeConfig(gpus_per_trial=2).ranks_of_trial == 2
    assert ComputeConfig(ranks=3).ranks_of_trial == 3
