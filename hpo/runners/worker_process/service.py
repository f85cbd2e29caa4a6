"""A worker process, from inside: trains what it is given, in order, and says what there is to say.

Three threads: this process's main one trains; one hears the parent, so that a decision has its effect at the next step;
one speaks, so that training never waits for a parent that is slow to listen.
"""

import faulthandler
import gc
import logging
import os
import pickle
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Any

import torch

from hpo.errors import HpoError, TrainingError
from hpo.messages import Action, Assignment, Decision, Ending, Outcome
from hpo.runners.worker_process.conversation import Answer, Call, End, Ready, Refused, ServedWorker, Start, Study, Worn
from hpo.runners.worker_process.wear import Memory, wear
from hpo.runners.workforce import Note

Say = Callable[[object], None]
Attempt = tuple[int, int]
"""Trial and attempt."""

logger = logging.getLogger(__name__)


def main(connection_handle: int, study_handle: int) -> None:
    """Serve the parent until it says that this is the end.

    Args:
        connection_handle: of this process's end of the connection.
        study_handle: of the file with the study.
    """
    faulthandler.enable()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handle in (connection_handle, study_handle):
        os.set_inheritable(handle, False)
    connection = Connection(connection_handle)
    start: Start = connection.recv()
    study = Study.read(study_handle)
    torch.set_num_threads(start.threads)
    mouth = Mouth(connection)
    logging.getLogger("hpo").addHandler(_Telling(mouth.say))
    try:
        _serve(connection, mouth.say, start, study)
    finally:
        mouth.close()
    # Not through the interpreter's own end: taking torch down takes seconds, for which a deadline would have to wait.
    os._exit(0)


def _serve(connection: "Connection[Any, Any]", say: Say, start: Start, study: Study) -> None:
    inbox = Inbox(say)
    Thread(target=_hear, args=(connection, inbox), name="hears", daemon=True).start()
    try:
        device = torch.device(start.device)
        worker = study.opener(study.config, study.splits, study.files, device=device, shared=True)
    except HpoError as error:
        say(Refused(error=error))
        return
    if start.precision is not None:
        worker.use(start.precision)
    say(Ready())
    Service(worker, inbox, say).run()


def _hear(connection: "Connection[Any, Any]", inbox: "Inbox") -> None:
    """Take in what the parent says; where it is dead, end the process in the middle of whatever it does."""
    try:
        while True:
            inbox.take(connection.recv())
    except (EOFError, ConnectionResetError):
        os._exit(0)
    except Exception:
        # A process that no longer hears would have to be waited for.
        logger.exception("What the parent said was not taken in.")
        os._exit(1)


class _Telling(logging.Handler):
    """Tells the parent of warnings too: the log of a process is not where they are looked for."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say the warning; an error of a call is raised in the parent itself."""
        if record.exc_info is None:
            self._say(Note(sentence=record.getMessage()))


class Mouth:
    """Says things from a thread of its own, in order."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._unsaid: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = Thread(target=self._speak, name="speaks", daemon=True)
        self._thread.start()

    def say(self, message: object) -> None:
        """Have `message` said; one that cannot be pickled is refused here."""
        self._unsaid.put(pickle.dumps(message))

    def close(self) -> None:
        """Wait until all was said."""
        self._unsaid.put(None)
        self._thread.join()

    def _speak(self) -> None:
        try:
            while (message := self._unsaid.get()) is not None:
                self._connection.send_bytes(message)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)


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
        waiting = next((one for one in self.assignments if _attempt(one) == _attempt(decision)), None)
        if waiting is None:
            if self.worker is not None:
                self.worker.apply(decision)
        elif decision.action is Action.PAUSE:
            self.assignments.remove(waiting)
            self._say(_not_begun(waiting))
        else:
            self.early[_attempt(decision)] = decision


class Service:
    """Keeps a worker's slots filled, carries what it says, and answers calls when nothing is in training."""

    def __init__(self, worker: ServedWorker, inbox: Inbox, say: Say) -> None:
        self._worker, self._inbox, self._say = worker, inbox, say
        self._training: set[Attempt] = set()
        self._first: Memory | None = None
        """Memory after the first trial."""
        self._before = Memory.now()
        inbox.worker = worker

    def run(self) -> None:
        """Serve until the parent says that this is the end."""
        inbox = self._inbox
        while True:
            with inbox.changed:
                inbox.changed.wait_for(lambda: inbox.ending or inbox.assignments or inbox.calls or self._training)
                if inbox.ending:
                    return
                self._admit()
                call = inbox.calls.popleft() if inbox.calls and not self._training else None
            if call is not None:
                self._say_answer(call)
            else:
                self._advance()

    def _admit(self) -> None:
        """Fill free slots. The inbox is held meanwhile: a decision finds its trial there or in a slot."""
        inbox = self._inbox
        while inbox.assignments and self._worker.free_slots:
            assignment = inbox.assignments.popleft()
            self._before = Memory.now()
            self._worker.admit(assignment)
            self._training.add(_attempt(assignment))
            if early := inbox.early.pop(_attempt(assignment), None):
                self._worker.apply(early)

    def _advance(self) -> None:
        for message in self._worker.advance():
            self._say(message)
            if isinstance(message, Outcome):
                self._end(message)

    def _end(self, outcome: Outcome) -> None:
        self._training.discard(_attempt(outcome))
        if outcome.ending is Ending.INFEASIBLE:
            # An error's frames hold tensors as long as nothing has broken their cycles.
            gc.collect()
        after = Memory.now()
        self._first = self._first or after
        if not self._inbox.closed and (reason := wear(outcome, first=self._first, before=self._before, after=after)):
            logger.warning("Another process takes this one's place. %s", reason)
            self._inbox.close()
        if self._inbox.closed and not self._training:
            self._say(Worn())

    def _say_answer(self, call: Call) -> None:
        try:
            self._say(Answer(number=call.number, result=self._result(call)))
        except HpoError as error:
            self._say(Answer(number=call.number, error=error))
        except Exception as error:
            logger.exception("%s failed.", call.method)
            self._say(Answer(number=call.number, error=_carried(error)))

    def _result(self, call: Call) -> object:
        if call.method == "objective":
            # A function of the user's own stays here: the parent may not find its module.
            return replace(self._worker.objective, own=None)
        return getattr(self._worker, call.method)(*call.arguments)


def _not_begun(assignment: Assignment) -> Outcome:
    return Outcome(
        trial=assignment.trial,
        attempt=assignment.attempt,
        ending=Ending.PAUSED,
        seconds=0.0,
        peak_memory_bytes=0,
        reason="Not begun.",
    )


def _attempt(message: Assignment | Decision | Outcome) -> Attempt:
    return message.trial, message.attempt


def _carried(error: Exception) -> Exception:
    """Return `error`, or where it cannot be pickled another that tells of it."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        return TrainingError(f"{type(error).__name__}: {error}")
    return error
