"""Launcher of cluster workers: proposes workers to Ray Tune, which places them and returns their messages."""

import pickle
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from hpo.errors import TrainingError
from hpo.files.shared import FOLDER
from hpo.runners.processes.protocol import Arrived, End, Opener, StudySetup, writing_to
from hpo.runners.ray.cluster_worker import MAILBOX_CALLS, MARKER, Mailbox, WorkerTrainable, emptied
from hpo.runners.ray.connection import is_alive, joined_cluster, machines_of_cluster
from hpo.runners.ray.scratch import new_name, remove_on_all_machines
from hpo.runners.ray.setup import TrialResources, refuse_unplaceable, resources_of
from hpo.runners.remote_worker_pool import DesiredWorkers, RemoteWorkerPool
from hpo.runners.worker_pool import LossCause, WorkerLost
from hpo.training.worker import open_worker

SECONDS_BETWEEN_LOOKS = 2.0
"""Seconds between look-ups of the machines of a cluster."""
SECONDS_TO_END = 3.0
"""Seconds to wait for Tune at the end; disconnecting from the cluster ends the rest of it."""


class _OfLauncher:
    """Base of Tune's helpers over a launcher, pickled without their attributes, which belong to this process."""

    def __init__(self, launcher: "TuneLauncher") -> None:
        super().__init__()
        self._launcher = launcher

    def __getstate__(self) -> dict[str, Any]:
        return {}


class WorkerSearcher(_OfLauncher, Searcher):
    """Search algorithm of Tune that proposes workers one by one, as long as the launcher wants one more."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next worker to place; None if none is wanted now, `FINISHED` at the end."""
        if self._launcher.closing:
            return str(Searcher.FINISHED)
        if not self._launcher.wants_worker():
            return None
        self._launcher.proposed.add(trial_id)
        return {"worker": trial_id, "settings": self._launcher.wanted.settings}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler handles it. Without this method Tune would end as soon as one worker ends."""


class WorkerScheduler(_OfLauncher, FIFOScheduler):
    """Scheduler of Tune that passes on the messages of workers, and stops no worker."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pass on the messages of a worker."""
        if (actor := result.get("actor")) is not None:
            self._launcher.actors[trial.trial_id] = actor
        self._launcher.pass_on(trial.trial_id, *pickle.loads(result["messages"]))
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on the last messages, which `on_trial_result` does not get, and the end of the worker."""
        last = pickle.loads(result.get("messages", pickle.dumps([])))
        self._launcher.pass_on(trial.trial_id, *last, WorkerLost(reason="Its process has ended."))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on the loss of a worker and its reason."""
        error = trial.get_pickled_error()
        if error is None or isinstance(error, RayActorError):
            self._launcher.report_loss(trial.trial_id, is_preempted=error is not None and error.preempted)
        else:
            # The text of an error that a worker raised is its traceback; the error itself is the cause.
            lines = str(getattr(error, "cause", error)).strip().splitlines() or [""]
            self._launcher.pass_on(trial.trial_id, WorkerLost(reason=f"It crashed: {lines[-1].strip()}"))

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on that a worker was removed before it was opened."""
        self._launcher.pass_on(trial.trial_id, WorkerLost(reason="It was not opened."))


class StopAtClosing(_OfLauncher, tune.Stopper):
    """Stops Tune when the launcher is closed, even if workers still wait for room."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single worker."""
        return False

    def stop_all(self) -> bool:
        """Return true if the launcher is closed."""
        return self._launcher.closing


class TuneLauncher:
    """Ray Tune on its own thread, and the mailbox of messages to workers; a worker's id is that of its Tune trial."""

    is_shared = True

    def __init__(self, resources: TrialResources, asked: int) -> None:
        """Start the mailbox for the number of workers `asked` for; 0 for as many as there is room for."""
        self.wanted = DesiredWorkers(workers=0)
        self.closing = False
        """True if no more workers are started, and the present ones end."""
        self.actors: dict[str, ActorHandle] = {}
        self.proposed: set[str] = set()
        """Proposed workers that have not ended, including those that wait for room; used by Tune's thread."""
        self._resources, self._asked = resources, asked
        self._looked_at = time.monotonic()
        self._room = resources.fits(machines_of_cluster())
        self._messages: SimpleQueue[tuple[str, object]] = SimpleQueue()
        self._sent: Counter[str] = Counter()
        """Worker -> number of messages that were put into its mailbox."""
        self._machines: dict[str, str] = {}
        """Worker -> id of its machine."""
        # On the machine of the search: the loss of another machine would otherwise lose all workers.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_concurrency=MAILBOX_CALLS, scheduling_strategy=here)(Mailbox)
        self.mailbox: ActorHandle = actor.remote()

    @property
    def room(self) -> int:
        """Number of workers for which there is room, or the requested number if there is none yet.

        Cached, because it is read many times a second.
        """
        if time.monotonic() - self._looked_at > SECONDS_BETWEEN_LOOKS:
            self._looked_at = time.monotonic()
            self._room = self._resources.fits(machines_of_cluster())
        return self._room or self._asked

    def wants_worker(self) -> bool:
        """Return true if one more worker is to be proposed.

        One more worker than there is room for is proposed and waits, so that a machine that joins later is used.
        Requested workers are all proposed, so that a cluster with an autoscaler grows at once.
        """
        wanted, most = self.wanted, max(self.room + 1, self._asked)
        return len(self.proposed) < min(wanted.workers, most) and time.monotonic() >= wanted.not_before

    def pass_on(self, worker: str, *messages: object) -> None:
        """Take messages of a worker, including its loss."""
        for message in messages:
            if isinstance(message, WorkerLost):
                self.proposed.discard(worker)
            if isinstance(message, Arrived):
                self._machines[worker] = message.place.partition("/")[0]
            self._messages.put((worker, message))

    def report_loss(self, worker: str, *, is_preempted: bool) -> None:
        """Pass on the loss of a worker's process or machine, in the background: to tell them apart may take seconds."""

        def report() -> None:
            machine = self._machines.get(worker)
            is_gone = is_preempted or (machine is not None and not is_alive(machine))
            how = "machine was preempted" if is_preempted else "machine is gone" if is_gone else "process is gone"
            cause = LossCause.MACHINE if is_gone else LossCause.PROCESS
            self.pass_on(worker, WorkerLost(reason=f"Its {how}.", cause=cause))

        threading.Thread(target=report, name="reports-loss", daemon=True).start()

    def listen(self, seconds: float) -> Sequence[tuple[str, object]]:
        """Return the messages of workers as soon as there is one.

        Raises:
            TrainingError: Tune has ended.
        """
        messages = emptied(self._messages, seconds)
        for _, message in messages:
            if isinstance(message, TrainingError):
                raise message
        return messages

    def tell(self, worker: str, message: object) -> None:
        """Put a message into the mailbox."""
        self.mailbox.put.remote(worker, self._sent[worker], pickle.dumps(message))
        self._sent[worker] += 1

    def kill(self, worker: str) -> None:
        """Kill the process of a worker, whose loss Tune then reports."""
        if worker in self.actors:
            ray.kill(self.actors[worker])

    def leave_out(self, _worker: str) -> None:
        """Leave a worker in place, because Ray would put another one there."""

    def close(self) -> None:
        """Start no more workers, and ask all to end."""
        self.closing = True
        for worker in list(self.proposed):
            self.tell(worker, End())

    def start(self, study: StudySetup, threads: int, folder: Path, scratch_name: str) -> threading.Thread:
        """Have Tune place the wanted workers until the launcher closes; return Tune's thread."""
        resources = self._resources
        trainable = tune.with_resources(
            tune.with_parameters(
                WorkerTrainable, study=study, mailbox=self.mailbox, threads=threads, resources=resources,
                folder=Path.cwd(), scratch_name=scratch_name,
            ),
            tune.PlacementGroupFactory(
                [dict(resources.rank)] * resources.ranks, strategy="PACK" if resources.apart else "STRICT_PACK"
            ),
        )  # fmt: skip
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=WorkerSearcher(self), scheduler=WorkerScheduler(self), num_samples=-1
            ),
            run_config=tune.RunConfig(
                name="workers",
                storage_path=str(folder),
                verbose=0,
                stop=StopAtClosing(self),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        thread = threading.Thread(target=_tune, args=(tuner, self), name="ray-tune", daemon=True)
        thread.start()
        return thread


def _tune(tuner: tune.Tuner, launcher: TuneLauncher) -> None:
    try:
        tuner.fit()
        reason = "It has no more workers to start."
    except BaseException as error:  # noqa: BLE001 - the search would wait for a thread that has ended.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    # Not received after the launcher is closed.
    launcher.pass_on("", TrainingError(f"Ray Tune has ended. {reason}"))


@contextmanager
def open_ray_tune(
    config: StudyConfig,
    splits: Splits,
    files: Path,
    is_ending: Callable[[], bool] = lambda: False,
    *,
    opener: Opener = open_worker,
) -> Iterator[RemoteWorkerPool]:
    """Join or start the cluster, open the first worker, and close everything at the end.

    Args:
        config: the study; no worker receives the store's address or the recipients of notifications.
        splits: its data.
        files: the study's folder of weights and checkpoints, which all machines must share.
        is_ending: returns true once the first worker is not to be waited for any longer.
        opener: opens the worker of a process; must be importable by name.

    Raises:
        ConfigurationError: no such cluster, or one without room for a trial; or a folder that is not shared.
        StoreError: nothing can be written to `files`.
        HpoError: as raised by `opener`.
    """
    compute = config.compute
    with ExitStack() as closing:
        # Entered first, so removed last: Tune may write there while Ray runs.
        temporary = tempfile.TemporaryDirectory(prefix="hpo-tune-", ignore_cleanup_errors=True)
        folder = Path(closing.enter_context(temporary))
        closing.enter_context(joined_cluster(compute.ray_address, config.store.url))
        machines = machines_of_cluster()
        resources = resources_of(compute, machines)
        refuse_unplaceable(resources, machines, compute.requested_workers)
        scratch_name = new_name()
        if not isinstance(config.store.files, str):
            closing.enter_context(_marked(files, scratch_name))
        study = StudySetup.of(config, splits, files.absolute(), opener)
        launcher = TuneLauncher(resources, compute.requested_workers or 0)
        pool = RemoteWorkerPool(launcher, most=compute.requested_workers, hang=60 * compute.hang_minutes)
        thread = launcher.start(study, compute.threads or int(resources.rank["CPU"]), folder, scratch_name)
        if isinstance(config.store.files, str):
            closing.callback(remove_on_all_machines, scratch_name)
        closing.callback(thread.join, SECONDS_TO_END)
        closing.callback(pool.close)
        pool.open_lead(is_ending)
        yield pool


@contextmanager
def _marked(files: Path, name: str) -> Iterator[None]:
    """Write the name of this search to a marker in the study's folder, by which workers recognise the folder."""
    with writing_to(files):
        files.mkdir(parents=True, exist_ok=True)
        (files / MARKER).write_text(name)
    try:
        yield
    finally:
        with suppress(OSError):
            (files / MARKER).unlink()
        rmtree(files / FOLDER, ignore_errors=True)
