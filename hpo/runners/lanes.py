"""A workforce on a cluster: lanes, each a worker that a carrier places on some machine, and anew where it is lost.

A lane is opened when there is room for it, so nobody knows before where it will be: it says so itself, and is named
after it. The carrier is Ray Tune; nothing here knows of it.
"""

import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, Protocol

from hpo.errors import HpoError, TrainingError
from hpo.messages import Action, Assignment, Capacity, Decision, Outcome
from hpo.runners.worker_process.conversation import Answer, Call, End, Ready, Refused, Worn
from hpo.runners.worker_process.remote_worker import RemoteWorker
from hpo.runners.workforce import Lost, Note, Said, Unfit
from hpo.training.precision import Precision

MOST_STARTS, MOST_RESTARTS = 3, 12
"""Lanes in a row that are lost before their worker is open, after which no more are opened: before the first was ever
open, and later, when a machine may have died and another be on its way."""
LONGEST_PAUSE_SECONDS = 60.0
"""Before another lane is opened, after several in a row were lost."""
AWAITED = "the next lane"
"""Name of a worker that there is not yet, where there is no other."""
SECONDS_TO_END = 10.0
"""Time that a lane which is left out has to give back what it holds, until it is killed."""

LaneId = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """From a lane, first: where it is."""

    host: str
    """Address of its machine."""
    gpus: tuple[str, ...]
    """The machine's numbers of those that its rank 0 has; none on the CPU."""
    ranks: int
    """Processes that train one trial together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fell:
    """From a lane, last: why it ends, of which nobody asked it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """Of a lane, by its carrier: its processes are no more."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Of the carrier itself: it opens no more lanes."""

    reason: str


class Carrier(Protocol):
    """What carries messages to lanes, and ends them."""

    def tell(self, lane: LaneId, message: object, /) -> None:
        """Have a message brought to a lane; one that is no more hears nothing."""
        ...

    def kill(self, lane: LaneId, /) -> None:
        """Kill a lane's processes, which is then told as `Gone`."""
        ...


@dataclass(slots=True)
class Lane:
    """One of them, as this side knows it."""

    name: str
    device: str
    began: float
    ready: bool = False
    """Whether its worker is open."""
    worn: bool = False
    """Whether it asks to be replaced."""
    idle_for_good: bool = False
    """Whether it is left out, and holds its place only so that no other lane is put there."""
    killed_for: str | None = None
    held: set[tuple[int, int]] = field(default_factory=set)
    answers: dict[int, Answer] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Whether it takes assignments."""
        return self.ready and not self.worn and not self.idle_for_good


class LaneWorkforce:
    """Lanes by the names of their workers. `wants_lane`, `opened` and `said` are the carrier's, from its own thread."""

    ahead = 1

    def __init__(self, carrier: Carrier, *, room: int, most: int | None, hang: float) -> None:
        """Open none yet.

        Args:
            carrier: brings messages to them.
            room: for how many there is room now.
            most: lanes side by side; None for as many as there is room for.
            hang: seconds after which a lane that has not opened its worker is killed.
        """
        self._carrier, self._most, self._hang = carrier, most, hang
        self._room, self._room_now = room, room
        self._heard: SimpleQueue[tuple[LaneId, Any]] = SimpleQueue()
        self._lock = Lock()
        self._open: set[LaneId] = set()
        """Lanes that were opened and are not gone, those that wait for room among them."""
        self._wanted: float = 1
        self._closing = False
        self._lanes: dict[LaneId, Lane] = {}
        """Those that have arrived."""
        self._ids: dict[str, LaneId] = {}
        self._left_out: set[str] = set()
        """Names; a lane that is placed later where one of them was is left out too."""
        self._said: list[tuple[str, Said]] = []
        self._bad_starts = 0
        self._not_before = 0.0
        """When another lane may be opened, on the monotonic clock."""
        self._refusal: HpoError | None = None
        self._precision: Precision | None = None
        self._numbers = itertools.count()
        self._lead = RemoteWorker(self._ask)

    # -- the carrier's side, from another thread

    @property
    def closing(self) -> bool:
        """Whether no lane is opened any more, and those there are end."""
        return self._closing

    @property
    def precision(self) -> Precision | None:
        """In which a lane that is opened now computes; None where that is not yet chosen."""
        return self._precision

    def wants_lane(self, room: int) -> bool:
        """Return whether one more lane is to be opened, where there is room for so many.

        One more than there is room for is opened and waits: so a machine that joins at midnight is used.
        """
        with self._lock:
            self._room_now = room
            wanted = not self._closing and len(self._open) < min(self._wanted, room + 1)
            return wanted and time.monotonic() >= self._not_before

    def opened(self, lane: LaneId) -> None:
        """Take in that a lane will come as soon as there is room for it."""
        with self._lock:
            self._open.add(lane)

    def said(self, lane: LaneId, message: object) -> None:
        """Take in what a lane, or the carrier of it, has said."""
        if isinstance(message, Gone):
            with self._lock:
                self._open.discard(lane)
        self._heard.put((lane, message))

    # -- the dispatch's side

    @property
    def workers(self) -> Collection[str]:
        """Names of those that have arrived; without any, of the one that is awaited."""
        names = [lane.name for lane in self._lanes.values() if not lane.idle_for_good]
        return names or ([AWAITED] if self._may_come() else [])

    @property
    def size(self) -> int:
        """As many as there was room for at the start, or as were asked for."""
        return min(self._room, self._most or self._room)

    @property
    def lead(self) -> RemoteWorker:
        """The first that takes assignments. A call to it raises `TrainingError` where it dies of it."""
        return self._lead

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """What may be given assignments now."""
        return {lane.name: Capacity(worker=lane.name, device=lane.device) for lane in self._lanes.values() if lane.free}

    def open_lead(self) -> None:
        """Wait until the first lane is open, however long that takes: a cluster may have no room yet.

        Raises:
            HpoError: its worker cannot be opened, or there is none left.
        """
        while not self.capacities:
            if not self.workers:
                raise TrainingError("No worker is left to be asked.")
            self._await(1.0)
            if self._refusal is not None:
                raise self._refusal

    def begin(self, precision: Precision) -> None:
        """Have the other lanes opened; all that are open now or later compute in `precision`."""
        self._precision = precision
        self.lead.use(precision)
        with self._lock:
            self._wanted = float("inf") if self._most is None else self._most

    def give(self, worker: str, assignment: Assignment) -> None:
        """Hand over an assignment, to be trained after those that the worker holds."""
        self._lanes[self._ids[worker]].held.add((assignment.trial, assignment.attempt))
        self._carrier.tell(self._ids[worker], assignment)

    def apply(self, worker: str, decision: Decision) -> None:
        """Hand over a decision; a worker that does not hold its trial, or not any more, does nothing about it."""
        if worker in self._ids:
            self._carrier.tell(self._ids[worker], decision)

    def listen(self, seconds: float) -> Sequence[tuple[str, Said]]:
        """Return what workers have said; at most after so many seconds, and as soon as one is open."""
        self._await(0.0 if self._said else seconds)
        said, self._said = self._said, []
        return said

    def kill(self, worker: str, reason: str) -> None:
        """Kill a worker, which then says that it is `Lost`; another takes its place where there is room."""
        if worker in self._ids:
            lane = self._ids[worker]
            self._lanes[lane].killed_for = self._lanes[lane].killed_for or reason
            self._carrier.kill(lane)

    def discard(self, worker: str) -> None:
        """Do without a worker from now on; it keeps its place, so that no other is put on what it failed on."""
        self._left_out.add(worker)
        if worker in self._ids:
            self._hold_back(self._lanes[self._ids[worker]])
        self._said = [(name, said) for name, said in self._said if name != worker]

    def close(self) -> None:
        """Open no more lanes, and ask all to end."""
        with self._lock:
            self._closing = True
            lanes = list(self._open)
        for lane in lanes:
            self._carrier.tell(lane, End())

    def _may_come(self) -> bool:
        """Return whether a lane may come where all that there are, if any, are left out: these keep their places."""
        if not self._lanes:
            return self._wanted > 0 and not self._closing
        return not self._closing and len(self._lanes) < min(self._wanted, self._room_now)

    def _await(self, seconds: float) -> None:
        """Take in what was said; wait at most so long for the first of it."""
        with suppress(Empty):
            self._take(*self._heard.get(timeout=seconds))
            while True:
                self._take(*self._heard.get_nowait())
        self._kill_overdue()

    def _hold_back(self, lane: Lane) -> None:
        """Have a lane give back what it holds: others are about to train it, and two would write the same files."""
        lane.idle_for_good = True
        lane_id = self._ids[lane.name]
        for trial, attempt in lane.held:
            self._carrier.tell(lane_id, Decision(trial=trial, attempt=attempt, action=Action.PAUSE))
        until = time.monotonic() + SECONDS_TO_END
        while lane.held and lane_id in self._lanes and (left := until - time.monotonic()) > 0:
            self._await(left)
        if lane.held and lane_id in self._lanes:
            self._carrier.kill(lane_id)

    def _take(self, lane_id: LaneId, message: object) -> None:
        if isinstance(message, Broken):
            raise TrainingError(message.reason)
        if isinstance(message, Arrived):
            self._arrive(lane_id, message)
            return
        lane = self._lanes.get(lane_id)
        if isinstance(message, Gone):
            self._lose(lane_id, message)
        elif lane is not None:
            self._hear(lane, message)

    def _arrive(self, lane_id: LaneId, message: Arrived) -> None:
        name = self._name(message)
        device = f"cuda:{'+'.join(message.gpus)}" if message.gpus else "cpu"
        device += f" and {message.ranks - 1} more" if message.ranks > 1 else ""
        left_out = name in self._left_out
        self._lanes[lane_id] = Lane(name=name, device=device, began=time.monotonic(), idle_for_good=left_out)
        self._ids[name] = lane_id

    def _name(self, arrived: Arrived) -> str:
        """Return a name that says where a lane is, and is no other's."""
        stem = f"{arrived.host}/gpu-{'+'.join(arrived.gpus)}" if arrived.gpus else f"{arrived.host}/cpu-0"
        names = (f"{arrived.host}/cpu-{n}" if not arrived.gpus else f"{stem}.{n}" for n in itertools.count(1))
        # Whose last words are not yet heard would be taken for this one's.
        taken = self._ids.keys() | {name for name, _ in self._said}
        return next(name for name in itertools.chain([stem], names) if name not in taken)

    def _hear(self, lane: Lane, message: object) -> None:
        match message:
            case Ready():
                lane.ready, self._bad_starts = True, 0
            case Refused():
                self._refuse(lane, message.error)
            case Fell():
                lane.killed_for = lane.killed_for or f"The worker {lane.name} fell: {message.reason}."
            case Worn():
                lane.worn = True
                self._replace_if_empty(lane)
            case Answer():
                lane.answers[message.number] = message
            case Outcome():
                lane.held.discard((message.trial, message.attempt))
                self._pass_on(lane, message)
                self._replace_if_empty(lane)
            case _:
                self._pass_on(lane, message)

    def _pass_on(self, lane: Lane, message: Any) -> None:
        if not lane.idle_for_good:
            self._said.append((lane.name, message))

    def _refuse(self, lane: Lane, error: HpoError) -> None:
        """Do without a lane that cannot open its worker: it keeps its place, as the next one there could not either."""
        if not self.capacities and self._precision is None:
            self._refusal = error
            return
        if not lane.idle_for_good:
            self._said.append((lane.name, Unfit(reason=str(error))))
        lane.idle_for_good = True
        self._left_out.add(lane.name)

    def _replace_if_empty(self, lane: Lane) -> None:
        if lane.worn and not lane.held:
            self._carrier.kill(self._ids[lane.name])

    def _lose(self, lane_id: LaneId, gone: Gone) -> None:
        lane = self._lanes.pop(lane_id, None)
        if lane is not None:
            del self._ids[lane.name]
        if lane is not None and lane.ready:
            if (lane.held or not lane.worn) and not lane.idle_for_good:
                self._said.append(
                    (lane.name, Lost(reason=lane.killed_for or f"The worker {lane.name} is lost. {gone.reason}"))
                )
            return
        if self._closing or (lane is not None and lane.idle_for_good):
            return
        self._bad_starts += 1
        self._not_before = time.monotonic() + min(2.0**self._bad_starts, LONGEST_PAUSE_SECONDS)
        reason = (lane and lane.killed_for) or gone.reason
        if self._bad_starts >= (MOST_STARTS if self._precision is None else MOST_RESTARTS):
            self._open_no_more(f"{reason} {self._bad_starts} workers in a row were lost before they were open.")

    def _open_no_more(self, reason: str) -> None:
        with self._lock:
            self._wanted = 0
        if not self.capacities:
            raise TrainingError(reason)
        self._said.append((next(iter(self.capacities)), Note(sentence=reason)))

    def _kill_overdue(self) -> None:
        for lane_id, lane in self._lanes.items():
            if not lane.ready and not lane.idle_for_good and time.monotonic() - lane.began > self._hang:
                lane.killed_for = f"The worker {lane.name} did not open its model in {self._hang:g} seconds."
                self._carrier.kill(lane_id)

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the lead, and return or raise what it does."""
        call = Call(number=next(self._numbers), method=method, arguments=arguments)
        while True:
            lane_id, lane = self._lead_lane()
            self._carrier.tell(lane_id, call)
            while call.number not in lane.answers and lane_id in self._lanes:
                self._await(1.0)
            answer = lane.answers.pop(call.number, None)
            if answer is not None:
                break
            if not lane.worn:
                raise TrainingError(f"The worker {lane.name} was lost when it was asked to {method}.")
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _lead_lane(self) -> tuple[LaneId, Lane]:
        self.open_lead()
        return next((lane_id, lane) for lane_id, lane in self._lanes.items() if lane.free)
