"""A search that ends when it was told to: nothing is begun that would end too late, and what is asked for is heeded."""

from dataclasses import replace
from typing import Any

import pytest
from optuna.trial import BaseTrial, TrialState

from hpo.config.times import humanized
from hpo.errors import ConfigurationError
from hpo.messages import Action, Assignment, Ending, Progress
from hpo.search.coordinator import Coordinator
from hpo.search.proposals import TOO_LITTLE_TIME
from hpo.search.upcoming_trial import MAX_DRAWS
from hpo.space.domains import Value
from hpo.space.search_space import SearchSpace
from tests.search.conftest import SECONDS_OF_LONGEST, START, Clock, asked, length, probed
from tests.search.scripted import (
    ended,
    led,
    plain_trials,
    report_at,
    rows,
    search,
    study_at,
    train,
)


def test_without_a_number_of_trials_as_many_are_begun_as_fit_into_the_time(sqlite_url: str, clock: Clock) -> None:
    with led(study_at(sqlite_url, budget={"trials": None, "time": "5m"}), clock=clock) as coordinator:
        number = 0
        while (assignment := asked(coordinator, f"request {number}")) is not None:
            train(coordinator, assignment)
            clock.now += length(assignment)
            number += 1
        assert clock.now <= START + 300
        assert clock.now > START + 300 - SECONDS_OF_LONGEST
        assert coordinator.ended_because == "The time that is left is too short for another trial."
        assert coordinator.trains_until == START + 300
    assert number > 30


def test_a_proposal_that_does_not_fit_waits_and_a_shorter_one_is_taken(sqlite_url: str, clock: Clock) -> None:
    budget = {"trials": 30, "time": "1m"}
    with led(study_at(sqlite_url, budget=budget), clock=clock) as coordinator:
        train(coordinator, asked(coordinator, "default"))
        clock.now += 60 - 5  # only trials of one epoch of three fit
        assignment = asked(coordinator, "late")
        assert assignment is not None
        assert assignment.hyperparameters.epochs == 1
    waiting = [trial for trial in plain_trials(sqlite_url) if trial.state == TrialState.WAITING and trial.params]
    assert waiting
    assert {trial.params["epochs"] for trial in waiting} <= {2, 3}
    with led(study_at(sqlite_url, budget=budget), clock=Clock()) as coordinator:
        search(coordinator)
    trials = plain_trials(sqlite_url)
    assert [trial.number for trial in trials] == list(range(30))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def test_what_is_kept_for_the_end_and_when_it_would_begin_count(sqlite_url: str, clock: Clock) -> None:
    with led(study_at(sqlite_url, budget={"time": "1m"}), clock=clock) as coordinator:
        train(coordinator, asked(coordinator, "default"))
        coordinator.expect(coordinator.forecasts.costs, reserve=40.0)
        assert coordinator.trains_until == START + 20
        assert asked(coordinator, "ahead", starts_in=17.5) is None
        assert asked(coordinator, "now") is not None


def test_a_probe_speaks_until_trials_have(sqlite_url: str, clock: Clock) -> None:
    with led(study_at(sqlite_url, budget={"time": "1m"}), clock=clock) as coordinator:
        default = asked(coordinator, "default")
        assert default is not None
        assert coordinator.expected_seconds(default) is None
        coordinator.expect(probed(300.0), reserve=0.0)
        assert coordinator.expected_seconds(default) == pytest.approx(0.667 * 300, rel=0.01)
        assert asked(coordinator, "more") is None
        train(coordinator, default)
        assert asked(coordinator, "more") is not None


def test_until_a_trial_has_completed_no_forecast_ends_the_search(sqlite_url: str, clock: Clock) -> None:
    """The probe said ten times as much as a trial takes: one begins all the same, and then what it took counts."""
    with led(study_at(sqlite_url, budget={"trials": None, "time": "1m"}), clock=clock) as coordinator:
        coordinator.expect(probed(300.0), reserve=0.0)
        first = asked(coordinator, "first")
        assert (first.trial, coordinator.ended_because) == (0, None)
        assert coordinator.overtime.pop_notes() == (
            f"Trial 0 may not end in time: it is expected to take {humanized(coordinator.default_seconds() or 0)}, and "
            "1 min 00 s are left. It begins all the same, since none has completed yet; if time runs out it is paused, "
            "and the next run resumes it.",
        )
        assert coordinator.overtime.pop_notes() == ()
        assert coordinator.trains_until == START + 60
        assert asked(coordinator, "beside it") is None
        outcome = train(coordinator, first)
        assert outcome.ending is Ending.COMPLETED
        assert asked(coordinator, "then") is not None
        clock.now += 60
        assert asked(coordinator, "late") is None
        assert coordinator.ended_because == TOO_LITTLE_TIME


def test_what_was_paused_before_any_completed_is_gone_on_with_however_long_it_takes(
    sqlite_url: str, clock: Clock
) -> None:
    config = study_at(sqlite_url, budget={"trials": None, "time": "1m"})
    for night in range(2):
        with led(config, clock=clock) as coordinator:
            coordinator.expect(probed(3000.0), reserve=0.0)
            assignment = asked(coordinator, f"night {night}")
            assert assignment.trial == 0
            coordinator.finish(ended(assignment, Ending.PAUSED))
            coordinator.end("its time was over")
        clock.now += 60
    with led(config, clock=clock) as coordinator:
        assert train(coordinator, asked(coordinator, "last")).ending is Ending.COMPLETED


def test_what_the_pruner_has_paused_is_resumed_if_no_new_trial_would_end_in_time(sqlite_url: str, clock: Clock) -> None:
    config = study_at(sqlite_url, search={"pruner": "promotion"}, budget={"trials": None, "time": "1m"})
    with led(config, clock=clock) as coordinator:
        coordinator.expect(probed(3000.0), reserve=0.0)
        first = asked(coordinator, "first")
        report = replace(report_at(first, first.milestones[0], 0.5), seconds=300.0)
        assert coordinator.observe(report).action is Action.PAUSE
        coordinator.finish(ended(first, Ending.PAUSED))
        then = asked(coordinator, "then")
        assert (then.trial, then.attempt) == (0, 2)


def test_a_trial_that_may_take_more_than_the_device_hours_is_paused_when_they_are_spent(
    sqlite_url: str, clock: Clock
) -> None:
    config = study_at(sqlite_url, budget={"trials": None, "gpu_hours": 10 / 3600})
    with led(config, clock=clock) as coordinator:
        coordinator.expect(probed(300.0), reserve=0.0)
        assignment = asked(coordinator, "first")
        assert coordinator.trains_until == START + 10
        coordinator.finish(ended(assignment, Ending.PAUSED))
        assert asked(coordinator, "nothing is left of 12.5 seconds") is None


def test_after_what_is_no_result_the_next_trial_begins(sqlite_url: str, clock: Clock) -> None:
    with led(study_at(sqlite_url, budget={"trials": None, "time": "1m"}), clock=clock) as coordinator:
        coordinator.expect(probed(300.0), reserve=0.0)
        for number in range(3):
            assignment = asked(coordinator, f"{number}")
            assert assignment.trial == number
            coordinator.finish(ended(assignment, Ending.DIVERGED))


def test_the_pace_of_a_first_trial_tells_what_others_take(sqlite_url: str, clock: Clock) -> None:
    """A probe said 300 seconds; a tenth is done after six, so all of it takes a minute, and others take as long."""
    with led(study_at(sqlite_url, budget={"trials": None, "time": "2m"}), clock=clock) as coordinator:
        coordinator.expect(probed(450.0), reserve=0.0)
        first = asked(coordinator, "first")
        told = coordinator.forecasts.seconds_to_rungs(first.trial)
        assert list(told) == [milestone.rung for milestone in first.milestones]
        assert told[first.milestones[-1].rung] == pytest.approx(300, rel=0.01)
        assert told[first.milestones[0].rung] == pytest.approx(300 * first.milestones[0].rung / 667, rel=0.02)
        coordinator.forecasts.progressed(pace(first, share=0.01, seconds=6.0))
        assert coordinator.forecasts.seconds_to_rungs(first.trial) == told
        coordinator.forecasts.progressed(pace(first, share=0.1, seconds=6.0))
        assert coordinator.expected_seconds(first) == pytest.approx(54, rel=0.4)
        coordinator.forecasts.progressed(pace(first, share=0.5, seconds=30.0))
        assert coordinator.expected_seconds(first) == pytest.approx(30, rel=0.2)
        assert 60 < coordinator.default_seconds() < 100, "on the high side"


def pace(assignment: Assignment, share: float, seconds: float) -> Progress:
    return Progress(
        trial=assignment.trial,
        attempt=assignment.attempt,
        examples_seen=round(1000 * share),
        examples_total=1000,
        examples_per_second=1.0,
        learning_rate=1e-4,
        train_loss=0.5,
        seconds=seconds,
    )


def test_device_hours_are_spent_by_all_runs_together(sqlite_url: str) -> None:
    """Each trial tells 12.5 seconds; 60 allow four of them, and no fifth that would take 6.7 or more."""
    config = study_at(sqlite_url, budget={"trials": None, "gpu_hours": 57 / 3600})
    with led(config) as coordinator:
        for number in range(2):
            train(coordinator, asked(coordinator, f"request {number}"))
    with led(config) as coordinator:
        outcomes = search(coordinator)
        assert len(outcomes) >= 2
        assert coordinator._store is not None
    [(spent,)] = rows(sqlite_url, "SELECT sum(seconds) FROM hpo_attempts")
    assert 57 - SECONDS_OF_LONGEST - 12.5 < spent <= 57 + 12.5


def seconds_left(coordinator: Coordinator) -> float:
    with coordinator._store.transaction():
        return coordinator._seconds_left(START)


def test_what_a_running_trial_has_taken_counts_as_it_goes(sqlite_url: str) -> None:
    """Near its end it has little left to take, and is in no sum of trials that are over yet."""
    config = study_at(sqlite_url, budget={"trials": None, "gpu_hours": 16 / 3600})
    with led(config) as coordinator:
        running = asked(coordinator, "a")  # two epochs of three: 6.67 seconds
        for milestone in running.milestones[:-1]:
            coordinator.observe(report_at(running, milestone, 0.5))
        other = asked(coordinator, "b")
        coordinator.observe(report_at(other, other.milestones[0], 0.5))
        taken = length(running) + length(other)
        left = seconds_left(coordinator)
        assert 16 - taken - 1 < left <= 16 - taken
        coordinator.finish(replace(ended(running, Ending.PAUSED), seconds=5.0))
        assert asked(coordinator, "on").trial == running.trial
        assert seconds_left(coordinator) == pytest.approx(left, abs=0.2)


def test_an_attempt_that_went_on_from_a_checkpoint_counts_its_seconds_once(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        first = asked(coordinator, "a")
        coordinator.finish(ended(first, Ending.PAUSED))
        again = asked(coordinator, "b")
        best = report_at(again, again.milestones[-1], 0.5)
        coordinator.finish(replace(ended(again, Ending.DIED), seconds=3.0))
        again = asked(coordinator, "b again")
        outcome = replace(ended(again, Ending.COMPLETED, best), seconds=20.0, resumed_seconds=12.5)
        coordinator.finish(outcome)
        anew = asked(coordinator, "c")
        coordinator.finish(ended(anew, Ending.PAUSED))
        coordinator.finish(replace(ended(asked(coordinator, "d"), Ending.PRUNED), seconds=1.0))
        with coordinator._store.transaction():
            assert coordinator._store.attempts.device_seconds() == 12.5 + 3.0 + 7.5 + 12.5 + 1.0


@pytest.mark.parametrize(
    ("compute", "devices"),
    [({}, 1), ({"ranks": 4}, 4), ({"gpus_per_trial": 8}, 8), ({"gpus_per_trial": 0.5}, 0.5), ({"slots": 4}, 0.25)],
)
def test_device_hours_count_the_devices_of_a_trial(sqlite_url: str, compute: dict[str, Any], devices: float) -> None:
    budget = {"gpu_hours": 1, "trials": 50}
    with led(study_at(sqlite_url, compute=compute, budget=budget)) as coordinator:
        coordinator.finish(replace(ended(asked(coordinator, "a"), Ending.PRUNED), seconds=900 / devices))
        with coordinator._store.transaction():
            assert coordinator._store.attempts.device_seconds() == pytest.approx(900)
        assert seconds_left(coordinator) == pytest.approx((3600 - 900) / devices)


def test_device_hours_count_the_slots_that_were_measured(sqlite_url: str) -> None:
    config = study_at(sqlite_url, compute={"slots": "auto"}, budget={"gpu_hours": 1, "trials": 50})
    with led(config) as coordinator:
        assert seconds_left(coordinator) == pytest.approx(3600)
        coordinator.use_slots(4)
        coordinator.finish(replace(ended(asked(coordinator, "a"), Ending.PRUNED), seconds=3600))
        assert coordinator.device_seconds() == pytest.approx(3600), "over a quarter of a device"
        assert seconds_left(coordinator) == pytest.approx(3 * 3600)


def test_a_deadline_that_is_past_is_refused(sqlite_url: str, clock: Clock) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"^budget\.until: '2020-01-01 07:30' is past"),
        led(study_at(sqlite_url, budget={"until": "2020-01-01 07:30"}), clock=clock),
    ):
        pass


def test_a_run_that_was_cut_keeps_its_deadline(sqlite_url: str, clock: Clock) -> None:
    config = study_at(sqlite_url, budget={"time": "8h"})
    with led(config, clock=clock) as coordinator:
        assert coordinator.limits.deadline == START + 8 * 3600
    clock.now += 3600
    with led(config, clock=clock) as coordinator:  # it was killed: no end was recorded
        assert coordinator.limits.deadline == START + 8 * 3600
        coordinator.end("finished")
    with led(config, clock=clock) as coordinator:  # a new night
        assert coordinator.limits.deadline == clock.now + 8 * 3600
    clock.now += 9 * 3600
    with led(config, clock=clock) as coordinator:  # that night is over
        assert coordinator.limits.deadline == clock.now + 8 * 3600
    with led(study_at(sqlite_url, budget={"time": "2h"}), clock=clock) as coordinator:
        assert coordinator.limits.deadline == clock.now + 2 * 3600


def test_a_run_that_was_cut_ends_when_it_is_told_to_now(sqlite_url: str, clock: Clock) -> None:
    """Only the same words are kept: another end, or none, is what somebody wants now."""
    until = {"until": "2027-01-16 07:30"}
    with led(study_at(sqlite_url, budget=until), clock=clock) as coordinator:
        kept = coordinator.limits.deadline
    with led(study_at(sqlite_url), clock=clock) as coordinator:
        assert coordinator.limits.deadline is None
    with led(study_at(sqlite_url, budget=until), clock=clock) as coordinator:
        assert coordinator.limits.deadline == kept
    with led(study_at(sqlite_url, budget={"until": "2027-01-16 09:30"}), clock=clock) as coordinator:
        assert coordinator.limits.deadline == kept + 7200
    both = {"time": "8h", **until}
    with led(study_at(sqlite_url, budget=both), clock=clock) as coordinator:
        first = coordinator.limits.deadline
    clock.now += 60
    with led(study_at(sqlite_url, budget=both), clock=clock) as coordinator:
        assert coordinator.limits.deadline == first


def test_near_a_deadline_random_configurations_are_drawn_once_for_all_that_ask(
    sqlite_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand idle workers ask for a trial that fits; each answer would otherwise draw as many configurations."""
    drawn = 0
    suggest = SearchSpace.suggest

    def counted(space: SearchSpace, trial: BaseTrial) -> dict[str, Value]:
        nonlocal drawn
        drawn += 1
        return suggest(space, trial)

    monkeypatch.setattr(SearchSpace, "suggest", counted)
    with led(study_at(sqlite_url, budget={"trials": None, "time": "1m"}), clock=clock) as coordinator:
        train(coordinator, asked(coordinator, "default"))
        clock.now += 58
        assert asked(coordinator, "first") is None
        assert drawn > MAX_DRAWS
        before = drawn
        assert [asked(coordinator, f"request {number}") for number in range(10)] == [None] * 10
    assert drawn == before
