"""Trials on a Ray cluster: Ray Tune places workers on its machines, and the dispatch keeps them busy.

A trial of Tune's is a *lane*: a warm worker that trains one of ours after another. So Ray decides where there is room,
also for gangs, and notices what dies; what is trained, given up and stored our coordinator alone decides, and between
two trials nothing waits for Tune. Tune's own retries, loggers, checkpoints and restoring are off: the study's store is
the truth.

This is the only file that imports Ray; `cluster.py` sets it up.
"""

import asyncio
import fcntl
import logging
import os
import pickle
import signal
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from shutil import rmtree
from typing import Any

import ray
import torch
from psutil import net_if_addrs
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError, HpoError
from hpo.runners.cluster import Demand, Machine, demand_of, refuse_unplaceable
from hpo.runners.lanes import Arrived, Broken, Fell, Gone, LaneWorkforce
from hpo.runners.worker_process.child import INTERFACES, PASSWORD
from hpo.runners.worker_process.conversation import End, Opener, Refused, Start, Study
from hpo.training.gang import Seat, free_address
from hpo.training.shared import FOLDER
from hpo.training.worker import open_worker

LEAST_VERSION = (2, 52)
"""Before it a web page open in a browser on the machine could run code in the cluster (CVE-2025-62593)."""
PULSE_SECONDS = 5.0
"""After so long without a word of a lane Tune hears that it is alive."""
SECONDS_TO_END = 10.0
logger = logging.getLogger(__name__)

# -- the cluster


def machines_of_cluster() -> list[Machine]:
    """Return what each machine of the cluster offers in all."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def joined_cluster(address: str | None, secret: str = "") -> Iterator[None]:
    """Be part of a Ray cluster: of the one at `address`, or of one that is started on this machine and ends with this.

    Args:
        address: `auto` for the one that this machine is part of, HOST:PORT of its head, or None.
        secret: what no process of a cluster that is started here may find in its environment.

    Raises:
        ConfigurationError: there is no cluster there, or the installed Ray is not safe.
    """
    _refuse_unsafe()
    if ray.is_initialized():
        # Of whoever has called us, such as a notebook; it stays.
        yield
        return
    if address is not None and "://" in address:
        raise ConfigurationError(
            f"compute.ray_address is {address}, which goes through Ray Client; start the search on a machine of the "
            "cluster, with auto or HOST:PORT of its head."
        )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if address is not None and address != "auto":
        _refuse_unreachable(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _without(secret):
            local = {} if address else {"include_dashboard": False}
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _no_cluster(address, str(error).strip().partition("\n")[0]) from None
    if threading.current_thread() is threading.main_thread():
        # Ray puts its own in the place of that of the command line.
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Refuse at once what Ray would try for most of a minute, with warnings in between."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str | None, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"There is no Ray cluster at {address or 'this machine'}: {reason.rstrip('.')}. Give compute.ray_address as "
        "auto or HOST:PORT of its head, such as 10.0.0.1:6379, or leave it out to start Ray on this machine."
    )


def _refuse_unsafe() -> None:
    if tuple(map(int, ray.__version__.split(".")[:2])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise ConfigurationError(
            f"Ray {ray.__version__} is installed, and before {least} a web page in a browser could run code in the "
            f"cluster (CVE-2025-62593); pip install 'ray[tune]>={least}' on all its machines."
        )


@contextmanager
def _without(secret: str) -> Iterator[None]:
    """Take out of this process's environment what the processes that are started would inherit."""
    hidden = {name: value for name, value in os.environ.items() if name == PASSWORD or (secret and secret in value)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ |= hidden


# -- in a process of the cluster


class Desk:
    """Where lanes ask for what they are told; an actor on the machine of the search."""

    def __init__(self) -> None:
        self._boxes: dict[str, asyncio.Queue[object]] = {}

    async def tell(self, lane: str, message: bytes) -> None:
        """Keep a message for a lane."""
        self._box(lane).put_nowait(message)

    async def hear(self, lane: str) -> list[object]:
        """Return what there is for a lane, as soon as there is something."""
        box = self._box(lane)
        messages = [await box.get()]
        while not box.empty():
            messages.append(box.get_nowait())
        return messages

    def _box(self, lane: str) -> "asyncio.Queue[object]":
        return self._boxes.setdefault(lane, asyncio.Queue())


class LaneTrainable(tune.Trainable):
    """A lane: Tune's trial, our worker. It trains on a thread of its own, and a step of Tune's is something it says."""

    def setup(self, config: dict[str, Any], *, study: Study, desk: ActorHandle, threads: int, demand: Demand) -> None:
        """Say where this is, and begin to open the worker."""
        self._said: SimpleQueue[object] = SimpleQueue()
        gpus = _own_gpus()
        self._said.put(Arrived(host=_own_host(), gpus=gpus, ranks=demand.ranks))
        # Ray lets a process see its own GPUs alone.
        device = "cuda:0" if gpus else "cpu"
        start = Start(worker=config["lane"], device=device, threads=threads, precision=config["precision"])
        ears = _Ears(desk, config["lane"], self._said.put)
        self._run("trains", lambda: self._serve(ears, start, study, demand))

    def step(self) -> dict[str, Any]:
        """Return what the worker has said, as soon as there is something."""
        said = []
        with suppress(Empty):
            said.append(self._said.get(timeout=PULSE_SECONDS))
            while True:
                said.append(self._said.get_nowait())
        over = None in said
        heard = [message for message in said if message is not None]
        first = {"actor": ray.get_runtime_context().current_actor} if self.iteration == 0 else {}
        return {"said": pickle.dumps(heard), "done": over, **first}

    def cleanup(self) -> None:
        """End this process a moment later: taking torch down by itself takes seconds, which a deadline has not."""
        threading.Timer(0.1, os._exit, (0,)).start()

    def _run(self, name: str, do: Callable[[], None]) -> None:
        """Do something on a thread of its own; where that falls, so does the lane: it would be waited for."""

        def told() -> None:
            try:
                do()
            except HpoError as error:
                self._said.put(Refused(error=error))
            except BaseException as error:
                logger.exception("The worker of a lane ended.")
                self._said.put(Fell(reason=" ".join(f"{type(error).__name__}: {error}".split())))
                self._said.put(None)

        threading.Thread(target=told, name=name, daemon=True).start()

    def _serve(self, ears: "_Ears", start: Start, study: Study, demand: Demand) -> None:
        from hpo.runners.worker_process.service import serve

        if demand.ranks > 1:
            start = self._with_gang(start, study, demand)
        with _ready_here(study, start) as study_here:
            serve(ears, self._said.put, start, study_here)

    def _with_gang(self, start: Start, study: Study, demand: Demand) -> Start:
        """Start the other ranks beside this one, in what Ray has set aside for all of them; return this one's start."""
        address = free_address(_own_host())
        group = ray.util.get_current_placement_group()
        cpus, gpus = demand.rank["CPU"], demand.rank.get("GPU", 0)
        followers = []
        for rank in range(1, demand.ranks):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            actor = ray.remote(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=place)(Follower).remote()
            seat = Seat(rank=rank, ranks=demand.ranks, address=address)
            followers.append(actor.follow.remote(replace(start, seat=seat), study))
        # Those that end without an error were let go by this one.
        self._run("watches", lambda: ray.get(followers))
        return replace(start, seat=Seat(rank=0, ranks=demand.ranks, address=address))


class Follower:
    """Another rank of a gang than the first, in an actor of its own; it ends with its lane."""

    def follow(self, start: Start, study: Study) -> None:
        """Take part in what rank 0 trains, until that is closed."""
        from hpo.runners.worker_process.service import opened

        with _ready_here(study, start) as study_here:
            opened(start, study_here).follow()


def _own_gpus() -> tuple[str, ...]:
    return tuple(str(number) for number in ray.get_gpu_ids())


def _own_host() -> str:
    return str(ray.util.get_node_ip_address())


@contextmanager
def _ready_here(study: Study, start: Start) -> Iterator[Study]:
    """Make this process ready to open a worker; return the study with its files as they are on this machine."""
    torch.set_num_threads(start.threads)
    if start.seat is not None:
        network = next(name for name, known in net_if_addrs().items() if _own_host() in {one.address for one in known})
        for variable in INTERFACES:
            os.environ.setdefault(variable, network)
    if isinstance(study.config.store.files, str):
        with _scratch(study.config.study) as folder:
            yield replace(study, files=folder)
    else:
        refuse_unshared(study)
        yield study


@contextmanager
def _scratch(study: str) -> Iterator[Path]:
    """Return a folder of this machine that all lanes of this search on it use; the last of them removes it."""
    folder = Path(tempfile.gettempdir(), f"hpo-{ray.get_runtime_context().get_job_id()}-{os.getuid()}", study)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "in-use").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        try:
            yield folder
        finally:
            with suppress(BlockingIOError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                rmtree(folder, ignore_errors=True)


class _Ears:
    """What a lane hears, as a connection has it."""

    def __init__(self, desk: ActorHandle, lane: str, say: Callable[[None], None]) -> None:
        self._desk, self._lane, self._say = desk, lane, say
        self._heard: deque[bytes] = deque()

    def recv(self) -> Any:
        """Return the next message; wait for it.

        Raises:
            EOFError: whoever sends them is no more.
        """
        try:
            while not self._heard:
                self._heard += ray.get(self._desk.hear.remote(self._lane))
        except RayActorError:
            raise EOFError from None
        message = pickle.loads(self._heard.popleft())
        if isinstance(message, End):
            # The worker may still be opening its model: that is not waited for.
            self._say(None)
        return message


SEEN = "seen-by-all"


def refuse_unshared(study: Study) -> None:
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


# -- on the machine of the search


class _NotCarried:
    """What Ray pickles of it is nothing: it holds what belongs to this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LaneSearcher(_NotCarried, Searcher):
    """Proposes to Tune one lane after another, while there is room and use for one more."""

    def __init__(self, workforce: LaneWorkforce, demand: Demand) -> None:
        super().__init__(metric=None, mode="max")
        self._workforce, self._demand = workforce, demand

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a lane to be placed, None for none now, `FINISHED` at the end."""
        if self._workforce.closing:
            return str(Searcher.FINISHED)
        if not self._workforce.wants_lane(self._demand.fits(machines_of_cluster())):
            return None
        self._workforce.opened(trial_id)
        return {"lane": trial_id, "precision": self._workforce.precision}


class LaneScheduler(_NotCarried, FIFOScheduler):
    """Passes on to the dispatch what lanes say; none of them is given up for what it says."""

    def __init__(self, workforce: LaneWorkforce, actors: dict[str, ActorHandle]) -> None:
        super().__init__()
        self._workforce, self._actors = workforce, actors

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pass on what a lane has said."""
        if (actor := result.get("actor")) is not None:
            self._actors[trial.trial_id] = actor
        for message in pickle.loads(result["said"]):
            self._workforce.said(trial.trial_id, message)
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on the last words, which Tune does not show to `on_trial_result`, and that the lane is no more."""
        for message in pickle.loads(result.get("said", pickle.dumps([]))):
            self._workforce.said(trial.trial_id, message)
        self._workforce.said(trial.trial_id, Gone(reason="Its process has ended."))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on that a lane is no more, and what it died of."""
        error = trial.get_pickled_error()
        told = "" if isinstance(error, RayActorError) else f" {_last_line(error)}"
        self._workforce.said(trial.trial_id, Gone(reason=f"Its process is gone.{told}"))

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on that a lane was not opened in the end."""
        self._workforce.said(trial.trial_id, Gone(reason="It was not opened."))


def _last_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else ""


class AtClosing(_NotCarried, tune.Stopper):
    """Tells Tune when it is over, also for lanes that still wait for room."""

    def __init__(self, workforce: LaneWorkforce) -> None:
        self._workforce = workforce

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """End no single lane."""
        return False

    def stop_all(self) -> bool:
        """Return whether all is over."""
        return self._workforce.closing


class TuneCarrier:
    """Tune at work on a thread of its own, and the desk by which lanes are told."""

    def __init__(self) -> None:
        self.actors: dict[str, ActorHandle] = {}
        # On the machine of the search: on another one all lanes would be lost with that.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.desk: ActorHandle = ray.remote(num_cpus=0, scheduling_strategy=here)(Desk).remote()

    def tell(self, lane: str, message: object) -> None:
        """Leave a message at the desk."""
        self.desk.tell.remote(lane, pickle.dumps(message))

    def kill(self, lane: str) -> None:
        """Kill the process of a lane, which Tune then finds gone."""
        if lane in self.actors:
            ray.kill(self.actors[lane])

    def start(
        self, workforce: LaneWorkforce, demand: Demand, study: Study, threads: int, folder: Path
    ) -> threading.Thread:
        """Have Tune place the lanes that `workforce` wants, until it closes."""
        trainable = tune.with_resources(
            tune.with_parameters(LaneTrainable, study=study, desk=self.desk, threads=threads, demand=demand),
            tune.PlacementGroupFactory([dict(demand.rank)] * demand.ranks),
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=LaneSearcher(workforce, demand),
                scheduler=LaneScheduler(workforce, self.actors),
                num_samples=-1,
            ),
            run_config=tune.RunConfig(
                name="lanes",
                storage_path=str(folder),
                verbose=0,
                stop=AtClosing(workforce),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        thread = threading.Thread(target=_tune, args=(tuner, workforce), name="ray-tune", daemon=True)
        thread.start()
        return thread


def _tune(tuner: tune.Tuner, workforce: LaneWorkforce) -> None:
    try:
        tuner.fit()
    except Exception as error:  # noqa: BLE001 - a thread that ends would be waited for.
        workforce.said("", Broken(reason=f"Ray Tune has ended: {type(error).__name__}: {error}"))


@contextmanager
def open_ray_tune(
    config: StudyConfig, splits: Splits, files: Path, *, opener: Opener = open_worker
) -> Iterator[LaneWorkforce]:
    """Join or start the cluster, open the first lane, and in the end close all.

    Args:
        config: the study; where its store is and who is notified is told to no process.
        splits: its data.
        files: the study's folder of weights and checkpoints, which all machines must share.
        opener: opens the worker of a lane; to be found by name in a module.

    Raises:
        ConfigurationError: no such cluster, or one without room for a trial; or a folder that is not shared.
        HpoError: what `opener` raises.
    """
    compute = config.compute
    with ExitStack() as closing:
        # Last, because Tune may write there as long as there is a Ray.
        temporary = tempfile.TemporaryDirectory(prefix="hpo-tune-", ignore_cleanup_errors=True)
        folder = Path(closing.enter_context(temporary))
        closing.enter_context(joined_cluster(compute.ray_address, config.store.url))
        machines = machines_of_cluster()
        demand = demand_of(compute, machines)
        refuse_unplaceable(demand, machines)
        files.mkdir(parents=True, exist_ok=True)
        (files / SEEN).touch()
        closing.callback((files / SEEN).unlink, missing_ok=True)
        closing.callback(rmtree, files / FOLDER, ignore_errors=True)
        study = Study.of(config, splits, files.absolute(), opener)
        carrier = TuneCarrier()
        workforce = LaneWorkforce(
            carrier, room=demand.fits(machines), most=compute.workers, hang=60 * compute.hang_minutes
        )
        threads = compute.threads or int(demand.rank["CPU"])
        thread = carrier.start(workforce, demand, study, threads, folder)
        closing.callback(_end, workforce, thread)
        workforce.open_lead()
        yield workforce


def _end(workforce: LaneWorkforce, thread: threading.Thread) -> None:
    workforce.close()
    thread.join(SECONDS_TO_END)
