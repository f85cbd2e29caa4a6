"""Trains trials in this process, in as many slots as its worker has."""

import uuid
from threading import Event

from hpo.errors import TrainingError
from hpo.messages import Action, Capacity, Decision, Ending, Outcome, Progress, Report
from hpo.runners.watcher import Watcher
from hpo.search.coordinator import Coordinator
from hpo.training.worker import Worker

MOST_FAILURES = 3
"""Trials that fail one after the other, after which the search ends: it is then the machine, not the configuration."""


def run(coordinator: Coordinator, worker: Worker, watcher: Watcher, stop: Event) -> None:
    """Train trials until the budget is spent, or until `stop` is set and what was running is paused.

    Raises:
        TrainingError: three trials failed one after the other; says why the last did.
    """
    InlineRun(coordinator, worker, watcher, stop).run()


class InlineRun:
    """One run of a search in this process."""

    def __init__(self, coordinator: Coordinator, worker: Worker, watcher: Watcher, stop: Event) -> None:
        self._coordinator = coordinator
        self._worker = worker
        self._watcher = watcher
        self._stop = stop
        self._attempts: dict[int, int] = {}
        self._failures = 0

    def run(self) -> None:
        """Keep the worker's slots filled, and carry what it says, until there is nothing left to train."""
        self._fill()
        while not self._worker.idle:
            if self._stop.is_set():
                self._pause()
            for message in self._worker.advance():
                self._carry(message)
            self._fill()

    def _fill(self) -> None:
        """Admit assignments while there are free slots and trials left."""
        capacity = Capacity(worker="inline-0", device=self._worker.device)
        while self._worker.free_slots and not self._stop.is_set():
            assignment = self._coordinator.next_assignment(uuid.uuid4().hex, capacity)
            if assignment is None:
                return
            self._attempts[assignment.trial] = assignment.attempt
            self._worker.admit(assignment)
            self._watcher.assigned(assignment)

    def _pause(self) -> None:
        for trial, attempt in self._attempts.items():
            self._worker.apply(Decision(trial=trial, attempt=attempt, action=Action.PAUSE))

    def _carry(self, message: Report | Progress | Outcome) -> None:
        match message:
            case Report():
                decision = self._coordinator.observe(message)
                self._worker.apply(decision)
                self._watcher.reported(message, decision)
            case Outcome():
                self._end(message)
            case Progress():
                self._watcher.progressed(message)

    def _end(self, outcome: Outcome) -> None:
        self._coordinator.finish(outcome)
        del self._attempts[outcome.trial]
        self._worker.keep_files(self._coordinator.trials_to_keep())
        self._watcher.ended(outcome)
        self._failures = self._failures + 1 if outcome.ending is Ending.FAILED else 0
        if self._failures == MOST_FAILURES:
            raise TrainingError(
                f"{MOST_FAILURES} trials in a row failed, so the search has ended; the last one's reason: "
                f"{outcome.reason} When it is mended, the same command goes on, with a larger --trials if need be."
            )
