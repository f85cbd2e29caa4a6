"""A workforce of one: trains trials in this process, one after the other."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Assignment, Begun, Capacity, Decision
from hpo.runners.workforce import IsOver, Said, never
from hpo.training.precision import Precision
from hpo.training.worker import Worker, open_worker

NAME = "inline-0"


class InlineWorkforce:
    """One worker in this process: it can neither be lost nor replaced, and a hang of it is one of the search."""

    ahead = 0

    def __init__(self, worker: Worker) -> None:
        self._worker, self._slots = worker, worker.free_slots
        self._begun: list[tuple[str, Said]] = []

    @property
    def workers(self) -> Collection[str]:
        """The one."""
        return (NAME,)

    @property
    def size(self) -> int:
        """One."""
        return 1

    @property
    def lead(self) -> Worker:
        """The one."""
        return self._worker

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """What it offers."""
        return {NAME: Capacity(worker=NAME, device=self._worker.device, slots=self._slots)}

    def begin(self, precision: Precision) -> None:
        """Compute in `precision`."""
        self._worker.use(precision)

    def give(self, _worker: str, assignment: Assignment) -> None:
        """Hand over an assignment."""
        self._worker.admit(assignment)
        self._begun.append((NAME, Begun(trial=assignment.trial, attempt=assignment.attempt)))

    def apply(self, _worker: str, decision: Decision) -> None:
        """Hand over a decision."""
        self._worker.apply(decision)

    def listen(self, _seconds: float) -> Sequence[tuple[str, Said]]:
        """Train until there is something to say, for however long that takes."""
        if self._begun:
            begun, self._begun = self._begun, []
            return begun
        return [(NAME, message) for message in self._worker.advance()]

    def kill(self, _worker: str, _reason: str) -> None:
        """Do nothing: the process would kill itself. What it trains ends at its next step."""

    def discard(self, _worker: str) -> None:
        """Do nothing: it is the last."""


@contextmanager
def open_inline(
    config: StudyConfig, splits: Splits, files: Path, _is_over: IsOver = never
) -> Iterator[InlineWorkforce]:
    """Open a worker in this process.

    Raises:
        ModelError, ConfigurationError: the model, the metric or the device cannot be used.
    """
    yield InlineWorkforce(open_worker(config, splits, files))
