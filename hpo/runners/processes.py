"""A workforce of warm worker processes, one on each GPU, or as many as asked for; dead ones are replaced.

A worker that is a gang has a process for each of its ranks, and is replaced as a whole.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError, HpoError, StoreError, TrainingError
from hpo.messages import Assignment, Capacity, Decision
from hpo.runners.worker_process.child import Child, end
from hpo.runners.worker_process.conversation import Answer, Call, Opener, Study
from hpo.runners.worker_process.posts import Post, posts_of, workers_of
from hpo.runners.worker_process.remote_worker import RemoteWorker
from hpo.runners.workforce import Lost, Said, Unfit
from hpo.training.precision import Precision
from hpo.training.shared import FOLDER
from hpo.training.worker import choose_device, open_worker

LOGS = "workers"
"""Folder, below the study's files, of what worker processes print."""
MOST_STARTS = 3
"""Starts in a row that end before the worker is open, after which it is not started again."""
HEARS_EVERY_SECONDS = 1.0
"""How long one process is listened to at a time, at most, while it alone is waited for."""


def runner_of(compute: ComputeConfig) -> Literal["inline", "processes", "ray_tune"]:
    """Return who carries trials to devices; where that is left open, processes on a GPU or for several workers.

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
    config: StudyConfig, splits: Splits, files: Path, *, opener: Opener = open_worker
) -> Iterator["ProcessWorkforce"]:
    """Open the first worker process, and in the end close all that were started.

    Args:
        config: the study; where its store is and who is notified is told to no process.
        splits: its data.
        files: the study's folder, in which the workers keep weights and checkpoints, share what they read, and print.
        opener: opens the worker of a process; to be found by name in a module.

    Raises:
        HpoError: what `opener` raises of it.
        TrainingError: the process dies before its worker is open, `MOST_STARTS` times.
        StoreError: nothing can be written to `files`.
    """
    posts, logs = posts_of(config.compute, os.environ), files / LOGS
    with ExitStack() as closing:
        try:
            logs.mkdir(parents=True, exist_ok=True)
            study = closing.enter_context(Study.of(config, splits, files, opener).written(files))
        except OSError as error:
            raise StoreError(
                f"Nothing can be written to the study's files in {files}: {error.strerror}; name another folder by "
                "store.files."
            ) from None
        workforce = ProcessWorkforce(posts, study, logs, store=config.store.url, hang=60 * config.compute.hang_minutes)
        # What workers share is made anew by the next run, and may be as large as the model.
        closing.callback(rmtree, files / FOLDER, ignore_errors=True)
        closing.callback(workforce.close)
        workforce.open_lead()
        yield workforce


class ProcessWorkforce:
    """Worker processes by name."""

    ahead = 1

    def __init__(self, posts: Sequence[Post], study: int, logs: Path, *, store: str, hang: float) -> None:
        """Start none yet.

        Args:
            posts: what processes are started for; the first is the lead.
            study: handle of the file that `Study.written` wrote.
            logs: folder of what the processes print.
            store: URL of the store, whose password no process may find in its environment.
            hang: seconds after which a process that has not opened its worker is killed.
        """
        self._posts = {post.worker: post for post in posts}
        self._study, self._logs, self._store, self._hang = study, logs, store, hang
        self._children: dict[str, Child] = {}
        self._starts: Counter[str] = Counter()
        """Worker -> starts in a row after which it was not open."""
        self._unfit: dict[str, HpoError] = {}
        self._precision: Precision | None = None
        self._said: list[tuple[str, Said]] = []
        self._numbers = itertools.count()
        self._lead = RemoteWorker(self._ask)

    @property
    def workers(self) -> Collection[str]:
        """Names of all, the lead first: also of those that are not started yet; not of those that will not be again."""
        return tuple(self._posts)

    @property
    def size(self) -> int:
        """As many as there are posts."""
        return len(self._posts)

    @property
    def lead(self) -> RemoteWorker:
        """The first of the workers that are left. A call to it raises `TrainingError` where it dies of it."""
        return self._lead

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """What may be given assignments now."""
        return {name: child.post.capacity for name, child in self._children.items() if child.free}

    def open_lead(self) -> None:
        """Start the first worker and wait until it is open, however long that takes: it may be fetching the model.

        Raises:
            HpoError: it cannot be opened.
        """
        lead = next(iter(self._posts))
        self._start(lead)
        while lead not in self.capacities:
            if lead in self._unfit:
                raise self._unfit[lead]
            child = self._children[lead]
            wait(child.connections)
            self._hear(child)

    def begin(self, precision: Precision) -> None:
        """Start the other workers; all that are open now or later compute in `precision`."""
        self._precision = precision
        for worker in list(self._posts):
            if worker not in self._children:
                self._start(worker)
        self.lead.use(precision)

    def give(self, worker: str, assignment: Assignment) -> None:
        """Hand over an assignment, to be trained after those that the worker holds."""
        self._children[worker].give(assignment)

    def apply(self, worker: str, decision: Decision) -> None:
        """Hand over a decision; a worker that does not hold its trial, or not any more, does nothing about it."""
        if worker in self._children:
            self._children[worker].send(decision)

    def listen(self, seconds: float) -> Sequence[tuple[str, Said]]:
        """Return what workers have said; at most after so many seconds, and as soon as one is open."""
        if not self._said:
            wait([connection for child in self._children.values() for connection in child.connections], seconds)
        for child in list(self._children.values()):
            self._hear(child)
            self._kill_if_overdue(child)
        said, self._said = self._said, []
        return said

    def kill(self, worker: str, reason: str) -> None:
        """Kill a worker, which then says that it is `Lost`, and replace it."""
        if worker in self._children:
            self._children[worker].kill(reason)

    def discard(self, worker: str) -> None:
        """Do without a worker from now on; what it held is not told again."""
        self._posts.pop(worker, None)
        self._said = [(name, said) for name, said in self._said if name != worker]
        if worker in self._children:
            end([self._children.pop(worker)])

    def close(self) -> None:
        """End all processes."""
        end(list(self._children.values()))
        self._children.clear()

    def _start(self, worker: str) -> None:
        """Start a worker's processes; where that cannot be, it is as one that has ended at once."""
        post = self._posts[worker]
        try:
            self._children[worker] = Child(post, self._study, self._logs, self._precision, self._store)
        except OSError as error:
            self._start_again(worker, f"The process of worker {worker} cannot be started: {error.strerror}.")

    def _start_again(self, worker: str, reason: str) -> None:
        """Start anew a worker whose process has ended before it was open, unless it did so too often."""
        self._starts[worker] += 1
        if self._starts[worker] < MOST_STARTS:
            self._start(worker)
        else:
            self._leave_out(worker, TrainingError(f"{reason} It was started {MOST_STARTS} times."))

    def _leave_out(self, worker: str, error: HpoError) -> None:
        del self._posts[worker]
        self._unfit[worker] = error
        self._said.append((worker, Unfit(reason=str(error))))

    def _hear(self, child: Child) -> None:
        """Take in what a process has said, and replace it where it has ended or asks for that."""
        worker = child.post.worker
        self._said += [(worker, said) for said in child.heard()]
        if child.ready:
            del self._starts[worker]
        if child.done and not child.over:
            child.kill("Another process takes its place.")
        if child.over or child.done:
            self._replace(child)

    def _replace(self, child: Child) -> None:
        worker = child.post.worker
        child.bury()
        del self._children[worker]
        if child.refusal is not None:
            self._leave_out(worker, child.refusal)
        elif not child.ready:
            self._start_again(worker, child.fate)
        else:
            if not child.done:
                self._said.append((worker, Lost(reason=child.fate)))
            self._start(worker)

    def _kill_if_overdue(self, child: Child) -> None:
        if not child.ready and time.monotonic() - child.began > self._hang:
            child.kill(f"The process of worker {child.post.worker} did not open its model in {self._hang:g} seconds.")

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the lead, and return or raise what it does."""
        call = Call(number=next(self._numbers), method=method, arguments=arguments)
        child = self._lead_child()
        answer = self._answer(child, call)
        while answer is None and child.done:
            # It asked to be replaced before it came to the call, as after the last trial of a search.
            child = self._lead_child()
            answer = self._answer(child, call)
        if answer is None:
            raise child.refusal or TrainingError(f"A worker was lost when it was asked to {method}: {child.fate}")
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _answer(self, child: Child, call: Call) -> Answer | None:
        """Return what a process answers; None where it ends, or is replaced, before it does."""
        child.send(call)
        while call.number not in child.answers and child in self._children.values():
            self._await(child)
        return child.answers.pop(call.number, None)

    def _await(self, child: Child) -> None:
        """Hear what a process says next, or that it has ended or does not open its model."""
        wait(child.connections, HEARS_EVERY_SECONDS)
        self._hear(child)
        self._kill_if_overdue(child)

    def _lead_child(self) -> Child:
        for worker in self._posts:
            if worker in self._children:
                return self._children[worker]
        raise TrainingError("No worker process is left to be asked.")
