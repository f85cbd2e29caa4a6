"""Replay of learning curves on a virtual clock: workers that train a whole search in seconds."""

import math
from collections.abc import Collection, Mapping, Sequence

from hpo.messages import Assignment, Begun, Capacity, Decision, Outcome
from hpo.runners.replay.attempt import ReplayedAttempt
from hpo.runners.replay.curves import CurveSource
from hpo.runners.workforce import WorkerMessage

SIMULATION_START = 1_767_290_400.0
"""2026-01-01 18:00 UTC."""


class VirtualClock:
    """Seconds since 1970, as `time.time`; it stands still until it is put forward."""

    def __init__(self, starts_at: float = SIMULATION_START) -> None:
        self._now = starts_at

    def __call__(self) -> float:
        """Return what time it is."""
        return self._now

    def put_forward(self, moment: float) -> None:
        """Go on to `moment`; a clock never goes back."""
        self._now = max(self._now, moment)


class ReplayWorkforce:
    """Workers named `replay-0`, `replay-1` ... that train along the curves of a source; none is ever lost or hangs.

    The clock is put forward by `listen` alone: to the next message of a worker.
    """

    # An assignment that is asked for when a worker is free knows most, and here it takes no time to come.
    prefetch = 0

    def __init__(
        self, workers: int, source: CurveSource, clock: VirtualClock, *, metric: str, progress_every: float
    ) -> None:
        """Make workers that are open.

        Args:
            workers: how many, at least 1.
            source: knows every curve.
            clock: the one that the coordinator and the dispatch go by.
            metric: what the source's scores are called.
            progress_every: seconds after which a worker in training sends its progress, if there is nothing else.
        """
        self._source, self._clock, self._metric, self._progress_every = source, clock, metric, progress_every
        self._training: dict[str, ReplayedAttempt | None] = {f"replay-{number}": None for number in range(workers)}
        self._messages: list[tuple[str, WorkerMessage]] = []
        self._trained_seconds = 0.0

    @property
    def workers(self) -> Collection[str]:
        """Names of all."""
        return self._training.keys()

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """All of them, by name."""
        return {name: Capacity(worker=name, device="cpu") for name in self._training}

    @property
    def trained_seconds(self) -> float:
        """Seconds of training that the workers have done so far, summed over them."""
        training = (attempt for attempt in self._training.values() if attempt)
        return self._trained_seconds + sum(self._clock() - attempt.began for attempt in training)

    def give(self, worker: str, assignment: Assignment) -> None:
        """Begin an assignment on a worker that trains none."""
        assert self._training[worker] is None, "a worker trains one assignment at a time"
        self._training[worker] = self._attempt(worker, assignment)
        self._messages.append((worker, Begun(trial=assignment.trial, attempt=assignment.attempt)))

    def apply(self, worker: str, decision: Decision) -> None:
        """Apply a decision, at once; one about what the worker does not train does nothing."""
        attempt = self._training.get(worker)
        if attempt is not None and is_about(decision, attempt.assignment):
            outcome = attempt.decide(decision.action, self._clock())
            if outcome is not None:
                self._messages.append((worker, outcome))
                self._free(worker)

    def listen(self, seconds: float) -> Sequence[tuple[str, WorkerMessage]]:
        """Return the next messages of workers; the clock goes to there, or by `seconds` and there are none.

        Each worker sends one message at a time: of several at one moment the next call returns the next.
        """
        if not self._messages:
            due = {name: attempt.due for name, attempt in self._training.items() if attempt}
            moment = min([self._clock() + max(0.0, seconds), *due.values()])
            assert moment < math.inf, "a worker trains, or the wait has an end"
            self._clock.put_forward(moment)
            for name in [name for name, at in due.items() if at <= moment]:
                self._advance(name)
        messages, self._messages = self._messages, []
        return messages

    def kill(self, _worker: str, _reason: str) -> None:
        """Do nothing: no worker hangs."""

    def discard(self, _worker: str) -> None:
        """Do nothing: no worker fails."""

    def _attempt(self, _worker: str, assignment: Assignment) -> ReplayedAttempt:
        return ReplayedAttempt(
            assignment,
            self._source.curve(assignment),
            began=self._clock(),
            progress_every=self._progress_every,
            metric=self._metric,
        )

    def _advance(self, name: str) -> None:
        attempt = self._training[name]
        assert attempt is not None, "only a worker in training has something due"
        message = attempt.advance()
        self._messages.append((name, message))
        if isinstance(message, Outcome):
            self._free(name)

    def _free(self, name: str) -> None:
        attempt, self._training[name] = self._training[name], None
        if attempt is not None:
            self._trained_seconds += self._clock() - attempt.began


def is_about(decision: Decision, assignment: Assignment) -> bool:
    """Return whether a decision is about that attempt."""
    return (decision.trial, decision.attempt) == (assignment.trial, assignment.attempt)
