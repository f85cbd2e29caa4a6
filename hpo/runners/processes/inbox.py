"""What a worker process was asked for and has not begun."""

from collections import deque
from collections.abc import Callable
from threading import Condition

from hpo.messages import Action, Assignment, Decision, Ending, Outcome
from hpo.runners.processes.protocol import Call, End, ServedWorker

Say = Callable[[object], None]
Attempt = tuple[int, int]
"""Trial and attempt."""


class Inbox:
    """What the parent has asked for and is not begun. One thread fills it, another empties it."""

    def __init__(self, say: Say) -> None:
        self.changed = Condition()
        """Guards everything here, and the worker's slots."""
        self.assignments: deque[Assignment] = deque()
        self.calls: deque[Call] = deque()
        self.early: dict[Attempt, Decision] = {}
        """What was decided of assignments that are not begun."""
        self.ending = False
        self.closed = False
        """Whether assignments are given back as they come."""
        self.worker: ServedWorker | None = None
        self._say = say

    def take(self, message: Assignment | Decision | Call | End) -> None:
        """Take in what the parent says."""
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
        """Give back what is not begun, and whatever comes."""
        with self.changed:
            self.closed = True
            self._give_back_if_closed()

    def _give_back_if_closed(self) -> None:
        while self.closed and self.assignments:
            self._say(_not_begun(self.assignments.popleft()))

    def _decide(self, decision: Decision) -> None:
        waiting = next((one for one in self.assignments if attempt_of(one) == attempt_of(decision)), None)
        if waiting is None:
            if self.worker is not None:
                self.worker.apply(decision)
        elif decision.action is Action.PAUSE:
            self.assignments.remove(waiting)
            self._say(_not_begun(waiting))
        else:
            self.early[attempt_of(decision)] = decision


def _not_begun(assignment: Assignment) -> Outcome:
    return assignment.ended(Ending.PAUSED, "Not begun.")


def attempt_of(message: Assignment | Decision | Outcome) -> Attempt:
    """Return which trial's attempt a message is about."""
    return message.trial, message.attempt
