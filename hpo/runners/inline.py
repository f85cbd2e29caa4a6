"""Inline runner: one worker, in this process, trains one trial after the other."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Assignment, Begun, Capacity, Decision, WorkerSettings
from hpo.runners.worker_pool import WorkerMessage
from hpo.training.worker import Worker, open_worker

NAME = "inline-0"


class InlineWorkerPool:
    """One worker in this process: it cannot be lost or replaced, and if it hangs, the search hangs."""

    prefetch = 0
    workers: Collection[str] = (NAME,)
    size = 1

    def __init__(self, worker: Worker) -> None:
        self.lead = worker
        self._slots = worker.free_slots
        self._begun: list[tuple[str, WorkerMessage]] = []

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """The capacity of the worker."""
        return {NAME: Capacity(worker=NAME, device=self.lead.device, slots=self._slots)}

    def begin(self, settings: WorkerSettings) -> None:
        """Use these settings."""
        self.lead.use(settings)
        self._slots = self.lead.free_slots

    def give(self, _worker: str, assignment: Assignment) -> None:
        """Hand over an assignment."""
        self.lead.admit(assignment)
        self._begun.append((NAME, Begun(trial=assignment.trial, attempt=assignment.attempt)))

    def apply(self, _worker: str, decision: Decision) -> None:
        """Hand over a decision."""
        self.lead.apply(decision)

    def listen(self, _seconds: float) -> Sequence[tuple[str, WorkerMessage]]:
        """Train until there is a message, however long that takes."""
        begun, self._begun = self._begun, []
        return begun or [(NAME, message) for message in self.lead.advance()]

    def kill(self, _worker: str, _reason: str) -> None:
        """Do nothing, because the process would kill itself. The trial ends at its next step."""

    def discard(self, _worker: str) -> None:
        """Do nothing, because it is the only worker."""


@contextmanager
def open_inline(
    config: StudyConfig, splits: Splits, files: Path, _ends: Callable[[], bool]
) -> Iterator[InlineWorkerPool]:
    """Open a worker in this process.

    Raises:
        ModelError, ConfigurationError: the model, the metric or the device cannot be used.
    """
    yield InlineWorkerPool(open_worker(config, splits, files))
