"""Cluster worker: a worker in a process of the cluster, and the mailbox from which it reads its messages."""

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

from hpo.distributed.rank_group import INTERFACES, RankInfo, free_address
from hpo.errors import ConfigurationError, HpoError, TrainingError
from hpo.runners.processes.protocol import Arrived, End, OpenFailed, Start, StudySetup
from hpo.runners.ray.scratch import scratch
from hpo.runners.ray.setup import TrialResources

HEARTBEAT_SECONDS = 5.0
"""Seconds without a message after which Tune is told that a worker is alive."""
POLL_SECONDS = 20.0
"""Seconds that a worker waits at the mailbox before it asks again."""
MAILBOX_CALLS = 100_000
"""Concurrent calls to the mailbox; with Ray's default of 1,000, as many waiting workers would block it."""
MARKER = "seen-by-all"
"""Name of an empty file in the study's folder, by which workers recognise the folder."""
logger = logging.getLogger(__name__)
T = TypeVar("T")


class Mailbox:
    """Messages to workers, which poll them: an actor on the machine of the search.

    A waiting call occupies one of the actor's `MAILBOX_CALLS`, even if its worker has died. So each call ends after
    `POLL_SECONDS`, and the limit exceeds the number of workers.
    """

    def __init__(self) -> None:
        self._boxes: dict[str, asyncio.Queue[object]] = {}
        self._early: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
        self._kept: Counter[str] = Counter()

    async def put(self, worker: str, number: int, message: bytes) -> None:
        """Add a message to a worker, with its `number` from 0, because Ray may reorder calls of an async actor."""
        early = self._early[worker]
        early[number] = message
        while self._kept[worker] in early:
            self._box(worker).put_nowait(early.pop(self._kept[worker]))
            self._kept[worker] += 1

    async def get(self, worker: str) -> list[object]:
        """Return the messages to a worker as soon as there is one, or none after `POLL_SECONDS`."""
        box = self._box(worker)
        messages: list[object] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                messages.append(await box.get())
        while not box.empty():
            messages.append(box.get_nowait())
        return messages

    def _box(self, worker: str) -> "asyncio.Queue[object]":
        return self._boxes.setdefault(worker, asyncio.Queue())


class WorkerTrainable(tune.Trainable):
    """A worker as a Tune trial: it trains on its own thread, and each Tune step returns its messages."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        study: StudySetup,
        mailbox: ActorHandle,
        threads: int,
        resources: TrialResources,
        folder: Path,
        scratch_name: str,
    ) -> None:
        """Send `Arrived`, and begin to open the worker."""
        self._folders = folder, scratch_name
        self._messages: SimpleQueue[object] = SimpleQueue()
        self._crash: TrainingError | None = None
        gpus = _own_gpus()
        self._messages.put(_arrived(gpus, resources.ranks))
        start = Start(
            worker=config["worker"],
            # A process sees only its own GPUs.
            device="cuda:0" if gpus else "cpu",
            threads=threads,
            settings=config["settings"],
            gpu_share=min(1.0, resources.rank.get("GPU", 1.0)),
        )
        reader = _MailboxReader(mailbox, config["worker"], self._messages.put)
        self._run("trains", lambda: self._serve(reader, start, study, resources))

    def step(self) -> dict[str, Any]:
        """Return the worker's messages as soon as there is one; after the last of a crashed worker, raise its error."""
        if self._crash is not None:
            raise self._crash
        messages = emptied(self._messages, HEARTBEAT_SECONDS)
        self._crash = next((message for message in messages if isinstance(message, TrainingError)), None)
        first = {"actor": ray.get_runtime_context().current_actor} if self.iteration == 0 else {}
        sent = [message for message in messages if message is not None and message is not self._crash]
        return {"messages": pickle.dumps(sent), "done": None in messages, **first}

    def cleanup(self) -> None:
        """End this process shortly after, without torch's clean-up, whose seconds would delay a deadline."""
        threading.Timer(0.1, os._exit, (0,)).start()

    def _run(self, name: str, do: Callable[[], None]) -> None:
        """Run a function on its own thread; if it crashes, the worker crashes too, instead of waiting for it."""

        def run() -> None:
            try:
                do()
            except HpoError as error:
                self._messages.put(OpenFailed(error=error))
            except BaseException as error:
                logger.exception("A cluster worker crashed.")
                self._messages.put(TrainingError(" ".join(f"{type(error).__name__}: {error}".split())))

        threading.Thread(target=run, name=name, daemon=True).start()

    def _serve(self, reader: "_MailboxReader", start: Start, study: StudySetup, resources: TrialResources) -> None:
        from hpo.runners.processes.worker_process import serve

        if resources.ranks > 1:
            start = self._with_followers(start, study, resources)
        with _ready_here(study, start, *self._folders) as study_here:
            serve(reader, self._messages.put, start, study_here)

    def _with_followers(self, start: Start, study: StudySetup, resources: TrialResources) -> Start:
        """Start the other ranks in the trial's placement group, and return the start of rank 0."""
        address = free_address(_own_host())
        group = ray.util.get_current_placement_group()
        cpus, gpus = resources.rank["CPU"], resources.rank.get("GPU", 0)
        followers, shared = [], ray.put(study)
        for rank in range(1, resources.ranks):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            actor = ray.remote(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=place)(Follower).remote()
            rank_info = RankInfo(rank=rank, ranks=resources.ranks, address=address)
            followers.append(actor.follow.remote(replace(start, rank_info=rank_info), shared, *self._folders))
        # Followers end without an error only on request of rank 0.
        self._run("watches", lambda: _wait_for(followers))
        return replace(start, rank_info=RankInfo(rank=0, ranks=resources.ranks, address=address))


def emptied(queue: SimpleQueue[T], seconds: float) -> list[T]:
    """Return all items of a queue; wait at most that many seconds for the first."""
    found = []
    with suppress(Empty):
        found.append(queue.get(timeout=seconds))
        while True:
            found.append(queue.get_nowait())
    return found


class Follower:
    """A rank above 0, in its own actor; it ends with rank 0."""

    def follow(self, start: Start, study: StudySetup, folder: Path, scratch_name: str) -> None:
        """Take part in the training of rank 0, until that closes the group."""
        from hpo.runners.processes.worker_process import opened

        with _ready_here(study, start, folder, scratch_name) as study_here:
            opened(start, study_here).follow()


def _wait_for(results: list[Any]) -> None:
    """Wait for the results of actors; raise their own error instead of Ray's wrapper, which cannot be pickled."""
    try:
        ray.get(results)
    except RayTaskError as error:
        raise error.cause from None


def _own_gpus() -> tuple[str, ...]:
    return tuple(str(number) for number in ray.get_gpu_ids())


def see_own_gpus() -> None:
    """Make only this process's own GPUs visible to CUDA, numbered from 0.

    Ray does the same, unless RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES is set.
    """
    if gpus := _own_gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)


def _arrived(gpus: tuple[str, ...], ranks: int) -> Arrived:
    """Return the name and place of this worker; a machine that rejoins the cluster gets another id."""
    own, machine = "+".join(gpus), ray.get_runtime_context().get_node_id()
    name = f"{_own_host()}/{f'gpu-{own}' if gpus else 'cpu'}"
    device = f"cuda:{own}" if gpus else "cpu"
    device += f" and {ranks - 1} more" if ranks > 1 else ""
    return Arrived(name=name, device=device, place=f"{machine}/{own}")


def _own_host() -> str:
    return str(ray.util.get_node_ip_address())


@contextmanager
def _ready_here(study: StudySetup, start: Start, folder: Path, scratch_name: str) -> Iterator[StudySetup]:
    """Prepare this process to open a worker; yield the study with the path of its files on this machine.

    If this machine has the working folder of the search, relative paths of the study start there.
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
        refuse_unshared(study, scratch_name)
        yield study


class _MailboxReader:
    """A connection's `recv` over the mailbox of a worker."""

    def __init__(self, mailbox: ActorHandle, worker: str, end: Callable[[None], None]) -> None:
        self._mailbox, self._worker, self._end = mailbox, worker, end
        self._unread: deque[bytes] = deque()

    def recv(self) -> Any:
        """Wait for the next message and return it.

        Raises:
            EOFError: the mailbox is gone.
        """
        try:
            while not self._unread:
                self._unread += ray.get(self._mailbox.get.remote(self._worker))
        except RayActorError:
            raise EOFError from None
        message = pickle.loads(self._unread.popleft())
        if isinstance(message, End):
            # Ends Tune's trial at once: the worker may still be opening its model.
            self._end(None)
        return message


def refuse_unshared(study: StudySetup, name: str) -> None:
    """Refuse a folder of files that this machine does not share with the machine of the search.

    Args:
        study: the study, with its folder of files.
        name: name of the search in the folder's marker.

    Raises:
        ConfigurationError: the folder is not shared.
    """
    marker = study.files / MARKER
    # The marker of a search that was killed may be left there, with another name.
    if not marker.exists() or marker.read_text() != name:
        raise ConfigurationError(
            f"{study.files} on {_own_host()} is not the same folder as on the machine of the search, so a trial could "
            "not resume on another machine; set store.files to a folder that all machines share, or to a URL such as "
            "s3://BUCKET/FOLDER."
        )
