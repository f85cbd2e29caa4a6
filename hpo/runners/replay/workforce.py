"""Workers that replay learning curves on a virtual clock: a night in seconds."""

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from hpo.messages import Action, Assignment, Begun, Capacity, Decision, Ending, Outcome
from hpo.runners.replay.attempt import ReplayedAttempt, ReplayState
from hpo.runners.replay.curves import CurveSource
from hpo.runners.replay.faults import ReplayFaults
from hpo.runners.replay.lead import ReplayLead
from hpo.runners.workforce import Lost, Said
from hpo.training.precision import Precision

EVENING = 1_767_290_400.0
"""2026-01-01 18:00 UTC."""
SPEAKS_EVERY_SECONDS = 600.0


class VirtualClock:
    """Seconds since 1970, as `time.time`; it stands still until it is put forward."""

    def __init__(self, starts_at: float = EVENING) -> None:
        self._now = starts_at

    def __call__(self) -> float:
        """Return what time it is."""
        return self._now

    def put_forward(self, moment: float) -> None:
        """Go on to `moment`; a clock never goes back."""
        self._now = max(self._now, moment)


@dataclass(slots=True, kw_only=True)
class _Worker:
    capacity: Capacity
    ready_at: float
    held: deque[Assignment] = field(default_factory=deque)
    """Assignments that wait here."""
    training: ReplayedAttempt | None = None


class ReplayWorkforce:
    """Workers named `replay-0`, `replay-1` ... that train along the curves of a source.

    The clock is put forward by `listen` alone: to the next thing that a worker says. A trial that is paused goes on
    from there in a later attempt; one whose worker died, from its last evaluation.
    """

    def __init__(
        self,
        workers: int,
        source: CurveSource,
        clock: VirtualClock,
        *,
        ahead: int = 1,
        faults: ReplayFaults | None = None,
        metric: str = "score",
        speaks_every: float = SPEAKS_EVERY_SECONDS,
    ) -> None:
        """Make a workforce that has not begun.

        Args:
            workers: how many, at least 1.
            source: knows every curve.
            clock: the one that the coordinator and the dispatch go by.
            ahead: assignments that a worker may hold beside the one it trains.
            mishaps: what goes wrong; None for nothing.
            metric: what the source's scores are called.
            speaks_every: seconds after which a worker in training says how far it is, if there is nothing else.
        """
        self.ahead = ahead
        self.lead = ReplayLead(source, metric)
        self._source, self._clock, self._mishaps = source, clock, faults or ReplayFaults()
        self._metric, self._speaks_every = metric, speaks_every
        names = [f"replay-{number}" for number in range(workers)]
        self._workers = {
            name: _Worker(capacity=Capacity(worker=name, device="cpu"), ready_at=clock()) for name in names
        }
        self._said: list[tuple[str, Said]] = []
        self._places: dict[int, ReplayState] = {}
        self._trained_seconds = 0.0

    @property
    def workers(self) -> Collection[str]:
        """Names of all but those that were discarded."""
        return self._workers.keys()

    @property
    def size(self) -> int:
        """All."""
        return len(self._workers)

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """What may be given assignments now, by the worker's name; one that is being replaced begins them later."""
        return {name: worker.capacity for name, worker in self._workers.items()}

    @property
    def trained_seconds(self) -> float:
        """Seconds of training that the workers have done so far, summed over them, those for nothing among them."""
        running = (worker.training for worker in self._workers.values())
        return self._trained_seconds + sum(self._spent_on(attempt) for attempt in running if attempt)

    def begin(self, precision: Precision) -> None:
        """Start nothing: the workers are there, and curves know no precision."""

    def give(self, worker: str, assignment: Assignment) -> None:
        """Hand over an assignment, to be trained after those that the worker holds."""
        here = self._workers[worker]
        assert len(here.held) + (here.training is not None) <= self.ahead, "a worker holds no more than it may"
        here.held.append(assignment)

    def apply(self, worker: str, decision: Decision) -> None:
        """Hand over a decision; it has its effect at once, also on an assignment that was not begun."""
        here = self._workers.get(worker)
        if here is None or decision.action is Action.CONTINUE:
            return
        if here.training is not None and _is_about(decision, here.training.assignment):
            outcome = here.training.decide(decision.action, self._clock())
            if outcome is not None:
                self._free(here)
                self._said.append((worker, outcome))
        for assignment in [one for one in here.held if _is_about(decision, one)]:
            here.held.remove(assignment)
            ending = Ending.PRUNED if decision.action is Action.STOP else Ending.PAUSED
            self._said.append((worker, assignment.ended(ending, "It was not begun.")))

    def listen(self, seconds: float) -> Sequence[tuple[str, Said]]:
        """Return what workers say next, with their names; the clock goes to there, or by `seconds` and nothing is said.

        Each worker says one thing at a time: of several at one moment the next call returns the next.
        """
        self._begin_held()
        if not self._said:
            training = [(name, worker) for name, worker in self._workers.items() if worker.training]
            due = {name: worker.training.due for name, worker in training if worker.training}
            moment, until = min(due.values(), default=math.inf), self._clock() + max(0.0, seconds)
            assert min(moment, until) < math.inf, "somebody has something to say, or the wait has an end"
            self._clock.put_forward(min(moment, until))
            for name, worker in training:
                if due[name] <= min(moment, until):
                    self._speak(name, worker)
        said, self._said = self._said, []
        return said

    def kill(self, worker: str, reason: str) -> None:
        """Kill a worker, which says so, and replace it."""
        self._lose(worker, Lost(reason=reason))

    def discard(self, worker: str) -> None:
        """Do without a worker from now on; what it held is not told again."""
        here = self._workers.pop(worker, None)
        if here is not None:
            self._free(here)
            self._said = [(name, said) for name, said in self._said if name != worker]

    def _begin_held(self) -> None:
        for name, worker in self._workers.items():
            if worker.training is None and worker.held:
                assignment = worker.held.popleft()
                self._said.append((name, Begun(trial=assignment.trial, attempt=assignment.attempt)))
                resumed = self._places.get(assignment.trial) if assignment.attempt > 1 else None
                worker.training = ReplayedAttempt(
                    assignment,
                    self._source.curve(assignment),
                    resumed or ReplayState(),
                    began=max(self._clock(), worker.ready_at),
                    slowness=self._mishaps.slowness.get(name, 1.0),
                    fault=self._mishaps.under(name, assignment),
                    speaks_every=self._speaks_every,
                    metric=self._metric,
                )

    def _speak(self, name: str, worker: _Worker) -> None:
        assert worker.training is not None, "only what trains says anything"
        said = worker.training.speak()
        if isinstance(said, Lost):
            self._lose(name, said)
            return
        if isinstance(said, Outcome):
            self._free(worker)
        self._said.append((name, said))

    def _lose(self, name: str, lost: Lost) -> None:
        worker = self._workers[name]
        self._free(worker)
        worker.held.clear()
        worker.ready_at = self._clock() + self._mishaps.restart_seconds
        self._said.append((name, lost))

    def _free(self, worker: _Worker) -> None:
        """End what a worker trains, and keep where it stands."""
        attempt, worker.training = worker.training, None
        if attempt is not None:
            self._trained_seconds += self._spent_on(attempt)
            self._places[attempt.assignment.trial] = attempt.place

    def _spent_on(self, attempt: ReplayedAttempt) -> float:
        # A worker that is being replaced begins later.
        return max(0.0, self._clock() - attempt.began)


def _is_about(decision: Decision, assignment: Assignment) -> bool:
    return (decision.trial, decision.attempt) == (assignment.trial, assignment.attempt)
