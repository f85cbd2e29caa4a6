"""`hpo confirm`: of a study file or of the study of the store, as it was begun, and what it refuses."""

import shlex
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from hpo.cli.study_arguments import study_of_store
from hpo.config.parsing import write_yaml
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError
from hpo.search.study_opening import leading
from hpo.space.space_file import space_of
from hpo.verdict.judgement import verdict_on
from tests.command_line import Hpo
from tests.search.scripted import everything, written
from tests.whole.test_confirmation import changed, results_of


def test_hpo_confirm_says_the_verdict_and_writes_what_to_take(config: StudyConfig, hpo: Hpo, tmp_path: Path) -> None:
    values = config.model_dump(mode="json")
    (tmp_path / "study.yaml").write_text(write_yaml(values))
    assert hpo("confirm", "study.yaml").err.startswith("hpo: confirmation.finalists is 0")
    words = ("study.yaml", "budget.trials=6", "confirmation.finalists=1")
    assert "There is no store at" in hpo("confirm", *words).err
    assert hpo("run", "study.yaml", "budget.trials=6").code == 0
    refused = hpo("confirm", *words, "--study", "other")
    assert refused.code == ConfigurationError.exit_code
    assert "The store holds no study 'other' to confirm; begin it with hpo run. Known: tiny." in refused.err
    names = optuna.get_all_study_names(storage=config.store.url)
    assert names == ["tiny"], "nothing was made in the store"
    answer = hpo("confirm", *words, "--output", "taken.yaml")
    assert answer.code == 0
    with results_of(config) as results:
        verdict = verdict_on(results)
        assert verdict is not None
        assert len(results.trials) == 6
    for sentence in verdict.sentences:
        assert sentence in answer.out
    taken = yaml.safe_load((tmp_path / "taken.yaml").read_text())
    assert (taken["trial"], taken["chosen_by"]) == (verdict.recommended, "verdict")
    best = hpo("best", "--store", config.store.url)
    first, chosen = best.out.splitlines()[0], f"Trial {verdict.recommended} of study tiny, recommended by the verdict"
    assert first == verdict.sentences[0]
    assert chosen in best.out


@pytest.mark.slow
def test_hpo_confirm_alone_confirms_the_study_of_the_store_as_it_was_begun(
    config: StudyConfig, hpo: Hpo, tmp_path: Path
) -> None:
    begun = changed(config, budget={"trials": 6, "time": "5m"}, store={"keep_weights": 2})
    (tmp_path / "study.yaml").write_text(write_yaml(begun.model_dump(mode="json")))
    assert hpo("run", "study.yaml", "confirmation.validation_share=0").code == 0
    weights = sorted((tmp_path / "hpo-files" / "tiny").rglob("weights.safetensors"))
    assert len(weights) == 2
    store = ("--store", config.store.url)
    words = ("confirmation.finalists=1", "confirmation.runs=5", "confirmation.seeds=3")
    assert "There is no store at" in hpo("confirm", "--store", "none.db", *words).err
    assert "Known: tiny." in hpo("confirm", *store, "--study", "tinny", *words).err
    assert (
        "give the store and the study by --store and --study"
        in hpo("confirm", *store, "store.url=other.db", *words).err
    )
    assert "confirm needs --train" in hpo("confirm", *store, "--model", "elsewhere").err
    assert "hpo confirm takes one study file" in hpo("confirm", *store, "a.yaml", "b.yaml").err
    assert "secret" not in hpo("confirm", *store, "a.yaml", "store.url", "postgresql://me:secret@host/database").err
    answer = hpo("confirm", *store, *words)
    assert answer.code == 0, answer.err
    assert sorted((tmp_path / "hpo-files" / "tiny").rglob("weights.safetensors")) == weights
    assert "For more, add confirmation.runs=N, N above 5." in hpo("confirm", *store, *words).out
    for _ in range(2):
        answer = hpo("confirm", *store, *words, "confirmation.runs=6")
    assert "For more, add confirmation.seeds=N, N above 3, and confirmation.runs=N, N above 6." in answer.out
    for verb in ("best", "export", "confirm", "report"):
        assert "name that one: --study tiny." in hpo(verb, *store, "--study", "tiny (confirmation)").err
    drawn = hpo("curves", "export", *store, "--study", "tiny (confirmation)", "--output", "curves.jsonl")
    assert "name that one: --study tiny." in drawn.err
    with results_of(config) as results:
        assert len(results.confirmation) == 6
        assert len(results.trials) == 6
    # As a version of hpo under which trials score otherwise has left it.
    written(config.store.url, "UPDATE hpo_studies SET versions = '{}'")
    before = everything(config.store.url)
    refused = hpo("confirm", *store, *words, "confirmation.runs=8")
    assert refused.code == 2
    assert "The confirmation of 'tiny' was begun by another version of hpo" in refused.err
    assert everything(config.store.url) == before
    command = refused.err.strip().rpartition("delete its runs first: ")[2]
    assert hpo(*shlex.split(command)[1:], *store, "--yes").code == 0
    answer = hpo("confirm", *store, *words)
    assert answer.code == 0, answer.err
    with results_of(config) as results:
        assert len(results.confirmation) == 5


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ({}, {"trials": None, "time": "8h", "until": "07:30"}),
        ({"budget.time": "2h"}, {"trials": None, "time": "2h", "until": None}),
        ({"budget.until": "09:00"}, {"trials": None, "time": None, "until": "09:00"}),
        ({"arguments": ["budget.time=1h"]}, {"trials": None, "time": "1h", "until": None}),
    ],
)
def test_a_study_of_the_store_is_that_of_a_night_still_whose_times_are_replaced_by_one_that_is_given(
    config: StudyConfig, given: dict[str, Any], budget: dict[str, object]
) -> None:
    """Without a time it would be one of 40 trials, and its race another."""
    night = changed(config, budget={"trials": None, "time": "8h", "until": "07:30"})
    record(night)
    arguments = [*given.pop("arguments", ()), "store.disk_gib=3"]
    found = study_of_store(arguments, {"store.url": config.store.url, **given})
    assert found.budget.model_dump(include=budget.keys()) == budget
    assert found.budget.most_trials is None
    assert found.store == changed(night, store={"disk_gib": 3.0}).store
    assert space_of(found.space).to_mapping() == space_of(night.space).to_mapping()


def record(config: StudyConfig) -> None:
    """Begin a study, and nothing more."""
    with leading(config, space_of(config.space), data_fingerprint="any") as coordinator:
        coordinator.begin(metric="macro_f1", versions={})
