"""What is exported, which trial it is of, and that it is read back equal or refused."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpo.config.hyperparameters import ADDED_LATER, Hyperparameters
from hpo.config.loading import load_config
from hpo.config.parsing import parse_yaml
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError, NoResultError
from hpo.export.configs import configuration_of, digest_of, stored_verdict, to_json, to_yaml
from hpo.export.exported_file import Exported, read_exported
from hpo.messages import Assignment, HeldOutEvaluation, Milestone, Scores
from hpo.search.pruners import trial_milestones
from hpo.space.space_file import space_of
from hpo.store.database import open_database
from hpo.store.results import ConfirmingRun, StudyResults, read_results
from hpo.store.results import TestEvaluation as Look
from hpo.verdict.findings import Confirmed, Interval, Verdict, verdict_to_plain


def verdict(recommended: int) -> Verdict:
    confirmed = Confirmed(
        trial=recommended,
        is_default=False,
        scores=(0.8, 0.9),
        score=0.85,
        interval=Interval(low=0.75, high=0.95),
        search_score=0.97,
        seconds=1.0,
    )
    return Verdict(
        metric="f1",
        rows=300,
        unseen=True,
        selection_bias=0.0,
        seed_noise=0.07,
        confirmed=(confirmed,),
        baselines=(),
        differences=(),
        best_of_search=0.9,
        winner=recommended,
        recommended=recommended,
        sentences=("Take it.",),
    )


def worst(results: StudyResults) -> int:
    return results.leaderboard[-1].number


@pytest.mark.parametrize("write", [to_yaml, to_json])
def test_each_format_is_read_back_equal(content: dict[str, Any], write: Callable[..., str], tmp_path: Path) -> None:
    text = write(content)
    assert parse_yaml(text, "best") == content
    path = tmp_path / "best"
    path.write_text(text)
    assert read_exported(path) == Exported.model_validate(content)


def test_without_a_verdict_the_search_s_best_is_taken(results: StudyResults) -> None:
    found = configuration_of(results, stored_verdict(results))
    assert (found["trial"], found["chosen_by"], found["confirmed"]) == (results.best.number, "search", None)
    assert found["score"] == results.best.score


def test_a_verdict_s_trial_is_taken_with_its_confirmed_score(results: StudyResults) -> None:
    found = configuration_of(results, verdict(worst(results)))
    assert (found["trial"], found["chosen_by"], found["seed_noise"]) == (worst(results), "verdict", 0.07)
    assert found["confirmed"] == {
        "score": 0.85, "low": 0.75, "high": 0.95, "scores": [0.8, 0.9], "rows": 300, "unseen": True,
    }  # fmt: skip
    assert found["verdict"] == verdict_to_plain(verdict(worst(results)))
    assert Exported.model_validate(found).confirmed is not None


def test_a_trial_asked_for_is_taken_whatever_the_verdict(results: StudyResults) -> None:
    asked = results.best.number
    found = configuration_of(results, verdict(worst(results)), trial=asked)
    assert (found["trial"], found["chosen_by"], found["confirmed"]) == (asked, "user", None)


def test_a_test_score_goes_with_its_interval_and_with_which_look_it_was(results: StudyResults) -> None:
    first, second = (trial.number for trial in results.leaderboard[:2])
    scores = Scores(metric="f1", values={"f1": 0.9}, rows=500)
    held_out = HeldOutEvaluation(scores=scores, deviations=(0.01, -0.01))
    looks = tuple(Look(trial=trial, held_out=held_out, read_at=0.0) for trial in (second, first))

    found = configuration_of(replace(results, test=looks), None)
    assert (found["trial"], found["test"]) == (first, {"f1": 0.9})
    assert found["test_look"]["look"] == 2
    assert found["test_look"]["interval"]["low"] < 0.9 < found["test_look"]["interval"]["high"]
    assert Exported.model_validate(found).test_look is not None
    assert configuration_of(results, None)["test_look"] is None


def test_a_trial_that_is_not_there_or_has_no_score_is_refused(results: StudyResults) -> None:
    with pytest.raises(ConfigurationError, match="no trial 9; its trials are 0 to 2"):
        configuration_of(results, None, 9)
    given_up = replace(results, trials=(*results.trials[:2], replace(results.trials[2], state="PRUNED")))
    with pytest.raises(NoResultError, match="Trial 2 of the study 'tiny' is PRUNED"):
        configuration_of(given_up, None, 2)
    waiting = replace(results.trials[2], state="WAITING", configuration={})
    with pytest.raises(NoResultError, match="Trial 2 of the study 'tiny' has not begun"):
        configuration_of(replace(results, trials=(*results.trials[:2], waiting)), None, 2)


def test_a_default_that_the_search_did_not_train_to_its_end_is_exported_as_it_was_confirmed(
    results: StudyResults,
) -> None:
    """The pruner paused it early, but the verdict recommends it: its first confirming run was a whole training."""
    paused = replace(results.trials[0], state="PRUNED", ending="paused", score=0.1, best_epoch=0.1)
    scores = [Scores(metric="f1", values={"f1": score}, rows=500) for score in (0.9, 0.8)]
    runs = tuple(
        ConfirmingRun(
            trial=number, confirms=0, seed=70 + number, validation=of_run, train=None, epoch=2.0, seconds=1.0,
            held_out=HeldOutEvaluation(scores=of_run, deviations=(0.01, -0.01)),
        )
        for number, of_run in enumerate(scores)
    )  # fmt: skip
    found = configuration_of(
        replace(results, trials=(paused, *results.trials[1:]), confirmation=runs[::-1]), verdict(recommended=0)
    )
    assert (found["score"], found["best_epoch"], found["seed"]) == (0.9, 2.0, 70)
    assert found["validation"] == {"f1": 0.9}
    assert Exported.model_validate(found).digest == digest_of(
        Hyperparameters.model_validate(found["hyperparameters"]), 70
    )


def test_it_is_the_assignment_that_the_search_gave(exported: Exported, config: StudyConfig) -> None:
    space = space_of(config.space)
    built = Assignment(
        trial=exported.trial, attempt=1, hyperparameters=exported.hyperparameters, seed=exported.seed,
        milestones=trial_milestones(config, space, exported.hyperparameters), maximum_passes=space.maximum_passes(),
    )  # fmt: skip
    assert exported.assignment() == built


def test_the_seed_noise_is_that_of_the_default_s_two_trials(results: StudyResults) -> None:
    first, second, *rest = results.trials
    twice = (
        replace(first, proposed_by="default", score=0.8),
        replace(second, proposed_by="default", score=0.9),
        *rest,
    )
    assert configuration_of(replace(results, trials=twice), None)["seed_noise"] == pytest.approx(0.1 / 2**0.5)
    assert configuration_of(results, None)["seed_noise"] is None


def test_the_best_milestone_is_the_one_that_its_epoch_tells(exported: Exported) -> None:
    for epoch, rung in ((1.0, 333), (2.0, 667), (3.0, 1000)):
        found = exported.model_copy(update={"best_epoch": epoch}).best_milestone
        assert found == Milestone(rung=rung, full=True)


def test_a_file_of_an_older_version_is_refused_by_what_it_lacks(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    old = {key: value for key, value in content.items() if key not in ("milestones", "maximum_passes")}
    path.write_text(to_yaml(old))
    with pytest.raises(ConfigurationError, match=r"old\.yaml has no milestones, maximum_passes: an older hpo wrote it"):
        read_exported(path)


def test_a_study_from_before_a_hyperparameter_came_is_read_as_one_that_left_it_alone(
    results: StudyResults, config: StudyConfig, tmp_path: Path
) -> None:
    """Its default is still one configuration with what is trained of it today, and its exports are today's."""
    assert isinstance(config.store.url, str)
    store = tmp_path / "old.db"
    shutil.copy(config.store.url.removeprefix("sqlite:///"), store)
    with closing(sqlite3.connect(store)) as connection, connection:
        for rowid, stored in connection.execute("SELECT rowid, configuration FROM hpo_attempts").fetchall():
            old = {name: value for name, value in json.loads(stored).items() if name not in ADDED_LATER}
            assert len(old) == len(json.loads(stored)) - len(ADDED_LATER)
            connection.execute("UPDATE hpo_attempts SET configuration = ? WHERE rowid = ?", (json.dumps(old), rowid))
    with closing(open_database(f"sqlite:///{store}")) as database:
        found = read_results(database)
    assert [trial.configuration for trial in found.trials] == [trial.configuration for trial in results.trials]
    assert configuration_of(found, None)["hyperparameters"] == configuration_of(results, None)["hyperparameters"]


def test_a_file_from_before_a_hyperparameter_came_is_taken_as_it_is(content: dict[str, Any], tmp_path: Path) -> None:
    old = {name: value for name, value in content["hyperparameters"].items() if name not in ADDED_LATER}
    told = json.dumps([old | {"seed": None}, content["seed"]], sort_keys=True)
    path = tmp_path / "best.json"
    path.write_text(to_json(content | {"hyperparameters": old, "digest": hashlib.sha256(told.encode()).hexdigest()}))
    assert read_exported(path) == Exported.model_validate(content)
    path.write_text(to_json(content | {"hyperparameters": old | {"head_rate": 2.0}}))
    with pytest.raises(ConfigurationError, match="were changed after hpo export wrote it"):
        read_exported(path)


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("study: x\n")
    with pytest.raises(ConfigurationError, match="a file that hpo export wrote"):
        read_exported(path)


def test_model_and_texts_may_lie_elsewhere_and_nothing_else(best_file: Path) -> None:
    found = read_exported(best_file, ["data.train=/there/texts.csv", "model.name=/there/model"])
    assert (found.data.train, found.model.name) == ("/there/texts.csv", "/there/model")
    with pytest.raises(ConfigurationError, match=r"Unknown key 'seed'.*Known: data, model"):
        read_exported(best_file, ["seed=3"])


def test_paths_in_the_folder_of_the_search_are_absolute_in_an_export(
    results: StudyResults, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {**results.configuration["data"], "train": texts_file.name, "validation": "hf://some/data", "test": "no.csv"}
    found = replace(results, configuration={**results.configuration, "data": data})
    monkeypatch.chdir(texts_file.parent)
    exported = configuration_of(found, None)["data"]
    assert [exported[name] for name in ("train", "validation", "test")] == [str(texts_file), "hf://some/data", "no.csv"]
    monkeypatch.chdir(tmp_path)
    assert configuration_of(found, None)["data"]["train"] == texts_file.name


def test_hpo_run_sends_such_a_file_to_the_verbs_for_it(best_file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"hpo train .*best\.yaml --output FOLDER.*hpo reproduce"):
        load_config(best_file)


@pytest.mark.parametrize(("key", "value"), [("learning_rate", 0.5), ("batch_size", 16)])
def test_a_file_whose_hyperparameters_were_changed_is_refused(best_file: Path, key: str, value: float) -> None:
    content = parse_yaml(best_file.read_text(), str(best_file))
    assert content["hyperparameters"][key] != value
    content["hyperparameters"][key] = value
    best_file.write_text(to_yaml(content))
    with pytest.raises(ConfigurationError, match="were changed after hpo export wrote it"):
        read_exported(best_file)
