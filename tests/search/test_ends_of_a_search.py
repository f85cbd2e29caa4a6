"""A search ends when nothing improves, its budget is spent or somebody asks, and says which of these it was."""

import math
from dataclasses import replace
from typing import Any

import pytest
from optuna.samplers import PartialFixedSampler, RandomSampler
from optuna.trial import TrialState

from hpo.messages import Assignment, Ending
from hpo.search.proposals import MAX_DEFERRED, TOO_LITTLE_TIME
from hpo.search.samplers import SAMPLERS, Sampler
from hpo.search.steering import StopRequests
from hpo.search.study_opening import leading
from hpo.space.search_space import SearchSpace
from tests.search.conftest import Clock, asked, probed
from tests.search.scripted import (
    CPU,
    SPACE,
    ended,
    led,
    plain_study,
    plain_trials,
    report_at,
    rising,
    search,
    study_at,
    train,
    written,
)


def test_it_ends_when_nothing_has_improved_for_long_enough(sqlite_url: str) -> None:
    config = study_at(sqlite_url, budget={"trials": 50, "patience": 5}, search={"repeat_default": False})
    with led(config) as coordinator:
        outcomes = search(coordinator, lambda assignment, _: 0.5 + 0.01 * min(assignment.trial, 4))
        assert coordinator.ended_because == "The last 5 trials brought no improvement above the noise floor."
    assert len(outcomes) == 10


def test_less_than_the_noise_floor_is_no_improvement(sqlite_url: str) -> None:
    """The default scores 0.50, and on its second seed, when 20 are over, 0.56; all others rise by less than that."""
    config = study_at(sqlite_url, budget={"trials": 50, "patience": 5})

    def curve(assignment: Assignment, _rung: int) -> float:
        return {0: 0.50, 20: 0.56}.get(assignment.trial, 0.57 + 0.001 * assignment.trial)

    with led(config) as coordinator:
        assert len(search(coordinator, curve)) == 21
    assert [trial.number for trial in plain_trials(sqlite_url) if "fixed_params" in trial.system_attrs] == [0, 20]


@pytest.mark.parametrize(
    ("budget", "changed", "defaults"),
    [
        ({"trials": 40, "patience": 25}, {}, [0, 25]),
        ({"trials": 20, "patience": 5}, {}, [0]),  # None is left for it.
        ({"trials": 25}, {}, [0]),
        ({"time": "1h", "trials": 25}, {}, [0]),
        ({"trials": 25, "patience": 5}, {"search": {"repeat_default": False}}, [0]),
        ({"trials": 25, "patience": 5}, {"space": {"seed": {"values": list(range(9))}, "epochs": {"value": 1}}}, [0]),
    ],
)
def test_the_second_seed_of_the_default_costs_no_early_trial(
    sqlite_url: str, budget: dict[str, Any], changed: dict[str, Any], defaults: list[int]
) -> None:
    """It serves the noise floor of `patience` alone, and comes when 20 trials are over, after a restart too."""
    config = study_at(sqlite_url, budget=budget, **changed)
    for name in ("first", "second"):
        with led(config) as coordinator:
            for number in range(21):
                if assignment := coordinator.next_assignment(f"{name}-{number}", CPU):
                    train(coordinator, assignment, lambda assignment, _: assignment.trial / 100)
    enqueued = [trial.number for trial in plain_trials(sqlite_url) if "fixed_params" in trial.system_attrs]
    assert enqueued == defaults


def test_without_limits_nothing_is_too_long(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        assert coordinator.trains_until == math.inf
        coordinator.expect(coordinator.forecasts.costs, reserve=1e9)
        assert len(search(coordinator, rising)) == 4


def asks_to_stop(url: str, trial: int | None) -> None:
    number = "NULL" if trial is None else trial
    written(
        url,
        "INSERT INTO hpo_events (study_id, happened_at, kind, trial, detail) "
        f"SELECT study_id, 0, 'stop_asked', {number}, '{{}}' FROM hpo_studies",
    )


def test_what_is_asked_from_outside_is_told_once_and_only_of_this_run(database_url: str) -> None:
    nothing = StopRequests(stop=False, trials=frozenset())
    with led(study_at(database_url)) as coordinator:
        asks_to_stop(database_url, None)
        assert coordinator.stop_requests() == StopRequests(stop=True, trials=frozenset())
        assert coordinator.stop_requests() == nothing
        asks_to_stop(database_url, None)
    with led(study_at(database_url)) as coordinator:
        assert coordinator.stop_requests() == nothing
        running = asked(coordinator, "a")
        assert running is not None
        asks_to_stop(database_url, running.trial)
        assert coordinator.stop_requests() == StopRequests(stop=False, trials=frozenset({running.trial}))


def test_a_stop_that_is_asked_for_while_a_run_still_loads_its_model_is_heard(sqlite_url: str) -> None:
    config = study_at(sqlite_url)
    with led(config):
        pass
    space = SearchSpace.from_mapping(SPACE, "scripted")
    with leading(config, space, data_fingerprint="fingerprint") as coordinator:
        asks_to_stop(sqlite_url, None)
        coordinator.begin(metric="macro_f1", versions={})
        assert coordinator.stop_requests().stop


def test_a_trial_deferred_and_then_pruned_makes_room_for_another(sqlite_url: str, clock: Clock) -> None:
    with led(study_at(sqlite_url, budget={"trials": None, "time": "1m"}), clock=clock) as coordinator:
        train(coordinator, asked(coordinator, "default"))
        clock.now += 60 - 2  # nothing fits
        assert asked(coordinator, "late") is None
        aside = [trial.number for trial in plain_trials(sqlite_url) if trial.state == TrialState.WAITING]
        assert len(aside) == MAX_DEFERRED
        asks_to_stop(sqlite_url, aside[0])
        coordinator.stop_requests()
        assert asked(coordinator, "later") is None
        waiting = [trial for trial in plain_trials(sqlite_url) if trial.state == TrialState.WAITING]
        assert len(waiting) == MAX_DEFERRED


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_where_the_sampler_favours_what_is_too_long_a_short_one_is_drawn(
    sqlite_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = PartialFixedSampler({"epochs": 3}, RandomSampler(seed=0))
    favours = Sampler(description="the longest", source="", build=lambda config, space: long)
    monkeypatch.setitem(SAMPLERS, "random", favours)  # type: ignore[arg-type]
    with led(study_at(sqlite_url, budget={"trials": None, "time": "1m"}), clock=clock) as coordinator:
        train(coordinator, asked(coordinator, "default"))
        clock.now += 60 - 5  # only trials of one epoch of three fit
        assignment = asked(coordinator, "late")
        assert assignment is not None
        assert assignment.hyperparameters.epochs == 1
        train(coordinator, assignment)
    trials = plain_trials(sqlite_url)
    assert sum(trial.state == TrialState.WAITING for trial in trials) == MAX_DEFERRED
    assert trials[assignment.trial].user_attrs["proposed_by"] == "random"


def test_what_is_tried_in_order_is_not_drawn(sqlite_url: str, clock: Clock) -> None:
    """A grid has a combination for each trial: one drawn beside it would be tried twice."""
    space = {"epochs": {"values": [2, 3]}, "batch_size": {"values": [1, 2, 4, 8]}}
    config = study_at(sqlite_url, space=space, search={"sampler": "grid"}, budget={"trials": None, "time": "1m"})
    with led(config, clock=clock) as coordinator:
        train(coordinator, asked(coordinator, "default"))
        clock.now += 60 - 1
        assert asked(coordinator, "late") is None


def test_why_it_ended_is_what_holds_at_the_end(sqlite_url: str, clock: Clock) -> None:
    """What was too long while another trial ran is trained when that has taken less than was expected."""
    budget = {"trials": 2, "gpu_hours": 10 / 3600}
    with led(study_at(sqlite_url, budget=budget, search={"repeat_default": False}), clock=clock) as coordinator:
        running = asked(coordinator, "a")
        coordinator.expect(probed(12.0), reserve=0.0)
        assert asked(coordinator, "b") is None
        assert coordinator.ended_because == TOO_LITTLE_TIME
        coordinator.finish(replace(ended(running, Ending.PRUNED), seconds=1.0))
        coordinator.expect(probed(6.0), reserve=0.0)
        train(coordinator, asked(coordinator, "c"))
        assert asked(coordinator, "d") is None
        assert coordinator.ended_because is None


def test_a_waiting_trial_that_is_to_be_stopped_is_pruned(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        paused = asked(coordinator, "a")
        coordinator.observe(report_at(paused, paused.milestones[0], 0.4))
        coordinator.finish(ended(paused, Ending.PAUSED))
        asks_to_stop(sqlite_url, paused.trial)
        assert coordinator.stop_requests() == StopRequests(stop=False, trials=frozenset())
        assert asked(coordinator, "b").trial == 1
    pruned = plain_trials(sqlite_url)[0]
    assert (pruned.state, pruned.value) == (TrialState.PRUNED, 0.4)


def test_a_trial_enqueued_by_optunas_own_tools_is_taken_up(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        train(coordinator, asked(coordinator, "default"))
        with plain_study(sqlite_url) as study:
            study.enqueue_trial({"learning_rate": 2e-4, "optimizer": "adamw", "epochs": 1})
        enqueued = asked(coordinator, "next")
        assert enqueued.hyperparameters.learning_rate == 2e-4
        train(coordinator, enqueued)
    assert plain_trials(sqlite_url)[1].user_attrs["proposed_by"] == "enqueued"
