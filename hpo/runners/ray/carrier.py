"""Tune at work for a search: it is proposed lanes, places them, and what they say is passed on."""

import pickle
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.errors import StoreError
from hpo.files.shared import FOLDER
from hpo.runners.processes.protocol import Arrived, End, Opener, StudySetup
from hpo.runners.ray.cluster import is_alive, joined_cluster, machines_of_cluster
from hpo.runners.ray.cluster_worker import MOST_AT_DESK, SEEN, Mailbox, WorkerTrainable, emptied
from hpo.runners.ray.resources import Demand, demand_of, refuse_unplaceable
from hpo.runners.ray.scratch import new_name, remove_on_all_machines
from hpo.runners.remote_workforce import Broken, DesiredWorkers, Gone, RemoteWorkforce
from hpo.runners.workforce import IsOver, never
from hpo.training.worker import open_worker

SECONDS_BETWEEN_LOOKS = 2.0
"""At the machines of a cluster."""
SECONDS_TO_END = 3.0
"""For which Tune is waited for at the end; leaving the cluster ends what is left of it."""


class _NotCarried:
    """What Ray pickles of it is nothing: it holds what belongs to this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class WorkerSearcher(_NotCarried, Searcher):
    """Proposes to Tune one lane after another, while there is room and use for one more."""

    def __init__(self, carrier: "TuneCarrier") -> None:
        super().__init__(metric=None, mode="max")
        self._carrier = carrier

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a lane to be placed, None for none now, `FINISHED` at the end."""
        if self._carrier.closing:
            return str(Searcher.FINISHED)
        if not self._carrier.wants_lane():
            return None
        self._carrier.open_lanes.add(trial_id)
        return {"lane": trial_id, "precision": self._carrier.wanted.precision}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler tells of it. Without this method Tune would end with the first lane that does."""


class WorkerScheduler(_NotCarried, FIFOScheduler):
    """Passes on to the dispatch what lanes say; none of them is given up for what it says."""

    def __init__(self, carrier: "TuneCarrier") -> None:
        super().__init__()
        self._carrier = carrier

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pass on what a lane has said."""
        if (actor := result.get("actor")) is not None:
            self._carrier.actors[trial.trial_id] = actor
        self._carrier.pass_on(trial.trial_id, *pickle.loads(result["said"]))
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on the last words, which Tune does not show to `on_trial_result`, and that the lane is no more."""
        last = pickle.loads(result.get("said", pickle.dumps([])))
        self._carrier.pass_on(trial.trial_id, *last, Gone(reason="Its process has ended."))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on that a lane is no more, and what it died of."""
        error = trial.get_pickled_error()
        if error is None or isinstance(error, RayActorError):
            self._carrier.tell_loss(trial.trial_id, is_preempted=error is not None and error.preempted)
        else:
            self._carrier.pass_on(trial.trial_id, Gone(reason=f"Its process is gone. {_last_line(error)}"))

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on that a lane was not opened in the end."""
        self._carrier.pass_on(trial.trial_id, Gone(reason="It was not opened."))


def _last_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else ""


class AtClosing(_NotCarried, tune.Stopper):
    """Tells Tune when it is over, also for lanes that still wait for room."""

    def __init__(self, carrier: "TuneCarrier") -> None:
        self._carrier = carrier

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """End no single lane."""
        return False

    def stop_all(self) -> bool:
        """Return whether all is over."""
        return self._carrier.closing


class TuneCarrier:
    """Tune at work on a thread of its own, and the desk by which lanes are told; a worker's id is its lane's."""

    def __init__(self, demand: Demand, asked: int) -> None:
        """Start the desk, for so many lanes as were `asked` for; 0 for as many as there is room for."""
        self.wanted = DesiredWorkers(workers=0)
        self.closing = False
        """Whether no lane is opened any more, and those there are end."""
        self.actors: dict[str, ActorHandle] = {}
        self.open_lanes: set[str] = set()
        """Lanes that were proposed and are not gone, those that wait for room among them; of Tune's thread."""
        self._demand, self._asked = demand, asked
        self._looked_at = time.monotonic()
        self._room = demand.fits(machines_of_cluster())
        self._heard: SimpleQueue[tuple[str, object]] = SimpleQueue()
        self._told: Counter[str] = Counter()
        """Lane -> messages that were left for it."""
        self._machines: dict[str, str] = {}
        """Lane -> number of its machine."""
        # On the machine of the search: on another one all lanes would be lost with that.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        at_desk = ray.remote(num_cpus=0, max_concurrency=MOST_AT_DESK, scheduling_strategy=here)(Mailbox)
        self.mailbox: ActorHandle = at_desk.remote()

    @property
    def room(self) -> int:
        """For how many lanes there is room, or will be in a cluster that begins with none; this is asked many times a
        second, and the cluster seldom."""
        if time.monotonic() - self._looked_at > SECONDS_BETWEEN_LOOKS:
            self._looked_at = time.monotonic()
            self._room = self._demand.fits(machines_of_cluster())
        return self._room or self._asked

    def wants_lane(self) -> bool:
        """Return whether one more lane is to be proposed.

        One more than there is room for is, and waits: so a machine that joins at midnight is used. Those that were
        asked for are all proposed, so that a cluster which grows as it is asked does so at once.
        """
        wanted, most = self.wanted, max(self.room + 1, self._asked)
        return len(self.open_lanes) < min(wanted.workers, most) and time.monotonic() >= wanted.not_before

    def pass_on(self, lane: str, *messages: object) -> None:
        """Take in what a lane has said, or what has become of it."""
        for message in messages:
            if isinstance(message, Gone):
                self.open_lanes.discard(lane)
            if isinstance(message, Arrived):
                self._machines[lane] = message.place.partition("/")[0]
            self._heard.put((lane, message))

    def tell_loss(self, lane: str, *, is_preempted: bool) -> None:
        """Tell that a lane's process is gone, and whether its machine is; that may take seconds to know."""

        def tell() -> None:
            machine = self._machines.get(lane)
            is_gone = is_preempted or (machine is not None and not is_alive(machine))
            how = "machine was preempted" if is_preempted else "machine is gone" if is_gone else "process is gone"
            self.pass_on(lane, Gone(reason=f"Its {how}.", machine=is_gone))

        threading.Thread(target=tell, name="tells-loss", daemon=True).start()

    def listen(self, seconds: float) -> Sequence[tuple[str, object]]:
        """Return what lanes have said, as soon as there is something."""
        return emptied(self._heard, seconds)

    def tell(self, worker: str, message: object) -> None:
        """Leave a message at the desk."""
        self.mailbox.tell.remote(worker, self._told[worker], pickle.dumps(message))
        self._told[worker] += 1

    def kill(self, worker: str) -> None:
        """Kill the process of a lane, which Tune then finds gone."""
        if worker in self.actors:
            ray.kill(self.actors[worker])

    def leave_out(self, _worker: str) -> None:
        """Leave a lane where it is: Ray would put another one there."""

    def close(self) -> None:
        """Open no more lanes, and ask all to end."""
        self.closing = True
        for lane in list(self.open_lanes):
            self.tell(lane, End())

    def start(self, study: StudySetup, threads: int, folder: Path, scratch_name: str) -> threading.Thread:
        """Have Tune place the lanes that are wanted, until this closes."""
        trainable = tune.with_resources(
            tune.with_parameters(
                WorkerTrainable,
                study=study,
                mailbox=self.mailbox,
                threads=threads,
                demand=self._demand,
                folder=Path.cwd(),
                scratch_name=scratch_name,
            ),
            tune.PlacementGroupFactory(
                [dict(self._demand.rank)] * self._demand.ranks, strategy="PACK" if self._demand.apart else "STRICT_PACK"
            ),
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=WorkerSearcher(self), scheduler=WorkerScheduler(self), num_samples=-1
            ),
            run_config=tune.RunConfig(
                name="lanes",
                storage_path=str(folder),
                verbose=0,
                stop=AtClosing(self),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        thread = threading.Thread(target=_tune, args=(tuner, self), name="ray-tune", daemon=True)
        thread.start()
        return thread


def _tune(tuner: tune.Tuner, carrier: TuneCarrier) -> None:
    try:
        tuner.fit()
        reason = "It found nothing more to do."
    except BaseException as error:  # noqa: BLE001 - a thread that ends would be waited for.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    # After the closing nobody listens any more.
    carrier.pass_on("", Broken(reason=f"Ray Tune has ended. {reason}"))


@contextmanager
def open_ray_tune(
    config: StudyConfig, splits: Splits, files: Path, is_over: IsOver = never, *, opener: Opener = open_worker
) -> Iterator[RemoteWorkforce]:
    """Join or start the cluster, open the first lane, and in the end close all.

    Args:
        config: the study; where its store is and who is notified is told to no process.
        splits: its data.
        files: the study's folder of weights and checkpoints, which all machines must share.
        is_over: whether the first lane is not to be waited for any longer.
        opener: opens the worker of a lane; to be found by name in a module.

    Raises:
        ConfigurationError: no such cluster, or one without room for a trial; or a folder that is not shared.
        StoreError: nothing can be written to `files`.
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
        refuse_unplaceable(demand, machines, compute.workers)
        if not isinstance(config.store.files, str):
            closing.enter_context(_shown_to_all(files))
        study = StudySetup.of(config, splits, files.absolute(), opener)
        carrier = TuneCarrier(demand, compute.workers or 0)
        workforce = RemoteWorkforce(carrier, most=compute.workers, hang=60 * compute.hang_minutes)
        threads = compute.threads or int(demand.rank["CPU"])
        scratch_name = new_name()
        thread = carrier.start(study, threads, folder, scratch_name)
        if isinstance(config.store.files, str):
            closing.callback(remove_on_all_machines, scratch_name)
        closing.callback(_end, workforce, thread)
        workforce.open_lead(is_over)
        yield workforce


@contextmanager
def _shown_to_all(files: Path) -> Iterator[None]:
    """Leave in the study's folder what workers know it by."""
    try:
        files.mkdir(parents=True, exist_ok=True)
        (files / SEEN).touch()
    except OSError as error:
        raise StoreError(
            f"Nothing can be written to the study's files in {files}: {error.strerror}; name another folder by "
            "store.files."
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            (files / SEEN).unlink()
        rmtree(files / FOLDER, ignore_errors=True)


def _end(workforce: RemoteWorkforce, thread: threading.Thread) -> None:
    workforce.close()
    thread.join(SECONDS_TO_END)
