"""Worker pool in other processes: a launcher starts workers, on this machine or a cluster, and replaces lost ones.

This module handles the messages of workers, their replacement and the calls to them, for every launcher. A launcher
starts processes where there is room, passes messages in both directions, and reports processes that have ended.
"""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from hpo.errors import HpoError, NoResultError, TrainingError
from hpo.messages import Action, Assignment, Capacity, Decision, Outcome, WorkerSettings
from hpo.metrics.metric import SelectionMetric
from hpo.runners.processes.protocol import Answer, Arrived, Call, OpenFailed, Ready, Recycle
from hpo.runners.worker_pool import LossCause, Note, WorkerLost, WorkerMessage
from hpo.training.worker import Worker

MOST_STARTS = 3
"""Number of consecutive workers that are lost at one place while they open, after which none is started there."""
MOST_UNPLACED = 12
"""Number of consecutive workers lost before they report a place, after which a search without other workers ends."""
LONGEST_PAUSE_SECONDS = 60.0
"""Longest pause before another worker is started after consecutive losses."""
SECONDS_TO_GIVE_BACK = 10.0
"""Seconds that a discarded worker has to give back its assignments before it is killed."""
LONGEST_IDLE_SECONDS = 60.0
"""Seconds without a trial, while others train, after which a worker on a cluster ends and frees its GPUs."""
AWAITED = "the next worker"
"""Name of the worker that is awaited if there is no other."""

WorkerId = str
"""Id by which a launcher knows the processes of a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredWorkers:
    """Workers that a launcher has to start."""

    workers: float = 1
    """Largest number of workers, including the present ones."""
    not_before: float = 0.0
    """On the monotonic clock."""
    settings: WorkerSettings | None = None
    """Settings of new workers; None if not yet chosen."""


class Launcher(Protocol):
    """Starter of the processes of workers, which also carries their messages and ends them."""

    wanted: DesiredWorkers
    """Set by the worker pool: workers to start, also as replacements."""
    is_shared: bool
    """True if others wait for the resources of an idle worker, as on a cluster."""

    @property
    def room(self) -> int:
        """Number of workers for which there is room now."""

    def listen(self, seconds: float, /) -> Sequence[tuple[WorkerId, object]]:
        """Return messages with their workers, in order; wait at most that many seconds for the first.

        The first message of a worker is `Arrived`, unless it is lost before, and the last is `WorkerLost`.

        Raises:
            TrainingError: no more workers can be started.
        """

    def tell(self, worker: WorkerId, message: object, /) -> None:
        """Send a message to a worker; ignored if it has ended."""

    def kill(self, worker: WorkerId, /) -> None:
        """Kill the processes of a worker, which is then reported as `WorkerLost`."""

    def leave_out(self, worker: WorkerId, /) -> None:
        """Do not replace a worker, which takes no more assignments: end it, or leave it in place."""

    def close(self) -> None:
        """Start no more workers, and end all."""


class RemoteWorker:
    """A proxy of `Worker`: each call runs in the worker's process, and returns its result or raises its error here."""

    def __init__(self, ask: Callable[[str, tuple[Any, ...]], Any]) -> None:
        """Call methods by `ask`, which takes the name of a method and its arguments."""
        self._ask = ask

    @property
    def metric(self) -> SelectionMetric:
        """The metric that trials are compared by, without a user-defined function, which stays in the worker."""
        metric: SelectionMetric = self._ask("metric", ())
        return metric

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return lambda *arguments: self._ask(method, arguments)


@dataclass(slots=True)
class _Connected:
    """A worker that has arrived."""

    id: WorkerId
    capacity: Capacity
    place: str
    began: float
    ready: bool = False
    """True if it is open."""
    idle_since: float = 0.0
    recycles: bool = False
    """True if it asks to be replaced."""
    left_out: bool = False
    lost_for: str | None = None
    """Reason that it is lost, once known."""
    held: set[tuple[int, int]] = field(default_factory=set)
    """(trial, attempt) of its unfinished assignments."""
    answers: dict[int, Answer] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.capacity.worker

    @property
    def is_free(self) -> bool:
        """True if it takes assignments."""
        return self.ready and not self.recycles and not self.left_out


class RemoteWorkerPool:
    """Workers by name, over a launcher."""

    prefetch = 1

    def __init__(self, launcher: Launcher, *, most: int | None, hang: float) -> None:
        """Have the first worker started.

        Args:
            launcher: used by this pool only.
            most: most parallel workers; None for as many as there is room for.
            hang: seconds after which a worker that is not open is killed.
        """
        self._launcher, self._hang = launcher, hang
        self._most = math.inf if most is None else most
        self._room = launcher.room
        self._workers: dict[WorkerId, _Connected] = {}
        self._ids: dict[str, WorkerId] = {}
        self._left_out: dict[str, str] = {}
        """Names and places of discarded workers: a new worker under such a name is discarded too."""
        self._bad_starts: Counter[str] = Counter()
        """Place -> number of workers in a row that were lost there before they were open."""
        self._messages: list[tuple[str, WorkerMessage]] = []
        self._refusal: HpoError | None = None
        self._numbers = itertools.count()
        self.lead = cast(Worker, RemoteWorker(self._ask))
        """Proxy of the first worker that takes assignments; a call raises `TrainingError` if that worker is lost."""
        launcher.wanted = DesiredWorkers()

    @property
    def workers(self) -> Collection[str]:
        """Names of all workers; if there is none, a name for the awaited one."""
        names = [worker.name for worker in self._workers.values() if not worker.left_out]
        # Discarded workers still occupy room.
        may_come = len(self._workers) < min(self._launcher.wanted.workers, self._launcher.room)
        return names or ([AWAITED] if may_come else [])

    @property
    def size(self) -> int:
        """Number of workers that were requested, at most those for which there was room at the start."""
        return int(min(self._room, self._most))

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """Capacities of workers that take assignments now, without those that have undelivered messages."""
        undelivered = {name for name, _ in self._messages}
        return {one.name: one.capacity for one in self._workers.values() if one.is_free and one.name not in undelivered}

    def open_lead(self, is_ending: Callable[[], bool] = lambda: False) -> None:
        """Wait until the first worker is open, however long that takes, unless the search is ending.

        Raises:
            HpoError: it cannot be opened, no worker is left, or the search ended before it was open.
        """
        while not self._free():
            if is_ending():
                raise NoResultError("The search ended before its first worker was open; the same command resumes it.")
            # If the first worker cannot open it, no other can.
            if not self.workers or (self._refusal is not None and not self._has_begun):
                raise self._refusal or TrainingError("No worker is left to be asked.")
            self._await(1.0)

    def begin(self, settings: WorkerSettings) -> None:
        """Start the other workers; all workers use these settings."""
        self.lead.use(settings)
        self._launcher.wanted = DesiredWorkers(workers=self._most, settings=settings)
        for one in self._workers.values():
            one.capacity = replace(one.capacity, slots=settings.slots or one.capacity.slots)

    def give(self, worker: str, assignment: Assignment) -> None:
        """Hand over an assignment, to be trained after those that the worker holds."""
        one = self._workers[self._ids[worker]]
        one.held.add((assignment.trial, assignment.attempt))
        # An assignment shows that there is work for more workers.
        self._launcher.wanted = replace(self._launcher.wanted, workers=self._most)
        self._launcher.tell(one.id, assignment)

    def apply(self, worker: str, decision: Decision) -> None:
        """Pass a decision to a worker; ignored if it does not hold the trial, or no longer does."""
        if worker in self._ids:
            self._launcher.tell(self._ids[worker], decision)

    def listen(self, seconds: float) -> Sequence[tuple[str, WorkerMessage]]:
        """Return the messages of workers, as soon as there is one or a worker changes; wait at most `seconds`."""
        self._await(0.0 if self._messages else seconds)
        messages, self._messages = self._messages, []
        return messages

    def kill(self, worker: str, reason: str) -> None:
        """Kill a worker, which is then reported as `WorkerLost`; it is replaced if there is room."""
        if worker in self._ids:
            self._kill(self._workers[self._ids[worker]], reason)

    def discard(self, worker: str) -> None:
        """Discard a worker after it has given back its assignments, which other workers will train."""
        if worker in self._ids:
            one = self._workers[self._ids[worker]]
            one.left_out, self._left_out[worker] = True, one.place
            for trial, attempt in one.held:
                self._launcher.tell(one.id, Decision(trial=trial, attempt=attempt, action=Action.PAUSE))
            until = time.monotonic() + SECONDS_TO_GIVE_BACK
            while one.held and self._workers.get(one.id) is one and (left := until - time.monotonic()) > 0:
                self._await(left)
            if one.held and self._workers.get(one.id) is one:
                # Otherwise two workers would write the same files.
                self._launcher.kill(one.id)
            self._launcher.leave_out(one.id)
        self._messages = [(name, message) for name, message in self._messages if name != worker]

    def close(self) -> None:
        """End all workers."""
        self._launcher.wanted = DesiredWorkers(workers=0)
        self._launcher.close()

    @property
    def _has_begun(self) -> bool:
        return self._launcher.wanted.settings is not None

    def _free(self) -> _Connected | None:
        return next((one for one in self._workers.values() if one.is_free), None)

    def _await(self, seconds: float) -> None:
        """Take the launcher's messages; wait at most that many seconds for the first."""
        for worker_id, message in self._launcher.listen(seconds):
            one = self._workers.get(worker_id)
            if isinstance(message, Arrived):
                self._add(worker_id, message)
            elif isinstance(message, WorkerLost):
                self._remove(worker_id, message)
            elif one is not None:
                self._take(one, message)
        # Before the search has begun, the first worker may be downloading the model, which has no time limit.
        now = time.monotonic() if self._has_begun else 0.0
        for one in self._workers.values():
            if not one.ready and not one.left_out and now - one.began > self._hang:
                self._kill(one, f"The worker {one.name} did not open its model in {self._hang:g} seconds.")
        if self._launcher.is_shared:
            self._release_idle()

    def _release_idle(self) -> None:
        """End workers that have been idle for long while others train; the next assignment requests more again."""
        busy = [one for one in self._workers.values() if one.held]
        for one in list(self._workers.values()):
            if busy and one.is_free and not one.held and time.monotonic() - one.idle_since > LONGEST_IDLE_SECONDS:
                one.recycles = True
                self._launcher.wanted = replace(self._launcher.wanted, workers=len(busy))
                self._launcher.kill(one.id)

    def _kill(self, one: _Connected, reason: str) -> None:
        one.lost_for = one.lost_for or reason
        self._launcher.kill(one.id)

    def _add(self, worker_id: WorkerId, arrived: Arrived) -> None:
        name = self._name(arrived)
        capacity = Capacity(worker=name, device=arrived.device)
        left_out, self._ids[name] = name in self._left_out, worker_id
        self._workers[worker_id] = _Connected(worker_id, capacity, arrived.place, time.monotonic(), left_out=left_out)

    def _name(self, arrived: Arrived) -> str:
        """Return a unique name for a worker, also among those of workers that were discarded at other places."""
        taken = self._ids.keys() | {name for name, place in self._left_out.items() if place != arrived.place}
        names = itertools.chain([arrived.name], (f"{arrived.name}.{n}" for n in itertools.count(1)))
        return next(name for name in names if name not in taken)

    def _take(self, one: _Connected, message: Any) -> None:
        match message:
            case Ready():
                one.ready, one.capacity = True, replace(one.capacity, slots=message.slots)
                one.idle_since = time.monotonic()
                del self._bad_starts[one.place], self._bad_starts[""]
            case OpenFailed():
                self._refuse(one, message.error)
            case Recycle():
                one.recycles = True
            case Answer():
                one.answers[message.number] = message
            case _:
                if isinstance(message, Outcome):
                    one.held.discard((message.trial, message.attempt))
                    one.idle_since = time.monotonic()
                if not one.left_out:
                    self._messages.append((one.name, message))
        if one.recycles and not one.held:
            self._launcher.kill(one.id)

    def _refuse(self, one: _Connected, error: HpoError) -> None:
        """Discard a worker that cannot be opened, because another one there could not be opened either."""
        if not one.left_out:
            self._messages.append((one.name, WorkerLost(reason=str(error), cause=LossCause.UNUSABLE)))
            self._refusal = error
        one.left_out, self._left_out[one.name] = True, one.place
        self._launcher.leave_out(one.id)

    def _remove(self, worker_id: WorkerId, lost: WorkerLost) -> None:
        one, is_machine = self._workers.pop(worker_id, None), lost.cause is LossCause.MACHINE
        if one is None:
            if not is_machine:
                self._count_bad_start("", f"A worker is lost. {lost.reason}")
            return
        del self._ids[one.name]
        one.lost_for = one.lost_for or f"The worker {one.name} is lost. {lost.reason}"
        if one.left_out or (one.recycles and not one.held):
            return
        if one.ready:
            self._messages.append((one.name, replace(lost, reason=one.lost_for)))
        elif not is_machine and self._count_bad_start(one.place, one.lost_for):
            self._refuse(one, TrainingError(f"{one.lost_for} This happened at {MOST_STARTS} starts in a row."))

    def _count_bad_start(self, place: str, reason: str) -> bool:
        """Delay the next start, and return true if too many workers were lost at a place."""
        self._bad_starts[place] += 1
        count = self._bad_starts[place]
        pause = min(2.0 ** (count - 1) - 1, LONGEST_PAUSE_SECONDS)
        self._launcher.wanted = replace(self._launcher.wanted, not_before=time.monotonic() + pause)
        if place == "" and count >= MOST_STARTS:
            sentence = f"{reason} This happened at {count} starts in a row."
            if self._free() is None and (not self._has_begun or count >= MOST_UNPLACED):
                raise TrainingError(sentence)
            if count == MOST_STARTS and (free := self._free()) is not None:
                self._messages.append((free.name, Note(sentence=sentence)))
        return count >= MOST_STARTS

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the lead, and return its result or raise its error."""
        call = Call(number=next(self._numbers), method=method, arguments=arguments)
        while True:
            self.open_lead()
            lead = self._free()
            assert lead is not None, "the lead is open"
            self._launcher.tell(lead.id, call)
            while call.number not in lead.answers and self._workers.get(lead.id) is lead:
                lead.idle_since = time.monotonic()
                self._await(1.0)
            if (answer := lead.answers.pop(call.number, None)) is not None:
                break
            # A worker that asked to be replaced before the call, as after the last trial of a search, is replaced.
            if not lead.recycles:
                raise TrainingError(f"A worker was lost during a call of {method}: {lead.lost_for}")
        if answer.error is not None:
            raise answer.error
        return answer.result
