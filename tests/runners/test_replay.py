"""Replay on a virtual clock: the messages of workers and their moments, by hand, and the effect of decisions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Action, Assignment, Begun, Decision, Ending, Milestone, Outcome, Progress, Report
from hpo.runners.replay.curves import Curve, Point
from hpo.runners.replay.worker_pool import SIMULATION_START, ReplayWorkerPool, VirtualClock
from hpo.runners.worker_pool import WorkerMessage

HOUR = 3600.0
CONFIGURATION = Hyperparameters(epochs=4, batch_size=16)
# 4 epochs of 2,000 texts in batches of 16.
STEPS, EXAMPLES = 500, 8000


class Fixed:
    """Trial n takes the n-th of some seconds; its score is the share that is trained."""

    def __init__(self, *seconds: float, ending: Ending = Ending.COMPLETED, reached: float = 1.0) -> None:
        self._seconds = seconds
        self._ending, self._reached = ending, reached

    def curve(self, assignment: Assignment) -> Curve:
        whole = self._seconds[assignment.trial]
        points = tuple(
            Point(rung=m.rung, score=m.rung / 1000, seconds=whole * m.rung / 1000)
            for m in assignment.milestones
            if m.rung <= 1000 * self._reached
        )
        return Curve(
            hyperparameters=assignment.hyperparameters,
            length=1000,
            points=points,
            ending=self._ending,
            seconds=whole * self._reached,
        )

    def true_score(self, assignment: Assignment) -> float:
        return 1.0


def attempt_at(trial: int, attempt: int = 1, rungs: tuple[int, ...] = (500, 1000), **changes: Any) -> Assignment:
    return Assignment(
        trial=trial,
        attempt=attempt,
        hyperparameters=changes.pop("hyperparameters", CONFIGURATION),
        seed=trial,
        milestones=tuple(Milestone(rung=rung, full=True) for rung in rungs),
        maximum_passes=4.0,
        **changes,
    )


class Unannounced(ReplayWorkerPool):
    """What is said of trials that have begun is left out."""

    def listen(self, seconds: float) -> Sequence[tuple[str, WorkerMessage]]:
        heard = super().listen(seconds)
        said = [(worker, one) for worker, one in heard if not isinstance(one, Begun)]
        return said if said or not heard else self.listen(seconds)


def pool_of(*seconds: float, workers: int = 1, **options: Any) -> tuple[ReplayWorkerPool, VirtualClock]:
    clock, options = VirtualClock(), {"metric": "score", "progress_every": 600.0} | options
    return Unannounced(workers, options.pop("source", Fixed(*seconds)), clock, **options), clock


def all_said(
    pool: ReplayWorkerPool, clock: VirtualClock, most: float = 24 * HOUR
) -> list[tuple[float, str, WorkerMessage]]:
    """Return everything that is said until nobody says anything for `most` seconds, each with its moment."""
    said: list[tuple[float, str, WorkerMessage]] = []
    while heard := pool.listen(most):
        said += [(clock() - SIMULATION_START, worker, one) for worker, one in heard]
    return said


def endings(said: list[tuple[float, str, WorkerMessage]]) -> list[tuple[float, str, int, Ending]]:
    return [(at, worker, one.trial, one.ending) for at, worker, one in said if isinstance(one, Outcome)]


def test_three_workers_end_when_counting_by_hand_says() -> None:
    pool, clock = pool_of(50.0, 20.0, 30.0, 40.0, 10.0, workers=3)
    waiting = [attempt_at(trial) for trial in range(5)]
    for worker in pool.capacities:
        pool.give(worker, waiting.pop(0))
    ended: list[tuple[float, str, int]] = []
    while len(ended) < 5:
        for worker, said in pool.listen(HOUR):
            if isinstance(said, Outcome):
                ended.append((clock() - SIMULATION_START, worker, said.trial))
                if waiting:
                    pool.give(worker, waiting.pop(0))
    # The second is free at 20 and takes the fourth trial; the third at 30 and takes the last.
    assert ended == [
        (20.0, "replay-1", 1), (30.0, "replay-2", 2), (40.0, "replay-2", 4),
        (50.0, "replay-0", 0), (60.0, "replay-1", 3),
    ]  # fmt: skip
    assert pool.trained_seconds == pytest.approx(150.0)


def test_a_trial_reports_at_its_milestones_and_then_ends() -> None:
    pool, clock = pool_of(100.0)
    pool.give("replay-0", attempt_at(0, rungs=(40, 500, 1000)))
    (at_first, _, first), (at_half, _, half), (at_end, _, end), (at_outcome, _, outcome) = all_said(pool, clock)
    assert (at_first, at_half, at_end, at_outcome) == (4.0, 50.0, 100.0, 100.0)
    assert isinstance(first, Report)
    assert isinstance(half, Report)
    assert isinstance(end, Report)
    assert isinstance(outcome, Outcome)
    assert (half.rung, half.step, half.examples_seen, half.epoch, half.seconds) == (
        500,
        STEPS / 2,
        EXAMPLES / 2,
        2.0,
        50,
    )
    # 20 steps are too few to judge by, warm-up lasts for 30; and of the last nothing is left to give up.
    assert (first.step, first.decides, half.decides, end.decides) == (20, False, True, False)
    assert (outcome.ending, outcome.best, outcome.seconds, outcome.resumed_examples) == (
        Ending.COMPLETED,
        end,
        100.0,
        0,
    )


def test_the_clock_goes_no_further_than_it_is_let() -> None:
    pool, clock = pool_of(100.0)
    pool.give("replay-0", attempt_at(0, rungs=(1000,)))
    assert not pool.listen(99.0)
    assert clock() == SIMULATION_START + 99
    ((_, report),) = pool.listen(99.0)
    assert isinstance(report, Report)
    assert clock() == SIMULATION_START + 100


def test_a_stop_ends_a_trial_at_the_moment_of_its_report() -> None:
    pool, clock = pool_of(100.0)
    pool.give("replay-0", attempt_at(0))
    ((_, report),) = pool.listen(HOUR)
    assert isinstance(report, Report)
    pool.apply("replay-0", Decision(trial=0, attempt=1, action=Action.STOP))
    ((at, _, outcome),) = all_said(pool, clock)
    assert isinstance(outcome, Outcome)
    assert (at, outcome.ending, outcome.best, outcome.seconds) == (50.0, Ending.PRUNED, report, 50.0)
    assert outcome.reason == "At step 250 of 500."


def test_a_decision_about_another_attempt_or_after_the_last_step_does_nothing() -> None:
    pool, clock = pool_of(100.0)
    pool.give("replay-0", attempt_at(0, attempt=3, rungs=(1000,)))
    pool.listen(50.0)
    pool.apply("replay-0", Decision(trial=0, attempt=2, action=Action.STOP))
    pool.listen(HOUR)
    pool.apply("replay-0", Decision(trial=0, attempt=3, action=Action.PAUSE))
    assert endings(all_said(pool, clock)) == [(100.0, "replay-0", 0, Ending.COMPLETED)]


def test_a_pause_ends_a_trial_between_two_reports() -> None:
    pool, clock = pool_of(100.0)
    pool.give("replay-0", attempt_at(0))
    ((_, report),) = pool.listen(HOUR)
    assert not pool.listen(20.0)
    pool.apply("replay-0", Decision(trial=0, attempt=1, action=Action.PAUSE))
    ((at, _, outcome),) = all_said(pool, clock)
    assert isinstance(outcome, Outcome)
    assert (at, outcome.ending, outcome.best, outcome.seconds) == (70.0, Ending.PAUSED, report, 70.0)
    assert outcome.reason == "At step 350 of 500."


def test_a_worker_trains_one_assignment_at_a_time() -> None:
    pool, _ = pool_of(10.0, 20.0)
    pool.give("replay-0", attempt_at(0))
    with pytest.raises(AssertionError):
        pool.give("replay-0", attempt_at(1))


def test_a_long_trial_says_how_far_it_is_between_its_reports() -> None:
    pool, clock = pool_of(100.0, progress_every=30.0)
    pool.give("replay-0", attempt_at(0))
    said = all_said(pool, clock)
    assert [(at, type(one)) for at, _, one in said] == [
        (30.0, Progress), (50.0, Report), (80.0, Progress), (100.0, Report), (100.0, Outcome)
    ]  # fmt: skip
    assert [one.examples_seen / EXAMPLES for _, _, one in said if isinstance(one, Progress)] == [0.3, 0.8]
    assert {one.examples_per_second for _, _, one in said if isinstance(one, Progress)} == {EXAMPLES / 100}


@pytest.mark.parametrize("ending", [Ending.DIVERGED, Ending.INFEASIBLE])
def test_a_curve_that_breaks_off_ends_so(ending: Ending) -> None:
    pool, clock = pool_of(source=Fixed(100.0, ending=ending, reached=0.6))
    pool.give("replay-0", attempt_at(0))
    (_, _, report), (at, _, outcome) = all_said(pool, clock)
    assert isinstance(outcome, Outcome)
    assert (at, outcome.ending, outcome.best) == (60.0, ending, report)
    assert outcome.reason


def test_a_trial_over_its_limit_is_given_up_as_not_trainable() -> None:
    pool, clock = pool_of(100.0)
    pool.give("replay-0", attempt_at(0, limit_seconds=70.0))
    assert endings(all_said(pool, clock)) == [(70.0, "replay-0", 0, Ending.INFEASIBLE)]


def test_a_trial_out_of_patience_ends_itself() -> None:
    class Falling(Fixed):
        def curve(self, assignment: Assignment) -> Curve:
            rising = super().curve(assignment)
            points = tuple(replace(point, score=1 - point.score) for point in rising.points)
            return replace(rising, points=points)

    impatient = Hyperparameters(epochs=4, early_stopping_patience=2)
    pool, clock = pool_of(source=Falling(100.0))
    pool.give("replay-0", attempt_at(0, rungs=(250, 500, 750, 1000), hyperparameters=impatient))
    *_, (at, _, outcome) = all_said(pool, clock)
    assert isinstance(outcome, Outcome)
    assert (at, outcome.ending, outcome.best and outcome.best.rung) == (75.0, Ending.COMPLETED, 250)
