"""What follows a search: its best trained again on fresh seeds, baselines, a verdict, one look at the test split."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from threading import Event

import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.parsing import write_yaml
from hpo.config.study_file import StudyConfig
from hpo.config.times import LOCAL_ZONE
from hpo.data.splits import splits_of
from hpo.errors import NoResultError, StudyMismatchError
from hpo.messages import Action, Assignment, Outcome, WorkerSettings
from hpo.runners.callbacks import SearchCallback
from hpo.runners.confirmation import confirming_config
from hpo.runners.run import run
from hpo.search.budget import limits_of
from hpo.search.pruners import trial_milestones
from hpo.search.steering import ask_to_stop
from hpo.search.study_opening import leading
from hpo.space.space_file import space_of
from hpo.store.database import open_database
from hpo.store.results import StudyResults, read_results
from hpo.store.studies import confirmation_of, read_studies
from hpo.training.worker import open_worker, train
from hpo.verdict.judgement import verdict_on
from tests.command_line import Hpo
from tests.models import write_texts

CONFIRMS = {"finalists": 2, "seeds": 3, "share": 0.5, "audit": 0}


@pytest.fixture
def confirmed(config: StudyConfig) -> StudyConfig:
    """A study of ten trials, at whose end at most five runs confirm the best."""
    return changed(config, budget={"trials": 10}, confirmation=CONFIRMS)


def changed(config: StudyConfig, **sections: dict[str, object]) -> StudyConfig:
    values = config.model_dump(mode="json")
    for name, section in sections.items():
        values[name] = values[name] | section
    return StudyConfig.model_validate(values)


@contextmanager
def results_of(config: StudyConfig, name: str | None = None) -> Iterator[StudyResults]:
    database = open_database(config.store.url)
    try:
        yield read_results(database, name or config.study)
    finally:
        database.close()


class Diary(SearchCallback):
    """Keeps what it is told; stops the search at the confirming run of that number."""

    def __init__(self, stop: Event | None = None, at: int | None = None) -> None:
        self.assigned_ones: list[Assignment] = []
        self.sentences: tuple[str, ...] = ()
        self.looks: list[int] = []
        self._stop, self._at = stop, at

    def assigned(self, assignment: Assignment) -> None:
        self.assigned_ones.append(assignment)
        if self._stop and assignment.confirms is not None and assignment.trial == self._at:
            self._stop.set()

    def judged(self, sentences: tuple[str, ...]) -> None:
        self.sentences = tuple(sentences)

    def tested(self, trial: int, scores: object) -> None:
        self.looks.append(trial)


def test_a_search_ends_with_its_best_and_its_default_trained_again_on_common_fresh_seeds(
    confirmed: StudyConfig,
) -> None:
    diary = Diary()
    results = run(confirmed, diary)
    default = results.default
    assert default is not None
    runs = results.confirmation
    # Five runs are too few for two finalists; the fifth is the default's third.
    assert len(runs) == 5
    best = next(trial.number for trial in results.leaderboard if trial.configuration != default.configuration)
    assert {run.confirms for run in runs} == {default.number, best}
    seeds = {trial: [run.seed for run in runs if run.confirms == trial] for trial in (default.number, best)}
    assert (len(seeds[default.number]), len(seeds[best])) == (3, 2)
    assert seeds[default.number][:2] == seeds[best]
    assert not {trial.seed for trial in results.trials} & set(seeds[best])
    verdict = verdict_on(results)
    assert verdict is not None
    assert diary.sentences == verdict.sentences
    assert diary.looks == [verdict.recommended] == [look.trial for look in results.test]
    assert set(results.baselines) == {
        "majority class", "TF-IDF and logistic regression", "frozen features and logistic regression"
    }  # fmt: skip


def test_a_confirming_run_is_the_training_of_its_configuration_under_its_seed(
    confirmed: StudyConfig, tmp_path: Path
) -> None:
    """Trained by hand from what the store says of it, it gives the same scores to the last bit."""
    results = run(confirmed)
    space, one = space_of(confirmed.space), results.confirmation[-1]
    configuration = next(trial for trial in results.trials if trial.number == one.confirms).configuration
    hyperparameters = Hyperparameters(**configuration)
    assignment = Assignment(
        trial=0, attempt=1, hyperparameters=hyperparameters, seed=one.seed, maximum_passes=space.maximum_passes(),
        milestones=trial_milestones(confirmed, space, hyperparameters, confirms=True), confirms=one.confirms,
    )  # fmt: skip
    worker = open_worker(confirmed, splits_of(confirmed), tmp_path)
    worker.use(WorkerSettings(precision="fp32"))
    outcome = train(worker, assignment, lambda _: Action.CONTINUE)
    assert outcome.best is not None
    assert outcome.best.held_out == one.held_out
    assert outcome.best.validation == one.validation


@pytest.mark.slow
def test_a_confirmation_is_a_study_of_its_own_which_other_commands_pass_over(
    confirmed: StudyConfig, hpo: Hpo, tmp_path: Path
) -> None:
    run(confirmed)
    url = confirmed.store.url
    database = open_database(url)
    names = [study.name for study in read_studies(database)]
    database.close()
    assert names == ["tiny", confirmation_of("tiny")]
    with results_of(confirmed) as search, results_of(confirmed, confirmation_of("tiny")) as runs:
        of_runs = {trial.score for trial in runs.trials}
        assert of_runs == {one.held_out.scores.objective for one in search.confirmation}
    assert hpo("best", "--store", url).code == 0
    answer = hpo("studies", "delete", "tiny", "--yes", "--store", url)
    assert answer.code == 0
    assert hpo("studies", "--store", url, "--json").out.strip() == "[]"


@pytest.mark.slow
def test_rows_that_are_kept_are_neither_trained_on_nor_chosen_by(confirmed: StudyConfig, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "more.csv", rows=1500)
    config = changed(
        confirmed,
        data={"train": str(texts), "text_column": "text", "label_column": "label", "validation_fraction": 0.6},
        budget={"trials": 3},
    )
    splits = splits_of(config)
    kept = splits.confirmation
    assert kept is not None
    assert min(kept.rows, splits.validation.rows) >= 200
    assert not set(kept.texts) & (set(splits.validation.texts) | set(splits.train.texts))
    results = run(config)
    assert results.confirmed_on_unseen
    assert {one.held_out.scores.rows for one in results.confirmation} == {kept.rows}
    assert {trial.validation.rows for trial in results.trials if trial.validation} == {splits.validation.rows}
    assert {one.validation.rows for one in results.confirmation} == {splits.validation.rows}
    assert results.baselines["majority class"].scores.rows == kept.rows
    verdict = verdict_on(results)
    assert verdict is not None
    assert (verdict.unseen, verdict.selection_bias, verdict.rows) == (True, 0.0, kept.rows)


@pytest.mark.slow
def test_a_confirmation_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(
    confirmed: StudyConfig, tmp_path: Path, hpo: Hpo
) -> None:
    undisturbed = run(changed(confirmed, store={"url": f"sqlite:///{tmp_path / 'other.db'}"}))
    stop = Event()
    cut = run(confirmed, Diary(stop, at=1), stop)
    assert cut.unfinished_runs == 1
    assert len(cut.confirmation) < len(undisturbed.confirmation)
    assert verdict_on(cut) is None or cut.test == ()
    assert "study tiny (confirmation): nobody leads it" in hpo("status", "--store", confirmed.store.url).out
    results = run(confirmed, searches=False)

    def told(results: StudyResults) -> dict[tuple[int, int], object]:
        return {(one.confirms, one.seed): one.held_out for one in results.confirmation}

    assert told(results) == told(undisturbed)
    assert [one.held_out.scores for one in results.test] == [one.held_out.scores for one in undisturbed.test]
    assert len(results.trials) == 10


@pytest.mark.slow
def test_asked_for_again_nothing_is_trained_or_read_twice(confirmed: StudyConfig) -> None:
    first = run(confirmed)
    diary = Diary()
    again = run(confirmed, diary, searches=False)
    assert diary.assigned_ones == []
    assert diary.looks == []
    assert again == first
    more = run(changed(confirmed, confirmation={"seeds": 4, "share": 0.5}, budget={"trials": 16}), searches=False)
    assert len(more.confirmation) == 8
    assert len(more.trials) == 10
    assert all(one in more.confirmation for one in first.confirmation)


@pytest.mark.slow
def test_worker_processes_confirm_what_one_process_does(confirmed: StudyConfig, tmp_path: Path) -> None:
    inline = run(confirmed)
    apart = changed(
        confirmed, compute={"runner": "processes", "workers": 2}, store={"url": f"sqlite:///{tmp_path / 'apart.db'}"}
    )
    processes = run(apart)
    assert {one.seed: one.held_out for one in processes.confirmation if one.confirms == 0} == {
        one.seed: one.held_out for one in inline.confirmation if one.confirms == 0
    }
    assert verdict_on(processes) is not None
    assert len(processes.test) == 1


@pytest.mark.slow
def test_folds_are_confirmed_by_their_mean(confirmed: StudyConfig) -> None:
    config = changed(confirmed, evaluation={"folds": 3}, budget={"trials": 4})
    results = run(config)
    rows = splits_of(config).train.rows
    assert {one.held_out.scores.rows for one in results.confirmation} == {rows}
    assert {one.held_out.scores.objective for one in results.confirmation} == {
        one.validation.objective for one in results.confirmation
    }
    assert {reading.scores.rows for reading in results.baselines.values()} == {rows}
    assert verdict_on(results) is not None


@pytest.mark.slow
def test_its_state_is_shown_while_it_goes_on(confirmed: StudyConfig, hpo: Hpo) -> None:
    told: dict[str, str] = {}

    class Looking(Diary):
        def assigned(self, assignment: Assignment) -> None:
            super().assigned(assignment)
            told["confirming" if assignment.confirms is not None else "searching"] = hpo(
                "status", "--store", confirmed.store.url
            ).out

    run(confirmed, Looking())
    assert "tiny (confirmation)" not in told["searching"]
    assert "study tiny (confirmation): led by" in told["confirming"]
    assert "tiny (confirmation)" not in hpo("status", "--store", confirmed.store.url).out


def test_where_only_the_default_has_completed_there_is_no_verdict_and_the_test_split_is_read(
    confirmed: StudyConfig,
) -> None:
    results = run(changed(confirmed, budget={"trials": 1}))
    assert results.confirmation == ()
    assert verdict_on(results) is None
    assert [look.trial for look in results.test] == [0]


@pytest.mark.slow
def test_time_is_kept_for_the_confirmation_and_the_end_is_kept(confirmed: StudyConfig) -> None:
    config = changed(confirmed, budget={"trials": None, "time": "40s"}, data={"test_fraction": 0.2})
    began = time.time()
    results = run(config)
    assert time.time() - began < 40 + config.compute.grace_seconds
    assert verdict_on(results) is not None
    assert len(results.test) == 1


@pytest.mark.slow
def test_a_search_killed_in_its_confirmation_goes_on_where_it_was(confirmed: StudyConfig, tmp_path: Path) -> None:
    undisturbed = run(changed(confirmed, store={"url": f"sqlite:///{tmp_path / 'other.db'}"}))
    study = tmp_path / "study.yaml"
    study.write_text(write_yaml(confirmed.model_dump(mode="json")))
    process = subprocess.Popen(
        [sys.executable, "-m", "hpo", "run", str(study)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if " again) begins" in line:
            process.kill()
            break
    process.stdout.close()
    process.wait()
    results = run(confirmed)
    assert {(one.confirms, one.seed): one.held_out for one in results.confirmation} == {
        (one.confirms, one.seed): one.held_out for one in undisturbed.confirmation
    }
    assert [one.held_out.scores for one in results.test] == [one.held_out.scores for one in undisturbed.test]


@pytest.mark.slow
def test_a_trial_that_the_pruner_gives_up_may_be_trained_on_to_see_what_that_costs(
    confirmed: StudyConfig, tmp_path: Path
) -> None:
    # Long enough for a trial to be judged before its end.
    texts = write_texts(tmp_path / "more.csv", rows=400)
    pruned = changed(
        confirmed,
        search={"pruner": "threshold", "lowest_score": 0.9},
        confirmation={"finalists": 0},
        data={"train": str(texts), "text_column": "text", "label_column": "label"},
        budget={"trials": 8},
    )
    without = run(pruned)
    given_up = [trial.number for trial in without.trials if trial.state == "PRUNED"]
    assert given_up
    assert without.audited == frozenset()
    store = {"url": pruned.store.url.replace("hpo.db", "all.db")}
    audited = run(changed(pruned, confirmation={"audit": 1.0}, store=store))
    assert not [trial for trial in audited.trials if trial.state == "PRUNED"]
    assert set(given_up) == audited.audited
    states = {trial.number: trial.state for trial in audited.trials}
    assert {states[number] for number in audited.audited} == {"COMPLETE"}


def test_a_baseline_that_cannot_be_had_costs_no_verdict(confirmed: StudyConfig, tmp_path: Path) -> None:
    # No word stands in two texts, so there is nothing to count.
    lines = [f"word{row} once{row},{'sport' if row % 2 else 'money'}" for row in range(60)]
    (tmp_path / "apart.csv").write_text("\n".join(["text,label", *lines]))
    data = {"train": str(tmp_path / "apart.csv"), "text_column": "text", "label_column": "label"}
    notes: list[str] = []

    class Noting(Diary):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    results = run(changed(confirmed, data=data, budget={"trials": 3}), Noting())
    assert set(results.baselines) == {"majority class", "frozen features and logistic regression"}
    assert any("The baseline TF-IDF and logistic regression failed" in note for note in notes)
    assert verdict_on(results) is not None


@pytest.mark.slow
def test_what_is_asked_between_the_search_and_its_test_split_ends_it_too(confirmed: StudyConfig) -> None:
    """After the last confirming run no worker is listened to."""

    class Stopping(Diary):
        def ended(self, outcome: Outcome) -> None:
            if [one.confirms for one in self.assigned_ones[-5:]].count(None) == 0:
                database = open_database(confirmed.store.url)
                ask_to_stop(database, "tiny")
                database.close()

    results = run(changed(confirmed, compute={"runner": "inline"}), Stopping())
    assert results.test == ()
    assert results.baselines == {}


@pytest.mark.slow
def test_runs_that_confirmed_a_deleted_study_confirm_none_of_that_name(confirmed: StudyConfig) -> None:
    """Optuna's own tools delete the one and leave the other."""
    config = changed(confirmed, budget={"trials": 2})
    run(config)
    database = open_database(config.store.url)
    database.storage.delete_study(database.storage.get_study_id_from_name("tiny"))
    with pytest.raises(NoResultError, match=r"holds only tiny \(confirmation\), runs for a search that was deleted"):
        read_results(database)
    database.close()
    other = changed(config, search={"startup_trials": 3})
    assert run(changed(other, confirmation={"finalists": 0})).confirmation == ()


def test_a_confirmation_ends_with_its_search_and_not_when_one_that_was_cut_was_to_end(confirmed: StudyConfig) -> None:
    config = confirming_config(changed(confirmed, budget={"trials": None, "time": "1h"}))
    limits = limits_of(config.budget, datetime.now(LOCAL_ZONE))
    for deadline in (time.time() + 100, time.time() + 1000):
        # The first is never told to have ended.
        with leading(
            config, space_of(config.space), data_fingerprint="", limits=replace(limits, deadline=deadline)
        ) as led:
            led.begin(metric="macro_f1", versions={})
            assert led.limits.deadline == deadline


def test_rows_that_would_be_kept_from_a_search_that_saw_them_are_named(confirmed: StudyConfig) -> None:
    space = space_of(confirmed.space)
    with leading(changed(confirmed, confirmation={"finalists": 0}), space, data_fingerprint="before") as led:
        led.begin(metric="macro_f1", versions={})
    with (
        pytest.raises(StudyMismatchError, match=r": 0 of validation was kept for the confirmation, now 0\.333 would"),
        leading(confirmed, space, data_fingerprint="after"),
    ):
        pass
