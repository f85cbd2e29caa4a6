"""Worker process: trains its assignments in order, and sends their reports and outcomes.

It has three threads: the main thread trains; one reads the parent's messages, so that a decision takes effect at the
next step; one sends, so that training never waits for a slow parent. A process that holds too much memory, or whose
GPU may be in a bad state, asks to be replaced.
"""

import faulthandler
import gc
import logging
import os
import pickle
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Any, Protocol

import psutil
import torch

from hpo.distributed.rank_group import RankGroupLost
from hpo.errors import HpoError, TrainingError
from hpo.messages import Action, Assignment, Begun, Decision, Ending, Outcome
from hpo.runners.processes.protocol import (
    RANK_GROUP_LOST,
    Answer,
    Call,
    End,
    OpenFailed,
    Ready,
    Recycle,
    Start,
    StudySetup,
)
from hpo.runners.worker_pool import Note
from hpo.training.worker import Worker

logger = logging.getLogger(__name__)

Send = Callable[[object], None]
Attempt = tuple[int, int]
"""(trial, attempt)."""
CUDA_SIGNS = ("CUDA error", "device-side assert", "CUBLAS_STATUS", "CUDNN_STATUS")
"""Texts in the reason of a failure after which all later calls to the GPU, and so all later trials, may fail."""
MOST_GROWTH = 1.5
SLACK_BYTES = 2 * 2**30
"""Memory growth that is allowed since the first trial, as a factor and in addition."""
KEPT_SHARE = 1.1
KEPT_BYTES = 256 * 2**20
"""Growth of tensor memory that is allowed after a trial that ran out of memory, as a factor and in addition."""


class MessageReader(Protocol):
    """Source of the parent's messages, such as a connection."""

    def recv(self) -> Any:
        """Return the next message; wait for it.

        Raises:
            EOFError, ConnectionResetError: the sender is gone.
        """


class Inbox:
    """Unhandled messages of the parent; one thread adds them, another takes them."""

    def __init__(self, send: Send) -> None:
        self.changed = Condition()
        """Condition whose lock guards all attributes here and the worker's slots."""
        self.assignments: deque[Assignment] = deque()
        self.calls: deque[Call] = deque()
        self.ending = False
        self.closed = False
        """True if new assignments are given back at once."""
        self.worker: Worker | None = None
        self._send = send

    def take(self, message: Assignment | Decision | Call | End) -> None:
        """Add a message of the parent."""
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
        """Give back assignments that have not begun, and all later ones."""
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


def main(connection_handle: int, study_handle: int) -> None:
    """Serve the parent, or on a higher rank follow rank 0, until `End`.

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
    study = StudySetup.read(study_handle)
    torch.set_num_threads(start.threads)
    try:
        if start.rank_info is not None and start.rank_info.rank > 0:
            _follow(connection, start, study)
        else:
            with closing(MessageSender(connection)) as sender:
                serve(connection, sender.send, start, study)
    except RankGroupLost as lost:
        logger.error("Worker %s ends. %s", start.worker, lost)
        os._exit(RANK_GROUP_LOST)
    # Not by the interpreter's own exit: torch's clean-up takes seconds, which would delay a deadline.
    os._exit(0)


def _follow(connection: "Connection[Any, Any]", start: Start, study: StudySetup) -> None:
    # It gets no message, but reads that the parent is dead.
    Thread(target=_read, args=(connection, Inbox(connection.send)), name="reads", daemon=True).start()
    try:
        worker = opened(start, study)
    except HpoError as error:
        connection.send(OpenFailed(error=error))
        return
    worker.follow()


def opened(start: Start, study: StudySetup) -> Worker:
    """Open the worker of a process.

    Raises:
        HpoError: it cannot be opened.
        RankGroupLost: the other ranks of its group do not come.
    """
    device = torch.device(start.device)
    if device.type == "cuda" and start.gpu_share < 1:
        # A trial that takes more should run out of memory itself, and not its neighbour on the GPU.
        torch.cuda.set_per_process_memory_fraction(start.gpu_share, device)
    return study.opener(study.config, study.splits, study.files, device=device, shared=True, rank_info=start.rank_info)


def serve(reader: MessageReader, send: Send, start: Start, study: StudySetup) -> None:
    """Open the worker of rank 0, and handle the messages of `reader` until `End`; warnings are sent to the parent.

    Raises:
        RankGroupLost: another rank of its group is gone.
    """
    logging.getLogger("hpo").addHandler(_WarningSender(send))
    inbox = Inbox(send)
    Thread(target=_read, args=(reader, inbox), name="reads", daemon=True).start()
    try:
        worker = opened(start, study)
        if start.settings is not None:
            worker.use(start.settings)
    except HpoError as error:
        send(OpenFailed(error=error))
        return
    send(Ready(slots=worker.free_slots))
    Service(worker, inbox, send).run()
    worker.close()


def _read(reader: MessageReader, inbox: Inbox) -> None:
    """Pass the parent's messages to the inbox; if the parent has died, end the process at once."""
    try:
        while True:
            inbox.take(reader.recv())
    except (EOFError, ConnectionResetError):
        os._exit(0)
    except Exception:
        # Otherwise a process that no longer reads would have to be waited for.
        logger.exception("A message of the parent could not be read.")
        os._exit(1)


class _WarningSender(logging.Handler):
    """Log handler that sends warnings to the parent, because users do not read the log of a process."""

    def __init__(self, send: Send) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send the warning; an error of a call is raised in the parent itself."""
        if record.exc_info is None:
            self._send(Note(sentence=record.getMessage()))


class MessageSender:
    """Sender of messages, in order, on a separate thread."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._unsent: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = Thread(target=self._send_all, name="sends", daemon=True)
        self._thread.start()

    def send(self, message: object) -> None:
        """Queue `message` for sending; refuse one that cannot be pickled."""
        self._unsent.put(pickle.dumps(message))

    def close(self) -> None:
        """Wait until all were sent."""
        self._unsent.put(None)
        self._thread.join()

    def _send_all(self) -> None:
        try:
            while (message := self._unsent.get()) is not None:
                self._connection.send_bytes(message)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)


class Service:
    """Main loop of a worker process: fills slots, sends messages, and answers calls when no trial is training."""

    def __init__(self, worker: Worker, inbox: Inbox, send: Send) -> None:
        self._worker, self._inbox, self._send = worker, inbox, send
        self._training: dict[Attempt, Assignment] = {}
        self._first: Memory | None = None
        """Memory after the first trial."""
        self._before = Memory.now()
        inbox.worker = worker

    def run(self) -> None:
        """Serve until `End`."""
        inbox = self._inbox
        while True:
            with inbox.changed:
                inbox.changed.wait_for(lambda: inbox.ending or inbox.assignments or inbox.calls or self._training)
                if inbox.ending:
                    return
                self._admit()
                call = inbox.calls.popleft() if inbox.calls and not self._training else None
            if call is not None:
                self._answer(call)
            else:
                self._advance()

    def _admit(self) -> None:
        """Fill free slots with the inbox locked, so that a decision finds its trial in the inbox or in a slot."""
        inbox = self._inbox
        while self._may_admit():
            assignment = inbox.assignments.popleft()
            self._before = Memory.now()
            self._worker.admit(assignment)
            self._training[attempt_of(assignment)] = assignment
            self._send(Begun(trial=assignment.trial, attempt=assignment.attempt))

    def _may_admit(self) -> bool:
        """Return true if the first waiting assignment may begin now."""
        with self._inbox.changed:
            if not self._inbox.assignments or not self._worker.free_slots:
                return False
            beside, first = self._training.values(), self._inbox.assignments[0]
            return not (beside and (first.alone or any(one.alone for one in beside)))

    def _advance(self) -> None:
        for message in self._worker.advance(self._may_admit):
            self._send(message)
            if isinstance(message, Outcome):
                self._end(message)

    def _end(self, outcome: Outcome) -> None:
        self._training.pop(attempt_of(outcome), None)
        if outcome.ending is Ending.INFEASIBLE:
            # An error's frames hold tensors as long as nothing has broken their cycles.
            gc.collect()
        after = Memory.now()
        self._first = self._first or after
        # What others beside it hold it has not left behind.
        before = after if self._training else self._before
        if not self._inbox.closed and (
            reason := recycle_reason(outcome, first=self._first, before=before, after=after)
        ):
            logger.warning("Another process takes this one's place. %s", reason)
            self._inbox.close()
        if self._inbox.closed and not self._training:
            self._send(Recycle())

    def _answer(self, call: Call) -> None:
        try:
            self._send(Answer(number=call.number, result=self._result(call)))
        except Exception as error:
            if not isinstance(error, HpoError):
                logger.exception("%s failed.", call.method)
            self._send(Answer(number=call.number, error=_portable(error)))

    def _result(self, call: Call) -> object:
        if call.method == "metric":
            # A user-defined function stays here, because the parent may not find its module.
            return replace(self._worker.metric, own=None)
        return getattr(self._worker, call.method)(*call.arguments)


def _portable(error: Exception) -> Exception:
    """Return `error`, or another with its message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        return TrainingError(f"{type(error).__name__}: {error}")
    return error


def attempt_of(message: Assignment | Decision | Outcome) -> Attempt:
    """Return the attempt that a message is about."""
    return message.trial, message.attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory that a process holds, in bytes."""

    own: int
    """Main memory without mapped files, which are shared, and dropped when memory is short."""
    tensors: int
    """Memory of tensors on its GPU."""

    @classmethod
    def now(cls) -> "Memory":
        """Measure this process."""
        held = psutil.Process().memory_info()
        gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        tensors = torch.cuda.memory_allocated() if gpu else 0
        return cls(own=held.rss - getattr(held, "shared", 0), tensors=tensors)


def recycle_reason(outcome: Outcome, *, first: Memory, before: Memory, after: Memory) -> str:
    """Return a reason in a sentence if a process should be replaced after `outcome`; else empty.

    Args:
        outcome: of the trial that has just ended.
        first: memory after the first trial of the process.
        before: memory before this one.
        after: memory after this one.
    """
    if outcome.ending is Ending.FAILED and any(sign in outcome.reason for sign in CUDA_SIGNS):
        return f"Its GPU is not to be trusted after an error: {outcome.reason}"
    if outcome.ending is Ending.INFEASIBLE and after.tensors > KEPT_SHARE * before.tensors + KEPT_BYTES:
        return f"A trial that ran out of memory left {_gib(after.tensors - before.tensors)} on the GPU."
    if after.own > MOST_GROWTH * first.own + SLACK_BYTES:
        return f"It holds {_gib(after.own)} of memory, after its first trial it was {_gib(first.own)}."
    return ""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
