"""What a search leaves in the store, as plain Optuna, its dashboard and plain SQL see it."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import NoResultError, StoreError
from hpo.export.configs import configuration_of
from hpo.messages import Assignment, Ending, HeldOutEvaluation, Report, Standing
from hpo.search.coordinator import Coordinator
from hpo.store.database import Database, open_database
from hpo.store.results import read_results
from hpo.store.status import read_status
from hpo.store.studies import confirmation_of, read_studies
from tests.search.scripted import CPU, ended, led, plain_study, plain_trials, report_at, rows, study_at

STATES = ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED", "PRUNED", "FAIL", "WAITING", "RUNNING"]


@pytest.fixture
def url(database_url: str) -> str:
    """A store with a study that has a trial of every ending, in the order of `STATES`."""
    with led(study_at(database_url, budget={"trials": 8})) as coordinator:
        complete(coordinator, begun(coordinator, 0), [0.5, 0.8, 0.7])
        complete(coordinator, begun(coordinator, 1), [0.3, 0.4, 0.6])
        for number, ending in enumerate((Ending.PRUNED, Ending.DIVERGED, Ending.INFEASIBLE, Ending.FAILED), start=2):
            assignment = begun(coordinator, number)
            if ending is not Ending.INFEASIBLE:
                coordinator.observe(report_at(assignment, assignment.milestones[0], 0.95))
            coordinator.finish(ended(assignment, ending, reason=f"because of {ending}"))
        paused, _running = begun(coordinator, 6), begun(coordinator, 7)
        coordinator.finish(ended(paused, Ending.PAUSED))
    return database_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url, must_exist=True)
    yield opened
    opened.close()


def begun(coordinator: Coordinator, trial: int) -> Assignment:
    assignment = coordinator.next_assignment(f"request {trial}", CPU)
    assert assignment is not None
    assert assignment.trial == trial
    return assignment


def complete(coordinator: Coordinator, assignment: Assignment, scores: list[float]) -> Report:
    """Train a trial whose full evaluations score `scores`; return the best of them."""
    full = [milestone for milestone in assignment.milestones if milestone.full]
    reports = [report_at(assignment, milestone, score) for milestone, score in zip(full, scores, strict=True)]
    for report in reports:
        coordinator.observe(report)
    best = max(reports, key=lambda report: report.validation.objective)
    coordinator.finish(ended(assignment, Ending.COMPLETED, best))
    return best


def test_plain_optuna_sees_every_state(url: str) -> None:
    trials = plain_trials(url)
    assert [trial.state.name for trial in trials] == STATES
    assert [trial.number for trial in trials] == list(range(8))
    with plain_study(url) as study:
        assert study.metric_names == ["macro_f1"]
        assert study.direction.name == "MAXIMIZE"
        assert study.best_trial.number == 0


def test_a_completed_trial_has_the_score_of_its_best_full_report(url: str) -> None:
    best, second, *others = plain_trials(url)
    assert (best.value, second.value) == (0.8, 0.6)
    assert best.intermediate_values == {222: 0.5, 444: 0.8, 667: 0.7}
    assert all(trial.value is None for trial in others if trial.state.name == "FAIL")


def test_user_attributes_say_what_was_trained_and_what_it_scored_and_cost(url: str) -> None:
    default = plain_trials(url)[0]
    assert default.user_attrs == {
        "learning_rate": 3e-5,
        "seed": default.user_attrs["seed"],
        "proposed_by": "default",
        "validation_macro_f1": 0.8,
        "validation_accuracy": 0.4,
        "validation_loss": pytest.approx(0.2),
        "train_macro_f1": pytest.approx(0.9),
        "best_epoch": pytest.approx(444 * 3 / 1000),
        "seconds": 12.5,
        "peak_memory_bytes": 2_000_000,
    }
    assert [trial.user_attrs.get("reason") for trial in plain_trials(url)] == [
        None,
        None,
        "because of pruned",
        "because of diverged",
        "because of infeasible",
        "because of failed",
        "paused",
        None,
    ]


def test_a_pruned_trial_has_the_value_at_its_rung(url: str) -> None:
    pruned = plain_trials(url)[2]
    assert (pruned.value, pruned.last_step) == (0.95, min(pruned.intermediate_values))


def test_what_cannot_be_trained_is_pruned_with_a_violated_constraint_and_never_best(url: str) -> None:
    """Trial 3 diverged after it had scored more than any other."""
    trials = plain_trials(url)
    violated = {trial.number for trial in trials if any(value > 0 for value in trial.constraints.values())}
    assert violated == {3, 4}
    assert {trials[number].state.name for number in violated} == {"PRUNED"}
    assert trials[3].intermediate_values
    with plain_study(url) as study:
        assert {trial.number for trial in study.best_trials} == {0}


def test_the_winner_is_the_best_completed_trial_and_of_equals_the_earlier(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, budget={"trials": 3})) as coordinator:
        assert coordinator.winner() is None
        assert coordinator.standing() == Standing(completed=0, pruned=0, failed=0, best=None)
        assigned, reports = [], []
        for number, scores in enumerate(([0.7, 0.7, 0.7], [0.6, 0.8, 0.6], [0.8, 0.8, 0.8])):
            assigned.append(begun(coordinator, number))
            reports.append(complete(coordinator, assigned[-1], scores))
        assert coordinator.standing() == Standing(completed=3, pruned=0, failed=0, best=(0.8, 1))
        # As it was assigned, but that nothing is to be beaten when it is trained again.
        assert coordinator.winner() == (replace(assigned[1], score_to_beat=None), replace(reports[1], decides=False))


def test_the_standing_tells_trials_that_are_over_by_how_they_ended(url: str) -> None:
    with led(study_at(url, budget={"trials": 8})) as coordinator:
        assert coordinator.standing() == Standing(completed=2, pruned=3, failed=1, paused=2, best=(0.8, 0))
        assert coordinator.standing().finished == 6


def test_an_assignment_carries_the_score_to_beat(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        first = begun(coordinator, 0)
        assert first.score_to_beat is None
        complete(coordinator, first, [0.5, 0.8, 0.7])
        complete(coordinator, begun(coordinator, 1), [0.1, 0.1, 0.1])
        assert begun(coordinator, 2).score_to_beat == 0.8


def test_the_leaderboard_answers_in_plain_sql(url: str) -> None:
    query = "SELECT trial, CAST(state AS VARCHAR(16)), score, best_epoch, attempts, reason FROM hpo_leaderboard"
    best, second, *others = rows(url, query)
    assert best == (0, "COMPLETE", 0.8, pytest.approx(444 * 3 / 1000), 1, "")
    assert second[:3] == (1, "COMPLETE", 0.6)
    assert {trial for trial, *_ in others} == {2, 3, 4, 5, 6, 7}
    [(configuration, train_score)] = rows(url, "SELECT configuration, train_score FROM hpo_leaderboard WHERE trial = 0")
    assert train_score == pytest.approx(0.9)
    assert Hyperparameters(**json.loads(configuration)).learning_rate == 3e-5


def test_the_leaderboard_follows_what_others_do_to_trials(database_url: str) -> None:
    """With Optuna's own tools: from the next verb on, and what they delete from the next study on."""
    optunas = """
        SELECT number, CAST(state AS VARCHAR(16)), value FROM trials
        LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id ORDER BY number
    """
    ours = "SELECT trial, state, score FROM hpo_leaderboard ORDER BY trial"
    with led(study_at(database_url, budget={"trials": 8})) as coordinator:
        first = begun(coordinator, 0)
        assert rows(database_url, ours) == rows(database_url, optunas)
        with plain_study(database_url) as study:
            theirs = study.ask()
            study.enqueue_trial({"learning_rate": 1e-5})
            study.add_trial(optuna.create_trial(value=0.25))
        complete(coordinator, first, [0.5, 0.8, 0.7])
        # The second is theirs, and the third waits with what they enqueued.
        begun(coordinator, 2)
        assert rows(database_url, ours) == rows(database_url, optunas)
        with plain_study(database_url) as study:
            study.tell(theirs, 0.125)
        begun(coordinator, 4)
        assert rows(database_url, ours) == rows(database_url, optunas)
    assert {row[1] for row in rows(database_url, ours)} >= {"COMPLETE", "RUNNING"}
    storage = optuna.storages.RDBStorage(database_url)
    optuna.delete_study(study_name="scripted", storage=storage)
    storage.remove_session()
    storage.engine.dispose()
    with led(study_at(database_url, study="another")):
        pass
    assert rows(database_url, "SELECT DISTINCT study FROM hpo_leaderboard") == [("another",)]


def test_results_are_what_optuna_holds(url: str, database: Database) -> None:
    results = read_results(database)
    trials = plain_trials(url)
    assert (results.name, results.metric, results.data_fingerprint) == ("scripted", "macro_f1", "fingerprint")
    assert results.configuration["budget"]["trials"] == 8
    assert [trial.state for trial in results.trials] == STATES
    assert [trial.number for trial in results.leaderboard] == [0, 1]
    assert results.best.number == 0
    for result, trial in zip(results.trials, trials, strict=True):
        check_result_against(result.score, trial)
        assert result.seed == trial.user_attrs["seed"]
        assert result.rung == trial.last_step
        assert result.configuration["learning_rate"] == trial.user_attrs["learning_rate"]
        assert set(result.sampled) == set(trial.params)
    assert results.best.train_score == pytest.approx(0.9)
    assert results.trials[5].reason == "because of failed"
    [summary] = read_studies(database)
    assert (summary.trials, summary.completed, summary.pruned, summary.failed, summary.unfinished) == (8, 2, 3, 1, 2)
    assert summary.best == 0.8


def test_a_score_that_another_program_has_told_is_never_the_best(url: str, database: Database) -> None:
    """It has no configuration that could be taken, confirmed or exported."""
    with plain_study(url) as study:
        study.add_trial(create_trial(value=0.99))
        study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={500: 0.9999}))
    results = read_results(database)
    assert results.best_unfinished is None
    assert results.trials[-2].score == 0.99
    assert [trial.number for trial in results.leaderboard] == [0, 1]
    assert read_studies(database)[0].best == 0.8
    assert read_status(database).standing.best == (0.8, 0)
    with pytest.raises(NoResultError, match="Trial 8 of the study 'scripted' was not trained by hpo"):
        configuration_of(results, None, 8)


def test_studies_that_another_program_made_are_listed_and_never_taken_for_one_of_hpo(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, study="mine")) as coordinator:
        complete(coordinator, begun(coordinator, 0), [0.5, 0.8, 0.7])
    lowest = optuna.create_study(study_name="lowest", storage=sqlite_url, direction="minimize")
    lowest.add_trials([create_trial(value=0.2), create_trial(value=0.9)])
    two = optuna.create_study(study_name="two", storage=sqlite_url, directions=["maximize", "minimize"])
    two.add_trial(create_trial(values=[0.3, 0.4]))
    with closing(open_database(sqlite_url)) as opened:
        assert {one.name: one.best for one in read_studies(opened)} == {"mine": 0.8, "lowest": 0.2, "two": None}
        assert read_results(opened).name == read_status(opened).name == "mine"
        for name in ("lowest", "two"):
            with pytest.raises(StoreError, match=f"The study '{name}' was not made by hpo"):
                read_status(opened, name)


def check_result_against(score: float | None, trial: FrozenTrial) -> None:
    newest = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
    assert score == (trial.value if trial.value is not None else newest)


def test_the_test_split_is_recorded_once_read(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        best = complete(coordinator, begun(coordinator, 0), [0.5, 0.8, 0.7])
        assert not coordinator.test_was_read(0)
        coordinator.record_test(0, HeldOutEvaluation(scores=best.validation, deviations=()))
        assert coordinator.test_was_read(0)
        assert not coordinator.test_was_read(1)
    opened = open_database(database_url)
    assert [(one.trial, one.held_out.scores) for one in read_results(opened).test] == [(0, best.validation)]
    opened.close()
    with plain_study(database_url) as study:
        assert study.user_attrs["hpo:test:trial-0"] == dict(best.validation.values)


def test_the_store_holds_all_of_the_study_but_its_own_address_and_whom_to_tell(database_url: str) -> None:
    """Either may hold a password; the rest is what the study is gone on with where its file is not at hand."""
    with led(study_at(database_url, store={"keep_weights": 2}, notify=("ntfy://secret",))):
        pass
    [(configuration,)] = rows(database_url, "SELECT configuration FROM hpo_studies")
    assert json.loads(configuration)["store"] == {"files": None, "keep_weights": 2, "disk_gib": None}
    assert "notify" not in json.loads(configuration)
    assert database_url not in configuration


def test_a_run_that_waits_and_has_never_begun_is_none_that_is_unfinished(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, study="one")) as coordinator:
        complete(coordinator, begun(coordinator, 0), [0.5, 0.8, 0.7])
    runs = optuna.create_study(study_name=confirmation_of("one"), storage=sqlite_url, direction="maximize")
    opened = open_database(sqlite_url)
    runs.enqueue_trial({})
    assert read_results(opened, "one").unfinished_runs == 0
    runs.ask()
    assert read_results(opened, "one").unfinished_runs == 1
    opened.close()


def test_many_studies_share_a_store(sqlite_url: str) -> None:
    for name in ("one", "two"):
        with led(study_at(sqlite_url, study=name)) as coordinator:
            complete(coordinator, begun(coordinator, 0), [0.5, 0.8, 0.7])
    opened = open_database(sqlite_url)
    assert [summary.name for summary in read_studies(opened)] == ["one", "two"]
    assert [trial.number for trial in read_results(opened, "two").trials] == [0]
    opened.close()
    optuna.delete_study(study_name="one", storage=sqlite_url)
    with led(study_at(sqlite_url, study="two")) as coordinator:
        assert begun(coordinator, 1).attempt == 1
