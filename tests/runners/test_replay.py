"""Workers on a virtual clock: what they say and when, by hand; what a decision and a mishap do to it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Action, Assignment, Begun, Decision, Ending, Milestone, Outcome, Progress, Report
from hpo.runners.replay.curves import Curve, Point
from hpo.runners.replay.faults import ReplayFault, ReplayFaultKind, ReplayFaults
from hpo.runners.replay.workforce import EVENING, ReplayWorkforce, VirtualClock
from hpo.runners.workforce import Lost, Said, Workforce

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


class Unannounced(ReplayWorkforce):
    """What is said of trials that have begun is left out."""

    def listen(self, seconds: float) -> Sequence[tuple[str, Said]]:
        heard = super().listen(seconds)
        said = [(worker, one) for worker, one in heard if not isinstance(one, Begun)]
        return said if said or not heard else self.listen(seconds)


def workforce_of(*seconds: float, workers: int = 1, **options: Any) -> tuple[ReplayWorkforce, VirtualClock]:
    clock = VirtualClock()
    return Unannounced(workers, options.pop("source", Fixed(*seconds)), clock, **options), clock


def all_said(workforce: Workforce, clock: VirtualClock, most: float = 24 * HOUR) -> list[tuple[float, str, Said]]:
    """Return everything that is said until nobody says anything for `most` seconds, each with its moment."""
    said: list[tuple[float, str, Said]] = []
    while heard := workforce.listen(most):
        said += [(clock() - EVENING, worker, one) for worker, one in heard]
    return said


def endings(said: list[tuple[float, str, Said]]) -> list[tuple[float, str, int, Ending]]:
    return [(at, worker, one.trial, one.ending) for at, worker, one in said if isinstance(one, Outcome)]


def test_three_workers_end_when_counting_by_hand_says() -> None:
    workforce, clock = workforce_of(50.0, 20.0, 30.0, 40.0, 10.0, workers=3)
    waiting = [attempt_at(trial) for trial in range(5)]
    for worker in workforce.capacities:
        workforce.give(worker, waiting.pop(0))
    ended: list[tuple[float, str, int]] = []
    while len(ended) < 5:
        for worker, said in workforce.listen(HOUR):
            if isinstance(said, Outcome):
                ended.append((clock() - EVENING, worker, said.trial))
                if waiting:
                    workforce.give(worker, waiting.pop(0))
    # The second is free at 20 and takes the fourth trial; the third at 30 and takes the last.
    assert ended == [
        (20.0, "replay-1", 1), (30.0, "replay-2", 2), (40.0, "replay-2", 4),
        (50.0, "replay-0", 0), (60.0, "replay-1", 3),
    ]  # fmt: skip
    assert workforce.trained_seconds == pytest.approx(150.0)


def test_a_trial_reports_at_its_milestones_and_then_ends() -> None:
    workforce, clock = workforce_of(100.0)
    workforce.give("replay-0", attempt_at(0, rungs=(40, 500, 1000)))
    (at_first, _, first), (at_half, _, half), (at_end, _, end), (at_outcome, _, outcome) = all_said(workforce, clock)
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
    workforce, clock = workforce_of(100.0)
    workforce.give("replay-0", attempt_at(0, rungs=(1000,)))
    assert not workforce.listen(99.0)
    assert clock() == EVENING + 99
    ((_, report),) = workforce.listen(99.0)
    assert isinstance(report, Report)
    assert clock() == EVENING + 100


def test_a_stop_ends_a_trial_at_the_moment_of_its_report() -> None:
    workforce, clock = workforce_of(100.0)
    workforce.give("replay-0", attempt_at(0))
    ((_, report),) = workforce.listen(HOUR)
    assert isinstance(report, Report)
    workforce.apply("replay-0", Decision(trial=0, attempt=1, action=Action.STOP))
    ((at, _, outcome),) = all_said(workforce, clock)
    assert isinstance(outcome, Outcome)
    assert (at, outcome.ending, outcome.best, outcome.seconds) == (50.0, Ending.PRUNED, report, 50.0)
    assert outcome.reason == "Stopped after step 250 of 500."


def test_a_decision_about_another_attempt_or_after_the_last_step_does_nothing() -> None:
    workforce, clock = workforce_of(100.0)
    workforce.give("replay-0", attempt_at(0, attempt=3, rungs=(1000,)))
    workforce.listen(50.0)
    workforce.apply("replay-0", Decision(trial=0, attempt=2, action=Action.STOP))
    workforce.listen(HOUR)
    workforce.apply("replay-0", Decision(trial=0, attempt=3, action=Action.PAUSE))
    assert endings(all_said(workforce, clock)) == [(100.0, "replay-0", 0, Ending.COMPLETED)]


def test_a_paused_trial_goes_on_from_there_on_another_worker() -> None:
    workforce, clock = workforce_of(100.0, workers=2)
    workforce.give("replay-0", attempt_at(0))
    ((_, report),) = workforce.listen(HOUR)
    assert not workforce.listen(20.0)
    workforce.apply("replay-0", Decision(trial=0, attempt=1, action=Action.PAUSE))
    ((_, paused),) = workforce.listen(0.0)
    assert isinstance(paused, Outcome)
    assert (paused.ending, paused.seconds, paused.reason) == (Ending.PAUSED, 70.0, "Paused after step 350 of 500.")
    workforce.listen(1000.0)
    workforce.give("replay-1", attempt_at(0, attempt=2))
    (_, _, last), (at, worker, outcome) = all_said(workforce, clock)
    assert isinstance(last, Report)
    assert isinstance(outcome, Outcome)
    assert (at, worker) == (1070.0 + 30.0, "replay-1")
    assert (last.rung, last.attempt, last.seconds) == (1000, 2, 100.0)
    assert (outcome.ending, outcome.seconds, outcome.resumed_examples) == (Ending.COMPLETED, 100.0, 0.7 * EXAMPLES)
    assert isinstance(report, Report)
    assert report.rung == 500


def test_what_a_worker_holds_follows_at_once_and_it_holds_no_more_than_it_may() -> None:
    workforce, clock = workforce_of(10.0, 20.0, 30.0)
    workforce.give("replay-0", attempt_at(0))
    workforce.give("replay-0", attempt_at(1))
    with pytest.raises(AssertionError):
        workforce.give("replay-0", attempt_at(2))
    assert endings(all_said(workforce, clock)) == [
        (10.0, "replay-0", 0, Ending.COMPLETED),
        (30.0, "replay-0", 1, Ending.COMPLETED),
    ]


def test_a_pause_gives_back_what_was_not_begun() -> None:
    workforce, clock = workforce_of(10.0, 20.0)
    workforce.give("replay-0", attempt_at(0))
    workforce.listen(1.0)
    workforce.give("replay-0", attempt_at(1))
    workforce.apply("replay-0", Decision(trial=1, attempt=1, action=Action.PAUSE))
    assert endings(all_said(workforce, clock)) == [
        (1.0, "replay-0", 1, Ending.PAUSED),
        (10.0, "replay-0", 0, Ending.COMPLETED),
    ]


def test_a_long_trial_says_how_far_it_is_between_its_reports() -> None:
    workforce, clock = workforce_of(100.0, speaks_every=30.0)
    workforce.give("replay-0", attempt_at(0))
    said = all_said(workforce, clock)
    assert [(at, type(one)) for at, _, one in said] == [
        (30.0, Progress), (50.0, Report), (80.0, Progress), (100.0, Report), (100.0, Outcome)
    ]  # fmt: skip
    assert [one.examples_seen / EXAMPLES for _, _, one in said if isinstance(one, Progress)] == [0.3, 0.8]
    assert {one.examples_per_second for _, _, one in said if isinstance(one, Progress)} == {EXAMPLES / 100}


@pytest.mark.parametrize("ending", [Ending.DIVERGED, Ending.INFEASIBLE])
def test_a_curve_that_breaks_off_ends_so(ending: Ending) -> None:
    workforce, clock = workforce_of(source=Fixed(100.0, ending=ending, reached=0.6))
    workforce.give("replay-0", attempt_at(0))
    (_, _, report), (at, _, outcome) = all_said(workforce, clock)
    assert isinstance(outcome, Outcome)
    assert (at, outcome.ending, outcome.best) == (60.0, ending, report)
    assert outcome.reason


def test_a_trial_over_its_limit_is_given_up_as_not_trainable() -> None:
    workforce, clock = workforce_of(100.0)
    workforce.give("replay-0", attempt_at(0, limit_seconds=70.0))
    assert endings(all_said(workforce, clock)) == [(70.0, "replay-0", 0, Ending.INFEASIBLE)]


def test_a_trial_out_of_patience_ends_itself() -> None:
    class Falling(Fixed):
        def curve(self, assignment: Assignment) -> Curve:
            rising = super().curve(assignment)
            points = tuple(replace(point, score=1 - point.score) for point in rising.points)
            return replace(rising, points=points)

    impatient = Hyperparameters(epochs=4, early_stopping_patience=2)
    workforce, clock = workforce_of(source=Falling(100.0))
    workforce.give("replay-0", attempt_at(0, rungs=(250, 500, 750, 1000), hyperparameters=impatient))
    *_, (at, _, outcome) = all_said(workforce, clock)
    assert isinstance(outcome, Outcome)
    assert (at, outcome.ending, outcome.best and outcome.best.rung) == (75.0, Ending.COMPLETED, 250)


def fault(kind: ReplayFaultKind, **where: Any) -> ReplayFaults:
    return ReplayFaults(script=(ReplayFault(kind=kind, **where),), restart_seconds=15.0)


def test_a_worker_dies_with_what_it_held_and_its_trial_goes_on_from_its_last_evaluation() -> None:
    workforce, clock = workforce_of(100.0, 10.0, faults=fault(ReplayFaultKind.DIE, trial=0, attempt=1, share=0.8))
    workforce.give("replay-0", attempt_at(0))
    workforce.give("replay-0", attempt_at(1))
    (_, _, report), (at, _, lost) = all_said(workforce, clock)
    assert isinstance(report, Report)
    assert isinstance(lost, Lost)
    assert at == 80.0
    again = clock()
    workforce.give("replay-0", attempt_at(0, attempt=2))
    (_, _, last), (at, _, outcome) = all_said(workforce, clock)
    assert isinstance(outcome, Outcome)
    # A day has passed meanwhile, so its successor has long been there.
    assert at == again - EVENING + 50.0
    assert (outcome.resumed_examples, outcome.seconds) == (EXAMPLES / 2, 100.0)
    assert isinstance(last, Report)
    assert last.rung == 1000


def test_a_successor_begins_when_it_has_started() -> None:
    workforce, clock = workforce_of(100.0, 10.0, faults=ReplayFaults(restart_seconds=15.0))
    workforce.give("replay-0", attempt_at(0))
    workforce.listen(5.0)
    workforce.kill("replay-0", "It was time.")
    assert workforce.listen(HOUR) == [("replay-0", Lost(reason="It was time."))]
    workforce.give("replay-0", attempt_at(1))
    assert endings(all_said(workforce, clock)) == [(5.0 + 15.0 + 10.0, "replay-0", 1, Ending.COMPLETED)]


def test_a_pause_before_a_successor_has_started_takes_no_time_back() -> None:
    workforce, _ = workforce_of(10.0, faults=ReplayFaults(restart_seconds=15.0))
    workforce.kill("replay-0", "It was time.")
    workforce.listen(HOUR)
    workforce.give("replay-0", attempt_at(0))
    workforce.listen(5.0)
    assert workforce.trained_seconds == 0.0
    workforce.apply("replay-0", Decision(trial=0, attempt=1, action=Action.PAUSE))
    [(_, paused)] = workforce.listen(HOUR)
    assert isinstance(paused, Outcome)
    assert (paused.ending, paused.seconds, paused.reason) == (Ending.PAUSED, 0.0, "Paused after step 0 of 500.")


def test_a_trial_that_always_dies_comes_no_further() -> None:
    workforce, clock = workforce_of(100.0, faults=fault(ReplayFaultKind.DIE, trial=0, share=0.8))
    resumed: list[float] = []
    for attempt in (1, 2, 3):
        began = clock()
        workforce.give("replay-0", attempt_at(0, attempt))
        while not any(isinstance(said, Lost) for _, said in workforce.listen(HOUR)):
            pass
        resumed.append(clock() - began)
    # From its beginning, then twice from its one evaluation, after the restart.
    assert resumed == [80.0, 15.0 + 30.0, 15.0 + 30.0]


def test_an_attempt_fails() -> None:
    workforce, clock = workforce_of(100.0, 100.0, faults=fault(ReplayFaultKind.FAIL, worker="replay-0", trial=0))
    workforce.give("replay-0", attempt_at(0, rungs=(1000,)))
    workforce.give("replay-0", attempt_at(1, rungs=(1000,)))
    assert endings(all_said(workforce, clock)) == [
        (50.0, "replay-0", 0, Ending.FAILED),
        (150.0, "replay-0", 1, Ending.COMPLETED),
    ]


def test_a_worker_that_hangs_says_nothing_until_it_is_killed() -> None:
    workforce, clock = workforce_of(100.0, faults=fault(ReplayFaultKind.HANG, share=0.7), speaks_every=30.0)
    workforce.give("replay-0", attempt_at(0))
    assert [(at, type(one)) for at, _, one in all_said(workforce, clock)] == [(30.0, Progress), (50.0, Report)]
    workforce.kill("replay-0", "It said nothing.")
    assert [said for _, said in workforce.listen(0.0)] == [Lost(reason="It said nothing.")]


def test_a_slow_worker_takes_as_many_times_as_long() -> None:
    workforce, clock = workforce_of(100.0, 100.0, workers=2, faults=ReplayFaults(slowness={"replay-1": 3.0}))
    workforce.give("replay-0", attempt_at(0))
    workforce.give("replay-1", attempt_at(1))
    said = all_said(workforce, clock)
    assert endings(said) == [(100.0, "replay-0", 0, Ending.COMPLETED), (300.0, "replay-1", 1, Ending.COMPLETED)]
    assert [one.seconds for _, worker, one in said if isinstance(one, Outcome) and worker == "replay-1"] == [300.0]


def test_of_a_discarded_worker_nothing_is_heard() -> None:
    workforce, clock = workforce_of(100.0, 100.0, workers=2)
    workforce.give("replay-0", attempt_at(0))
    workforce.give("replay-1", attempt_at(1))
    workforce.listen(10.0)
    workforce.discard("replay-0")
    assert list(workforce.workers) == list(workforce.capacities) == ["replay-1"]
    assert {worker for _, worker, _ in all_said(workforce, clock)} == {"replay-1"}


def test_drawn_mishaps_come_as_often_as_they_should_and_the_same_again() -> None:
    rates: Mapping[ReplayFaultKind, float] = {ReplayFaultKind.DIE: 0.1, ReplayFaultKind.FAIL: 0.2}
    drawn = [ReplayFaults(rates=rates, seed=1).under("replay-0", attempt_at(trial)) for trial in range(2000)]
    kinds = Counter(one.kind for one in drawn if one is not None)
    # Within four standard deviations of a binomial of 2,000.
    assert kinds[ReplayFaultKind.DIE] == pytest.approx(200, abs=54)
    assert kinds[ReplayFaultKind.FAIL] == pytest.approx(400, abs=72)
    assert drawn == [ReplayFaults(rates=rates, seed=1).under("replay-0", attempt_at(trial)) for trial in range(2000)]
    assert drawn != [ReplayFaults(rates=rates, seed=2).under("replay-0", attempt_at(trial)) for trial in range(2000)]


def test_the_same_replay_says_the_same() -> None:
    def told() -> list[tuple[float, str, Said]]:
        workforce, clock = workforce_of(
            50.0, 20.0, workers=2, faults=ReplayFaults(rates={ReplayFaultKind.DIE: 0.5}, seed=3)
        )
        for trial, worker in enumerate(workforce.capacities):
            workforce.give(worker, attempt_at(trial))
        return all_said(workforce, clock)

    assert told() == told()


def test_the_lead_worker_says_what_a_trial_will_cost_and_trains_one_in_no_time() -> None:
    workforce, clock = workforce_of(100.0, metric="macro_f1")
    probe = workforce.lead.probe(CONFIGURATION, steps=2)
    assert (probe.feasible, probe.seconds_per_step * STEPS) == (True, 100.0)
    assert workforce.lead.objective.metric == "macro_f1"
    workforce.lead.admit(attempt_at(0))
    said = [one for _ in range(3) for one in workforce.lead.advance()]
    assert [type(one) for one in said] == [Report, Report, Outcome]
    assert clock() == EVENING
    assert workforce.lead.test_evaluation(attempt_at(0)).scores.objective == 1.0


def test_the_lead_worker_knows_what_does_not_fit() -> None:
    workforce, _ = workforce_of(source=Fixed(100.0, ending=Ending.INFEASIBLE, reached=0.1))
    assert not workforce.lead.probe(CONFIGURATION, steps=2).feasible
