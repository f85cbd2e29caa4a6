"""Carrier of worker processes on this machine: warm ones, one for each GPU, or as many as asked for.

A worker of several ranks has a process for each of them, and is replaced as a whole.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from shutil import rmtree
from typing import Literal

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError
from hpo.files.shared import FOLDER
from hpo.runners.processes.protocol import Opener, StudySetup, writing_to
from hpo.runners.processes.worker_handle import Child, end
from hpo.runners.processes.worker_specs import WorkerSpec, worker_specs_of, workers_of
from hpo.runners.remote_workforce import DesiredWorkers, RemoteWorkforce
from hpo.runners.workforce import WorkerLost
from hpo.training.device import choose_device
from hpo.training.worker import open_worker

LOGS = "workers"
"""Folder, below the study's files, of the output of worker processes."""


def runner_of(compute: ComputeConfig) -> Literal["inline", "processes", "ray_tune"]:
    """Return the runner of a study; where it is left open, processes on a GPU or for several workers.

    Raises:
        ConfigurationError: a GPU is asked for and torch sees none, or this process would have to be several ranks.
    """
    ranks = compute.ranks_of_trial
    if compute.runner == "inline" and ranks > 1:
        raise ConfigurationError(
            f"compute.runner is inline, which trains in one process, but a trial is to be trained by {ranks}; choose "
            "processes or ray_tune."
        )
    if compute.runner != "auto":
        return compute.runner
    # An error of CUDA's, or a hang, is one of its process: the search is to outlive it.
    several = compute.workers is not None or ranks > 1 or workers_of(compute) > 1
    return "processes" if several or choose_device(compute).type == "cuda" else "inline"


@contextmanager
def open_processes(
    config: StudyConfig,
    splits: Splits,
    files: Path,
    is_ending: Callable[[], bool] = lambda: False,
    *,
    opener: Opener = open_worker,
) -> Iterator[RemoteWorkforce]:
    """Open the first worker process, and in the end close all that were started.

    Args:
        config: the study; no process is told where its store is and who is notified.
        splits: its data.
        files: the study's folder of weights, checkpoints, shared files and the output of workers.
        is_ending: whether the first worker is not to be waited for any longer.
        opener: opens the worker of a process; to be found by name in a module.

    Raises:
        HpoError: what `opener` raises of it.
        TrainingError: the process dies before its worker is open, again and again.
        StoreError: nothing can be written to `files`.
    """
    worker_specs, logs = worker_specs_of(config.compute, os.environ), files / LOGS
    with ExitStack() as closing:
        with writing_to(files):
            logs.mkdir(parents=True, exist_ok=True)
            study = closing.enter_context(StudySetup.of(config, splits, files, opener).written(files))
        carrier = ProcessCarrier(worker_specs, study, logs, store=config.store.url)
        workforce = RemoteWorkforce(carrier, most=None, hang=60 * config.compute.hang_minutes)
        # What workers share is made anew by the next run, and may be as large as the model.
        closing.callback(rmtree, files / FOLDER, ignore_errors=True)
        closing.callback(workforce.close)
        workforce.open_lead(is_ending)
        yield workforce


class ProcessCarrier:
    """Starts the processes of workers on this machine; a worker's id is its name."""

    def __init__(self, worker_specs: Sequence[WorkerSpec], study: int, logs: Path, *, store: str) -> None:
        """Start none yet.

        Args:
            worker_specs: of all workers, the first one first.
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
        """As many as there are specs."""
        return len(self._worker_specs)

    def listen(self, seconds: float) -> Sequence[tuple[str, object]]:
        """Return messages of processes, and which have ended; start those that are wanted."""
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
        """End a worker and start no other in its place."""
        self._worker_specs.pop(worker, None)
        if (child := self._children.pop(worker, None)) is not None:
            end([child])
            self._messages.append((worker, WorkerLost(reason="It was left out.")))

    def close(self) -> None:
        """End all processes."""
        end(list(self._children.values()))
        self._children.clear()

    def _start_wanted(self) -> None:
        """Start what is wanted; a worker that cannot be started counts as one that has ended at once."""
        if time.monotonic() < self.wanted.not_before:
            return
        for worker, spec in self._worker_specs.items():
            if len(self._children) >= self.wanted.workers:
                return
            if worker not in self._children:
                self._messages.append((worker, spec.arrived))
                try:
                    child = Child(spec, self._study, self._logs, self.wanted.precision, self._store)
                except OSError as error:
                    self._messages.append(
                        (worker, WorkerLost(reason=f"Its process cannot be started: {error.strerror}."))
                    )
                else:
                    self._children[worker] = child
