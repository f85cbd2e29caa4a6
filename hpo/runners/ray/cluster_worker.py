"""A lane, from inside: a worker in a process of the cluster, what it says to Tune, and the desk where it is told."""

import asyncio
import logging
import os
import pickle
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import ray
import torch
from psutil import net_if_addrs
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from hpo.distributed.rank_group import RankInfo, free_address
from hpo.errors import ConfigurationError, HpoError
from hpo.runners.processes.child import INTERFACES
from hpo.runners.processes.protocol import Arrived, Crashed, End, OpenFailed, Start, StudySetup
from hpo.runners.ray.resources import Demand
from hpo.runners.ray.scratch import scratch

PULSE_SECONDS = 5.0
"""After so long without a word of a lane Tune hears that it is alive."""
HEARS_SECONDS = 20.0
"""For which a lane waits at the desk until it asks again."""
MOST_AT_DESK = 100_000
"""Calls that the desk serves at once; Ray's own 1,000 would be taken by as many lanes that wait."""
logger = logging.getLogger(__name__)
T = TypeVar("T")


class Mailbox:
    """Where lanes ask for what they are told; an actor on the machine of the search.

    A call that waits holds one of the actor's places, and a lane that died leaves its own waiting: so it ends after
    `HEARS_SECONDS`, and there are more places than a search has lanes.
    """

    def __init__(self) -> None:
        self._boxes: dict[str, asyncio.Queue[object]] = {}
        self._early: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
        self._kept: Counter[str] = Counter()

    async def tell(self, lane: str, number: int, message: bytes) -> None:
        """Keep a message for a lane, its `number`-th from 0; Ray calls an async actor in no certain order."""
        early = self._early[lane]
        early[number] = message
        while self._kept[lane] in early:
            self._box(lane).put_nowait(early.pop(self._kept[lane]))
            self._kept[lane] += 1

    async def hear(self, lane: str) -> list[object]:
        """Return what there is for a lane, as soon as there is something; nothing after `HEARS_SECONDS`."""
        box = self._box(lane)
        messages: list[object] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARS_SECONDS):
                messages.append(await box.get())
        while not box.empty():
            messages.append(box.get_nowait())
        return messages

    def _box(self, lane: str) -> "asyncio.Queue[object]":
        return self._boxes.setdefault(lane, asyncio.Queue())


class WorkerTrainable(tune.Trainable):
    """A lane: Tune's trial, our worker. It trains on a thread of its own, and a step of Tune's is something it says."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        study: StudySetup,
        mailbox: ActorHandle,
        threads: int,
        demand: Demand,
        folder: Path,
        scratch_name: str,
    ) -> None:
        """Say where this is, and begin to open the worker."""
        self._places = folder, scratch_name
        self._said: SimpleQueue[object] = SimpleQueue()
        gpus = _own_gpus()
        self._said.put(_arrived(gpus, demand.ranks))
        # A process sees its own GPUs alone.
        device = "cuda:0" if gpus else "cpu"
        start = Start(
            worker=config["lane"],
            device=device,
            threads=threads,
            precision=config["precision"],
            gpu_share=min(1.0, demand.rank.get("GPU", 1.0)),
        )
        ears = _MessageReader(mailbox, config["lane"], self._said.put)
        self._run("trains", lambda: self._serve(ears, start, study, demand))

    def step(self) -> dict[str, Any]:
        """Return what the worker has said, as soon as there is something."""
        said = emptied(self._said, PULSE_SECONDS)
        heard = [message for message in said if message is not None]
        first = {"actor": ray.get_runtime_context().current_actor} if self.iteration == 0 else {}
        return {"said": pickle.dumps(heard), "done": None in said, **first}

    def cleanup(self) -> None:
        """End this process a moment later: taking torch down by itself takes seconds, which a deadline has not."""
        threading.Timer(0.1, os._exit, (0,)).start()

    def _run(self, name: str, do: Callable[[], None]) -> None:
        """Do something on a thread of its own; where that falls, so does the lane: it would be waited for."""

        def told() -> None:
            try:
                do()
            except HpoError as error:
                self._said.put(OpenFailed(error=error))
            except BaseException as error:
                logger.exception("The worker of a lane ended.")
                self._said.put(Crashed(reason=" ".join(f"{type(error).__name__}: {error}".split())))
                self._said.put(None)

        threading.Thread(target=told, name=name, daemon=True).start()

    def _serve(self, ears: "_MessageReader", start: Start, study: StudySetup, demand: Demand) -> None:
        from hpo.runners.processes.service import serve

        if demand.ranks > 1:
            start = self._with_gang(start, study, demand)
        with _ready_here(study, start, *self._places) as study_here:
            serve(ears, self._said.put, start, study_here)

    def _with_gang(self, start: Start, study: StudySetup, demand: Demand) -> Start:
        """Start the other ranks beside this one, in what Ray has set aside for all of them; return this one's start."""
        address = free_address(_own_host())
        group = ray.util.get_current_placement_group()
        cpus, gpus = demand.rank["CPU"], demand.rank.get("GPU", 0)
        followers, shared = [], ray.put(study)
        for rank in range(1, demand.ranks):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            actor = ray.remote(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=place)(Follower).remote()
            rank_info = RankInfo(rank=rank, ranks=demand.ranks, address=address)
            followers.append(actor.follow.remote(replace(start, rank_info=rank_info), shared, *self._places))
        # Those that end without an error were let go by this one.
        self._run("watches", lambda: _raising_its_own(followers))
        return replace(start, rank_info=RankInfo(rank=0, ranks=demand.ranks, address=address))


def emptied(queue: SimpleQueue[T], seconds: float) -> list[T]:
    """Return all that is in a queue; wait at most so long for the first of it."""
    found = []
    with suppress(Empty):
        found.append(queue.get(timeout=seconds))
        while True:
            found.append(queue.get_nowait())
    return found


class Follower:
    """Another rank of a gang than the first, in an actor of its own; it ends with its lane."""

    def follow(self, start: Start, study: StudySetup, folder: Path, scratch_name: str) -> None:
        """Take part in what rank 0 trains, until that is closed."""
        from hpo.runners.processes.service import opened

        with _ready_here(study, start, folder, scratch_name) as study_here:
            opened(start, study_here).follow()


def _raising_its_own(results: list[Any]) -> None:
    """Wait for what actors do; raise what one of them raised, without Ray's page about it, which no pickle holds."""
    try:
        ray.get(results)
    except RayTaskError as error:
        raise error.cause from None


def _own_gpus() -> tuple[str, ...]:
    return tuple(str(number) for number in ray.get_gpu_ids())


def see_own_gpus() -> None:
    """Let CUDA see this process's own GPUs alone, the first of them as its first.

    So Ray does too, unless it was told not to, by RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES.
    """
    if gpus := _own_gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)


def _arrived(gpus: tuple[str, ...], ranks: int) -> Arrived:
    """Return where a lane is; a machine that comes back, or another in its place, has another number."""
    own, machine = "+".join(gpus), ray.get_runtime_context().get_node_id()
    name = f"{_own_host()}/{f'gpu-{own}' if gpus else 'cpu'}"
    device = f"cuda:{own}" if gpus else "cpu"
    device += f" and {ranks - 1} more" if ranks > 1 else ""
    return Arrived(name=name, device=device, place=f"{machine}/{own}")


def _own_host() -> str:
    return str(ray.util.get_node_ip_address())


@contextmanager
def _ready_here(study: StudySetup, start: Start, folder: Path, scratch_name: str) -> Iterator[StudySetup]:
    """Make this process ready to open a worker; return the study with its files as they are on this machine.

    Where this machine has the folder in which the search works, relative paths of the study are taken from it.
    """
    if folder.is_dir():
        os.chdir(folder)
    see_own_gpus()
    torch.set_num_threads(start.threads)
    if start.rank_info is not None:
        network = next(name for name, known in net_if_addrs().items() if _own_host() in {one.address for one in known})
        for variable in INTERFACES:
            os.environ.setdefault(variable, network)
    if isinstance(study.config.store.files, str):
        with scratch(scratch_name) as own:
            files = own / study.config.study
            files.mkdir(exist_ok=True)
            yield replace(study, files=files)
    else:
        refuse_unshared(study)
        yield study


class _MessageReader:
    """What a lane hears, as a connection has it."""

    def __init__(self, mailbox: ActorHandle, lane: str, say: Callable[[None], None]) -> None:
        self._mailbox, self._lane, self._say = mailbox, lane, say
        self._heard: deque[bytes] = deque()

    def recv(self) -> Any:
        """Return the next message; wait for it.

        Raises:
            EOFError: whoever sends them is no more.
        """
        try:
            while not self._heard:
                self._heard += ray.get(self._mailbox.hear.remote(self._lane))
        except RayActorError:
            raise EOFError from None
        message = pickle.loads(self._heard.popleft())
        if isinstance(message, End):
            # The worker may still be opening its model: that is not waited for.
            self._say(None)
        return message


SEEN = "seen-by-all"


def refuse_unshared(study: StudySetup) -> None:
    """Refuse a folder of files that is another one on this machine than on that of the search.

    Raises:
        ConfigurationError: it is.
    """
    if not (study.files / SEEN).exists():
        raise ConfigurationError(
            f"{study.files} on {_own_host()} is not the folder that the machine of the search has "
            "there, so a trial could not go on elsewhere; name one that all machines share by store.files, or a URL "
            "such as s3://BUCKET/FOLDER."
        )
