"""Inbox of a worker process: assignments, decisions and calls that are not yet handled."""

from collections import deque
from collections.abc import Callable
from threading import Condition

from hpo.messages import Action, Assignment, Decision, Ending, Outcome
from hpo.runners.processes.protocol import Call, End
from hpo.training.worker import Worker

Send = Callable[[object], None]
Attempt = tuple[int, int]
"""Trial and attempt."""


class Inbox:
    """Messages of the parent that are not yet handled. One thread fills it, another empties it."""

    def __init__(self, send: Send) -> None:
        self.changed = Condition()
        """Guards everything here, and the worker's slots."""
        self.assignments: deque[Assignment] = deque()
        self.calls: deque[Call] = deque()
        self.ending = False
        self.closed = False
        """Whether assignments are given back as they come."""
        self.worker: Worker | None = None
        self._send = send

    def take(self, message: Assignment | Decision | Call | End) -> None:
        """Take a message of the parent."""
        with self.changed:
            match message:
                case Assignment():
                    self.assignments.append(message)
                    self._give_back_if_closed()
                case Decision():
                    self._decide(message)
                case Call():
                    self.calls.append(message)
                case End():
                    self.ending = True
            self.changed.notify()

    def close(self) -> None:
        """Give back what is not begun, and each assignment that comes."""
        with self.changed:
            self.closed = True
            self._give_back_if_closed()

    def _give_back_if_closed(self) -> None:
        while self.closed and self.assignments:
            self._send(self.assignments.popleft().ended(Ending.PAUSED, "Not begun."))

    def _decide(self, decision: Decision) -> None:
        waiting = next((one for one in self.assignments if attempt_of(one) == attempt_of(decision)), None)
        if waiting is not None:
            self.assignments.remove(waiting)
            ending = Ending.PRUNED if decision.action is Action.STOP else Ending.PAUSED
            self._send(waiting.ended(ending, "Not begun."))
        elif self.worker is not None:
            self.worker.apply(decision)


def attempt_of(message: Assignment | Decision | Outcome) -> Attempt:
    """Return which trial's attempt a message is about."""
    return message.trial, message.attempt
