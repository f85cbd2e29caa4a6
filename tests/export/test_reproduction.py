"""An exported configuration gives its score again, to the last bit; and what is said where it does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from hpo.config.study_file import StudyConfig
from hpo.errors import DataError
from hpo.export.configs import configuration_of
from hpo.export.exported_file import Exported, read_exported
from hpo.export.retraining import (
    compute_of,
    differences_from_search,
    open_trainer,
    reproduction_of,
    retrain,
    study_and_splits,
)
from hpo.runners.run import run
from hpo.store.results import StudyResults
from hpo.verdict.findings import Interval
from tests.command_line import Hpo
from tests.models import write_texts


def test_every_trial_of_the_search_gives_its_score_again_to_the_last_bit(results: StudyResults) -> None:
    for trial in results.trials:
        exported = Exported.model_validate(configuration_of(results, None, trial=trial.number))
        place = study_and_splits(exported, compute_of(exported))
        report = retrain(open_trainer(exported, *place), exported.assignment(), lambda _: None)
        assert trial.validation is not None
        assert report.validation.values == trial.validation.values
        assert report.epoch == trial.best_epoch


def test_the_verb_says_so_and_writes_nothing(hpo: Hpo, best_file: Path) -> None:
    before = sorted(best_file.parent.rglob("*"))
    code, out, err = hpo("reproduce", best_file)
    assert (code, out.startswith("Reproduced to the last bit: f1 ")) == (0, True), err
    assert "epoch 3.00: f1" in err
    assert sorted(best_file.parent.rglob("*")) == before


def test_another_score_is_not_reproduced_and_has_an_exit_code_of_its_own(
    hpo: Hpo, best_file: Path, content: dict[str, Any]
) -> None:
    best_file.write_text(json.dumps(content | {"score": 0.25, "another_seed": {"low": 0.0, "high": 1.0}}))
    code, out, _ = hpo("reproduce", best_file, "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["expected"], found["reproduced"], found["to_the_last_bit"]) == (0.25, False, False)
    assert "in the file 0.250000, though nothing that is recorded differs. On a CPU" in found["sentence"]


def test_other_texts_are_refused(exported: Exported, tmp_path: Path) -> None:
    others = write_texts(tmp_path / "others.csv", rows=150, seed=1)
    elsewhere = exported.model_copy(update={"data": exported.data.model_copy(update={"train": str(others)})})
    with pytest.raises(DataError, match="are not those of the study 'tiny'"):
        study_and_splits(elsewhere, compute_of(elsewhere))


def test_texts_that_are_not_there_are_asked_for(exported: Exported) -> None:
    moved = exported.model_copy(update={"data": exported.data.model_copy(update={"train": "moved.csv"})})
    with pytest.raises(DataError, match=r"nothing at moved\.csv, where the search had its texts; say data\.train=FILE"):
        study_and_splits(moved, compute_of(moved))


def with_score(exported: Exported, **values: Any) -> Exported:
    return exported.model_copy(update={"score": 0.9, "metric": "f1", **values})


@pytest.mark.parametrize(
    ("score", "interval", "reproduced", "words"),
    [
        (0.9, None, True, "to the last bit"),
        (0.9000001, None, False, "cannot be told"),
        (
            0.87,
            (0.86, 0.89),
            True,
            "where 95% of runs under another seed lie, 0.8600 to 0.8900. What differs: torch",
        ),
        (0.895, (0.86, 0.89), True, "though not to the last bit"),
        (0.901, (0.86, 0.89), False, "Not reproduced: f1 is 0.901000, in the file 0.900000, not where 95% of runs"),
        (0.859, (0.86, 0.89), False, "not where"),
        (0.93, (0.86, 0.94), True, "where 95%"),
    ],
)
def test_how_near_is_near_enough(
    exported: Exported, score: float, interval: tuple[float, float] | None, reproduced: bool, words: str
) -> None:
    """The file's score may be a lucky one: what lies between it and what other seeds give is as near as they are."""
    near = None if interval is None else Interval(low=interval[0], high=interval[1])
    found = reproduction_of(with_score(exported, another_seed=near), score, ["torch: 1 before, 2 now"])
    assert found.reproduced is reproduced
    assert words in found.sentence


def test_on_a_gpu_an_equal_record_need_not_give_an_equal_number(exported: Exported) -> None:
    versions = exported.versions | {"device": "NVIDIA H200"}
    near = with_score(exported, another_seed=Interval(low=0.8, high=0.95), versions=versions)

    assert reproduction_of(near, 0.91, ()).reproduced
    assert "a GPU need not add in the same order" in reproduction_of(near, 0.91, ()).sentence
    assert not reproduction_of(with_score(exported, another_seed=Interval(low=0.8, high=0.95)), 0.91, ()).reproduced


def test_what_differs_is_named_but_for_what_has_no_part_in_training(exported: Exported) -> None:
    now = exported.versions | {"torch": "9.9", "threads": "7", "optuna": "0.1"}
    found = differences_from_search(exported.model_copy(update={"ranks": 2}), now)
    assert found == (
        f"torch: {exported.versions['torch']} before, 9.9 now", "threads: 1 before, 7 now", "ranks: 2 before, 1 now",
    )  # fmt: skip
    assert differences_from_search(exported, exported.versions) == ()


def test_it_computes_as_the_search_did_unless_told_otherwise(exported: Exported) -> None:
    assert compute_of(exported).model_dump(include={"device", "threads", "precision"}) == {
        "device": "cpu", "threads": 1, "precision": "fp32",
    }  # fmt: skip
    assert compute_of(exported, threads=2).threads == 2
    on_gpu = exported.model_copy(update={"versions": exported.versions | {"device": "NVIDIA H200", "threads": "9999"}})
    assert compute_of(on_gpu).device == "auto"
    assert (compute_of(on_gpu).threads or 0) < 9999


@pytest.mark.slow
def test_what_a_verdict_recommends_gives_its_score_in_the_search_though_rows_were_kept_from_that(
    config: StudyConfig, tmp_path: Path, hpo: Hpo
) -> None:
    values = config.model_dump(mode="json")
    values["data"] |= {"train": str(write_texts(tmp_path / "many.csv", rows=1200)), "validation_fraction": 0.6}
    values["store"] |= {"url": f"sqlite:///{tmp_path / 'kept.db'}"}
    values |= {"confirmation": {"finalists": 1, "runs": 4}}
    results = run(StudyConfig.model_validate(values))
    assert results.confirmed_on_unseen
    assert hpo("export", "--store", values["store"]["url"], "--output", "best.yaml")[0] == 0
    exported = read_exported(tmp_path / "best.yaml")
    searched = next(trial.score for trial in results.trials if trial.number == exported.trial)
    assert (exported.chosen_by, exported.score) == ("verdict", searched)
    code, out, err = hpo("reproduce", "best.yaml")
    assert (code, out.startswith("Reproduced to the last bit: f1 ")) == (0, True), out + err
