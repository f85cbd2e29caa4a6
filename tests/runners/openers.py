"""Workers for processes of tests: one without a model, and openers that fail as real ones do.

An opener is found by its name in another process, and told nothing of the test: what it does, it reads in `files`.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ModelError
from hpo.messages import Action, Assignment, Decision, Ending, Outcome, Progress, WorkerSettings

SENTENCE = "The model cannot be loaded: config.json is empty."


class Counting:
    """Trains a trial by counting to its seed, slowly; the trial's hyperparameters mean nothing."""

    def __init__(self, files: Path, threads: int) -> None:
        self._files, self._threads = files, threads
        self._assignment: Assignment | None = None
        self._counted = 0
        self._asked = Action.CONTINUE
        self.precision = "unset"

    @property
    def free_slots(self) -> int:
        return int(self._assignment is None)

    def facts(self) -> dict[str, str]:
        return {"threads": str(self._threads), "precision": self.precision, "pid": str(os.getpid())}

    def use(self, settings: WorkerSettings) -> None:
        self.precision = settings.precision

    def cut_share(self, max_length: int) -> float:
        """Die, or raise an error that no other process can make anew."""
        if max_length == 0:
            os._exit(7)
        raise Unportable(max_length, "reasons")

    def has_weights(self, report: object) -> bool:
        """Take a while to look."""
        time.sleep(0.3)
        return True

    def measure(self, max_length: int, most_seconds: float = 0.0) -> None:
        raise ModelError(SENTENCE)

    def admit(self, assignment: Assignment) -> None:
        self._assignment, self._counted, self._asked = assignment, 0, Action.CONTINUE

    def follow(self) -> None:
        """Follow, without a word, for as long as nobody ends it."""
        time.sleep(600)

    def close(self) -> None:
        """Leave nothing."""

    def apply(self, decision: Decision) -> None:
        self._asked = decision.action

    def advance(self, _should_return: Callable[[], bool]) -> list[Progress | Outcome]:
        time.sleep(0.01)
        assert self._assignment is not None
        self._counted += 1
        match self._asked, self._counted >= self._assignment.seed:
            case Action.PAUSE, _:
                return [self._ended(Ending.PAUSED)]
            case Action.STOP, _:
                return [self._ended(Ending.PRUNED)]
            case _, False:
                return [self._progress(self._assignment)]
        if (self._files / "broken-gpu").exists():
            return [self._ended(Ending.FAILED, "AcceleratorError: CUDA error: an illegal memory access.")]
        return [self._ended(Ending.COMPLETED)]

    def _ended(self, ending: Ending, reason: str = "") -> Outcome:
        assignment, self._assignment = self._assignment, None
        assert assignment is not None
        return Outcome(
            trial=assignment.trial,
            attempt=assignment.attempt,
            ending=ending,
            seconds=float(self._counted),
            peak_memory_bytes=0,
            reason=reason,
        )

    def _progress(self, assignment: Assignment) -> Progress:
        return Progress(
            trial=assignment.trial,
            attempt=assignment.attempt,
            examples_seen=self._counted,
            examples_total=assignment.seed,
            examples_per_second=100.0,
            learning_rate=0.0,
            train_loss=0.0,
            seconds=float(self._counted),
        )


class Unportable(Exception):
    """Is pickled by one argument and made of two."""

    def __init__(self, one: int, two: str) -> None:
        super().__init__(f"{one} of {two}")


def open_counting(config: StudyConfig, splits: Splits, files: Path, **_: Any) -> Counting:
    import torch

    return Counting(files, torch.get_num_threads())


def open_refused(config: StudyConfig, splits: Splits, files: Path, **_: Any) -> Counting:
    raise ModelError(SENTENCE)


def open_first_alone(config: StudyConfig, splits: Splits, files: Path, **_: Any) -> Counting:
    """Open the first worker, and then do with the others as the file `then` says."""
    opened = files / "opened"
    if not opened.exists():
        opened.touch()
        return open_counting(config, splits, files)
    if (files / "then").read_text() == "refuse":
        raise ModelError(SENTENCE)
    time.sleep(600)
    raise AssertionError
