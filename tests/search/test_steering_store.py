"""What a person says to a search from beside its leader: it ends in the store as if the leader had written it."""

from dataclasses import replace
from typing import Any

import pytest
from optuna.trial import TrialState

from hpo.errors import ConfigurationError, HpoError, StudyLedError
from hpo.messages import Ending
from hpo.search.steering import ask_to_stop, enqueue, refuse_led
from hpo.store.database import open_database
from hpo.store.status import StudyStatus, read_status
from hpo.store.studies import confirmation_of, delete_study
from tests.search.scripted import (
    CPU,
    ended,
    everything,
    led,
    plain_trials,
    report_at,
    rows,
    search,
    study_at,
    train,
)
from tests.space.random_spaces import RELATIVE


def told(url: str, action: Any, *args: Any, **words: Any) -> Any:
    database = open_database(url, must_exist=True)
    try:
        return action(database, *args, **words)
    finally:
        database.close()


def state_of(url: str) -> StudyStatus:
    state = told(url, read_status)
    assert isinstance(state, StudyStatus)
    return state


# -- enqueue


def test_an_enqueued_configuration_is_trained_before_what_the_sampler_proposes(database_url: str) -> None:
    with led(study_at(database_url, space=RELATIVE)) as leader:
        train_default = leader.next_assignment("default", CPU)
        assert train_default is not None
        train(leader, train_default)
        given = {"learning_rate": 1.5e-4, "optimizer": "adamw", "epochs": 3}
        trial, varied = told(database_url, enqueue, None, given, "mine")
        taken = leader.next_assignment("next", CPU)
        assert taken is not None
        assert taken.trial == trial == 1
        assert varied == {name: getattr(taken.hyperparameters, name) for name in varied}
        assert given == {name: pytest.approx(varied[name]) for name in given}
        assert varied["method"] == "full", "as in the default configuration"
        train(leader, taken)
        assert len(search(leader, name="rest")) == 2
    trials = plain_trials(database_url)
    assert [trial.user_attrs["proposed_by"] for trial in trials][:3] == ["default", "enqueued", "random"]
    assert rows(database_url, "SELECT trial FROM hpo_events WHERE kind = 'enqueued'") == [(1,)]


def test_what_is_refused_leaves_nothing(database_url: str) -> None:
    with led(study_at(database_url, space=RELATIVE)):
        pass
    before = everything(database_url)
    for study, given in ((None, {"epochs": 9}), ("script", {"epochs": 1})):
        with pytest.raises(ConfigurationError):
            told(database_url, enqueue, study, given, "mine")
    assert everything(database_url) == before


# -- stop


def test_the_leader_hears_what_was_asked_since_its_run_began_and_hears_it_once(database_url: str) -> None:
    with led(study_at(database_url)) as leader:
        told(database_url, ask_to_stop, "scripted")
    with led(study_at(database_url)) as leader:
        assert not leader.stop_requests().stop
        running = leader.next_assignment("first", CPU)
        assert running is not None
        name, by = told(database_url, ask_to_stop, None, running.trial)
        assert name == "scripted"
        assert by.startswith("process ")
        assert leader.stop_requests().trials == {running.trial}
        assert leader.stop_requests().trials == frozenset()
        told(database_url, ask_to_stop, None)
        assert leader.stop_requests().stop
        assert not leader.stop_requests().stop


def test_a_search_that_confirms_hears_it_in_both_of_its_studies(database_url: str) -> None:
    config = study_at(database_url)
    beside = config.model_copy(update={"study": confirmation_of(config.study)})
    with led(config) as search, led(beside) as confirmation:
        assert told(database_url, ask_to_stop, "scripted")[0] == "scripted"
        assert search.stop_requests().stop
        assert confirmation.stop_requests().stop


def test_what_cannot_be_stopped_is_refused(database_url: str) -> None:
    with led(study_at(database_url)) as leader:
        first = leader.next_assignment("first", CPU)
        assert first is not None
        train(leader, first)
        before = everything(database_url)["hpo_events"]
        with pytest.raises(ConfigurationError, match=r"Trial 0 of the study 'scripted' is over already \(COMPLETE\)"):
            told(database_url, ask_to_stop, None, 0)
        with pytest.raises(ConfigurationError, match="has no trial 7"):
            told(database_url, ask_to_stop, None, 7)
        assert everything(database_url)["hpo_events"] == before
    with pytest.raises(ConfigurationError, match="Nobody leads the study 'scripted' now"):
        told(database_url, ask_to_stop, None)


# -- delete


def test_a_deleted_study_leaves_only_its_lease_and_another_study_is_whole(database_url: str) -> None:
    for name in ("scripted", "other"):
        with led(study_at(database_url, study=name)) as leader:
            search(leader)
    told(database_url, delete_study, "scripted", refuse=refuse_led)
    assert rows(database_url, "SELECT study_name FROM studies") == [("other",)]
    [(other,)] = rows(database_url, "SELECT study_id FROM studies")
    for table in ("hpo_studies", "hpo_attempts", "hpo_evaluations", "hpo_events", "trials"):
        assert {found for (found,) in rows(database_url, f"SELECT study_id FROM {table}")} == {other}
    assert len(rows(database_url, "SELECT study_id FROM hpo_leases")) == 2
    assert len(rows(database_url, "SELECT trial_id FROM trial_values")) == 4
    with led(study_at(database_url, seed=3)) as leader:
        assert len(search(leader)) == 4


def test_a_study_that_is_led_is_not_deleted(database_url: str) -> None:
    with led(study_at(database_url)) as leader:
        search(leader)
        before = everything(database_url)
        with pytest.raises(StudyLedError, match=r"is led by process .*; end that search first, with hpo stop"):
            told(database_url, delete_study, "scripted", refuse=refuse_led)
        after = everything(database_url)
        assert {table: after[table] for table in after if table != "hpo_leases"} == {
            table: before[table] for table in before if table != "hpo_leases"
        }
    with pytest.raises(ConfigurationError, match="no study 'typo'"):
        told(database_url, delete_study, "typo", refuse=refuse_led)


def test_a_verb_of_the_leader_of_a_deleted_study_is_refused(sqlite_url: str) -> None:
    """It had been suspended for longer than its lease, say."""
    with led(study_at(sqlite_url)) as leader:
        told(sqlite_url, delete_study, "scripted", refuse=lambda _name, _lease: None)
        with pytest.raises(HpoError, match="has been deleted"):
            leader.next_assignment("late", CPU)
        assert rows(sqlite_url, "SELECT 1 FROM trials") == []


# -- the state of a study


def test_the_state_says_what_runs_what_waits_and_what_was(database_url: str) -> None:
    config = study_at(database_url, budget={"trials": 6})
    with led(config) as leader:
        done, paused, running = (leader.next_assignment(name, CPU) for name in ("a", "b", "c"))
        assert done is not None
        assert paused is not None
        assert running is not None
        best = train(leader, done)
        leader.finish(ended(paused, Ending.PAUSED, reason="Cut by a signal."))
        leader.observe(report_at(running, running.milestones[0], 0.61))
        leader.observe(report_at(running, running.milestones[1], 0.62))
        trial, _ = told(database_url, enqueue, None, {"epochs": 1}, "mine")
        state = state_of(database_url)
    assert best.best is not None
    assert (state.name, state.metric) == ("scripted", "macro_f1")
    assert state.standing.best == (best.best.validation.objective, 0)
    assert (state.standing.completed, state.standing.pruned, state.standing.failed) == (1, 0, 0)
    [one] = state.running
    assert (one.trial, one.attempt, one.worker, one.device) == (running.trial, 1, CPU.worker, "cpu")
    assert (one.rung, one.score) == (running.milestones[1].rung, 0.62)
    assert one.reported_at is not None
    assert 0 <= state.now - one.reported_at < 60
    assert [(waiting.trial, waiting.last) for waiting in state.waiting] == [
        (paused.trial, "paused"),
        (trial, "enqueued"),
    ]
    assert state.waiting[0].reason == "Cut by a signal."
    assert state.device_seconds == 25.0
    assert state.lease is not None
    assert state.run_begun is not None
    assert "deadline" in state.run_begun.detail
    assert state.run_ended is None
    assert state.events[-1].kind == "enqueued"
    assert len(state.events) <= 10


def test_seconds_of_a_trial_that_went_on_from_its_checkpoint_count_once(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as leader:
        for attempt in (1, 2):
            assignment = leader.next_assignment(f"attempt-{attempt}", CPU)
            assert assignment is not None
            assert (assignment.trial, assignment.attempt) == (0, attempt)
            outcome = ended(assignment, Ending.PAUSED)
            leader.finish(replace(outcome, resumed_seconds=12.5 * (attempt - 1)))
    assert state_of(sqlite_url).device_seconds == 12.5


def test_how_the_last_run_ended_is_known(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as leader:
        leader.end("stopped")
    state = state_of(sqlite_url)
    assert state.run_ended is not None
    assert state.run_ended.detail == {"reason": "stopped"}
    with led(study_at(sqlite_url)):
        assert state_of(sqlite_url).run_ended is None


def test_reading_writes_nothing_and_waits_for_no_writer(database_url: str) -> None:
    with led(study_at(database_url)) as leader:
        search(leader)
    before = everything(database_url)
    database = open_database(database_url, must_exist=True)
    try:
        with database.transaction():
            assert told(database_url, read_status).standing.completed == 4
    finally:
        database.close()
    assert everything(database_url) == before
    assert {trial.state for trial in plain_trials(database_url)} == {TrialState.COMPLETE}
