"""Launcher of worker processes on this machine: one for each GPU, or as many as requested, for many trials each.

A worker has a process for each of its ranks, mostly one, and is replaced as a whole. Rank 0 sends and receives
messages; the other ranks are only started, and end with it.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from shutil import rmtree
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.distributed.rank_group import INTERFACES, RankInfo, free_address
from hpo.files.shared import FOLDER
from hpo.openmp import spin_briefly
from hpo.runners.processes.protocol import RANK_GROUP_LOST, End, Opener, Ready, Start, StudySetup, writing_to
from hpo.runners.processes.worker_specs import WorkerSpec, worker_specs_of
from hpo.runners.remote_worker_pool import DesiredWorkers, RemoteWorkerPool
from hpo.runners.worker_pool import WorkerLost
from hpo.store.secrets import secret_names
from hpo.training.worker import open_worker

LOGS = "workers"
"""Folder, below the study's files, of the output of worker processes."""
# The module path is set before anything is imported, and the user's script is not run again, so it needs no main guard.
BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[5:]; "
    "from hpo.runners.processes.protocol import belong_to; belong_to(int(sys.argv[4])); "
    "from hpo.runners.processes.worker_process import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
SECONDS_TO_END = 5.0
"""Seconds that processes have to end when asked to, before they are killed."""


@contextmanager
def open_processes(
    config: StudyConfig,
    splits: Splits,
    files: Path,
    is_ending: Callable[[], bool] = lambda: False,
    *,
    opener: Opener = open_worker,
) -> Iterator[RemoteWorkerPool]:
    """Open the first worker process, and close all that were started at the end.

    Args:
        config: the study; no process receives the store's address and the recipients of notifications.
        splits: its data.
        files: the study's folder of weights, checkpoints, shared files and the output of workers.
        is_ending: returns true once the first worker is not to be waited for any longer.
        opener: opens the worker of a process; must be importable by name.

    Raises:
        HpoError: as raised by `opener`.
        TrainingError: the process dies repeatedly before its worker is open.
        StoreError: nothing can be written to `files`.
    """
    worker_specs, logs = worker_specs_of(config.compute, os.environ), files / LOGS
    with ExitStack() as closing:
        with writing_to(files):
            logs.mkdir(parents=True, exist_ok=True)
            study = closing.enter_context(StudySetup.of(config, splits, files, opener).written(files))
        launcher = ProcessLauncher(worker_specs, study, logs, store=config.store.url)
        pool = RemoteWorkerPool(launcher, most=None, hang=60 * config.compute.hang_minutes)
        # Shared files are made anew by the next run, and may be as large as the model.
        closing.callback(rmtree, files / FOLDER, ignore_errors=True)
        closing.callback(pool.close)
        pool.open_lead(is_ending)
        yield pool


class ProcessLauncher:
    """Launcher of the processes of workers on this machine; a worker's id is its name."""

    is_shared = False

    def __init__(self, worker_specs: Sequence[WorkerSpec], study: int, logs: Path, *, store: str) -> None:
        """Prepare the launcher; no process is started yet.

        Args:
            worker_specs: specs of all workers, the lead's first.
            study: handle of the file that `StudySetup.written` wrote.
            logs: folder of the processes' output.
            store: URL of the store, whose password no process may find in its environment.
        """
        self.wanted = DesiredWorkers(workers=0)
        self._worker_specs = {spec.worker: spec for spec in worker_specs}
        self._study, self._logs, self._store = study, logs, store
        self._children: dict[str, Child] = {}
        self._messages: list[tuple[str, object]] = []

    @property
    def room(self) -> int:
        """Number of workers for which there is a spec."""
        return len(self._worker_specs)

    def listen(self, seconds: float) -> Sequence[tuple[str, object]]:
        """Return messages of workers, including their losses; start the missing workers."""
        self._start_wanted()
        if not self._messages:
            wait([connection for child in self._children.values() for connection in child.connections], seconds)
        for worker, child in list(self._children.items()):
            self._messages += [(worker, message) for message in child.messages()]
            if child.over:
                del self._children[worker]
                self._messages.append((worker, WorkerLost(reason=child.reap())))
        self._start_wanted()
        messages, self._messages = self._messages, []
        return messages

    def tell(self, worker: str, message: object) -> None:
        """Send a message to a worker's rank 0."""
        if worker in self._children:
            self._children[worker].send(message)

    def kill(self, worker: str) -> None:
        """Kill a worker's processes."""
        if worker in self._children:
            self._children[worker].kill()

    def leave_out(self, worker: str) -> None:
        """End a worker without a replacement."""
        self._worker_specs.pop(worker, None)
        if (child := self._children.pop(worker, None)) is not None:
            end([child])
            self._messages.append((worker, WorkerLost(reason="It was left out.")))

    def close(self) -> None:
        """End all processes."""
        end(list(self._children.values()))
        self._children.clear()

    def _start_wanted(self) -> None:
        """Start missing workers; one that cannot be started is reported as lost."""
        if time.monotonic() < self.wanted.not_before:
            return
        for worker, spec in self._worker_specs.items():
            if len(self._children) >= self.wanted.workers:
                return
            if worker not in self._children:
                self._messages.append((worker, spec.arrived))
                try:
                    child = Child(spec, self._study, self._logs, self.wanted, self._store)
                except OSError as error:
                    self._messages.append(
                        (worker, WorkerLost(reason=f"Its process cannot be started: {error.strerror}."))
                    )
                else:
                    self._children[worker] = child


class RankProcess:
    """The process of one rank, which ends with its parent."""

    def __init__(self, name: str, start: Start, study: int, log: Path, environment: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            name: name of the process in messages.
            start: its first message.
            study: handle of the file that `StudySetup.written` wrote.
            log: file to which its output is appended.
            environment: its environment variables.

        Raises:
            OSError: the system has no memory, process or file left.
        """
        self._name, self._log = name, log
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        with theirs, log.open("ab") as stream:
            handles = (theirs.fileno(), study)
            self.process = Popen(
                [sys.executable, "-c", BOOTSTRAP, start.worker, *map(str, (*handles, os.getpid())), *sys.path],
                stdin=DEVNULL, stdout=stream, stderr=stream, pass_fds=handles, env=dict(environment),
            )  # fmt: skip
        self.send(start)

    @property
    def ended(self) -> bool:
        """True if the process has ended."""
        return self.process.poll() is not None

    @property
    def crashed(self) -> bool:
        """True if it ended by itself, not on request or because of another rank."""
        return self.process.poll() not in (None, 0, RANK_GROUP_LOST)

    def send(self, message: object) -> None:
        """Send a message; ignored if the process has ended, which `ended` reports."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def wait(self, seconds: float) -> None:
        """Wait for its end, at most that many seconds."""
        with suppress(TimeoutExpired):
            self.process.wait(seconds)

    @property
    def exit_reason(self) -> str:
        """Sentence on how it ended."""
        code = self.process.poll()
        if code is None:
            return f"Its {self._name} did not end."
        if code < 0:
            memory = ", as the kernel does where memory is short" if code == -signal.SIGKILL else ""
            how = f"was killed by signal {-code}{memory}"
        else:
            how = f"ended with exit status {code}"
        return f"Its {self._name} {how}; its last words are in {self._log}."


class Child:
    """A worker in separate processes, which end with their parent; unread messages never block its training."""

    def __init__(self, spec: WorkerSpec, study: int, logs: Path, wanted: DesiredWorkers, store: str) -> None:
        """Start the worker, which sends `Ready` once its model is loaded on all ranks.

        Args:
            spec: its name, devices and threads.
            study: handle of the file that `StudySetup.written` wrote.
            logs: folder of the files to which the output of its processes is appended.
            wanted: its settings.
            store: URL of the store, whose password no process may find in its environment.

        Raises:
            OSError: the system has no memory, process or file left.
        """
        self.over = False
        """True if the worker has ended and all its messages were read."""
        self._ready = self._killed = False
        self.processes: list[RankProcess] = []
        """Processes by rank."""
        address = free_address() if spec.ranks > 1 else ""
        try:
            for rank in range(spec.ranks):
                start = _start(spec, rank, wanted, address)
                environment = environment_of(spec, rank, os.environ, store)
                name = f"process of rank {rank}" if spec.ranks > 1 else "process"
                log = logs / (f"{spec.worker}-rank-{rank}.log" if rank else f"{spec.worker}.log")
                self.processes.append(RankProcess(name, start, study, log, environment))
        except OSError:
            if self.processes:
                self.kill()
                self.reap()
            raise

    @property
    def connections(self) -> list["Connection[Any, Any]"]:
        """Connections by rank; a rank above 0 only sends a message if it cannot open the worker."""
        return [one.connection for one in self.processes]

    def send(self, message: object) -> None:
        """Send a message to rank 0."""
        self.processes[0].send(message)

    def messages(self) -> list[object]:
        """Return the messages received so far."""
        messages: list[object] = []
        # Checked first, so that everything sent before the end is in the connection.
        self.over = self._killed or any(one.ended for one in self.processes)
        for connection in self.connections:
            try:
                while connection.poll():
                    messages.append(connection.recv())
            except (EOFError, OSError):
                self.over = True
        self._ready = self._ready or any(isinstance(message, Ready) for message in messages)
        return messages

    def kill(self) -> None:
        """Kill all its processes."""
        self._killed = True
        for one in self.processes:
            one.process.kill()

    def ask_to_end(self) -> None:
        """Ask the worker to end; kill it if it is still loading its model and would not read the request."""
        if self._ready:
            self.send(End())
        else:
            self.kill()

    def reap(self, patience: float = SECONDS_TO_END) -> str:
        """Wait for the end of its processes, kill them after `patience` seconds, and return the exit reason."""
        crashed = self._crashed()
        until = time.monotonic() + patience
        for one in self.processes:
            # If one has crashed, the others do not end by themselves.
            one.wait(0.0 if crashed else max(0.0, until - time.monotonic()))
        exit_reason = (crashed or self._crashed() or self.processes[0]).exit_reason
        for one in self.processes:
            if not one.ended:
                one.process.kill()
                # A process that is stuck in a driver dies once the driver returns, which is not waited for.
                one.wait(SECONDS_TO_END)
            one.connection.close()
        return exit_reason

    def _crashed(self) -> RankProcess | None:
        return next((one for one in self.processes if one.crashed), None)


def end(children: Sequence[Child]) -> None:
    """Ask workers to end, kill those that have not after `SECONDS_TO_END`, and wait until all have ended."""
    for child in children:
        child.ask_to_end()
    until = time.monotonic() + SECONDS_TO_END
    for child in children:
        child.reap(max(0.0, until - time.monotonic()))


def environment_of(spec: WorkerSpec, rank: int, inherited: Mapping[str, str], store: str) -> dict[str, str]:
    """Return the environment that a rank's process has before it imports torch; without the store's password."""
    secret = secret_names(inherited, store)
    kept = {name: value for name, value in inherited.items() if name not in secret}
    own = {"CUDA_VISIBLE_DEVICES": spec.visible[rank], "OMP_NUM_THREADS": str(spec.threads)}
    # A process that was forked off a tokenizer's threads would warn at length.
    own["TOKENIZERS_PARALLELISM"] = "false"
    # Trials allocate blocks of different sizes, which would fragment memory. A value that the user has set is kept: of
    # the two names, torch reads the older one alone if both are set.
    if "PYTORCH_ALLOC_CONF" not in kept:
        kept.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    spin_briefly(kept)
    # The ranks are all on this machine, whatever its name resolves to.
    return kept | own | (dict.fromkeys(INTERFACES, "lo") if spec.ranks > 1 else {})


def _start(spec: WorkerSpec, rank: int, wanted: DesiredWorkers, address: str) -> Start:
    """Return the first message of a process; `address` is that of rank 0."""
    return Start(
        worker=spec.worker,
        device="cuda:0" if spec.visible[rank] else "cpu",
        threads=spec.threads,
        settings=wanted.settings,
        rank_info=RankInfo(rank=rank, ranks=spec.ranks, address=address) if spec.ranks > 1 else None,
        gpu_share=spec.gpu_share,
    )
