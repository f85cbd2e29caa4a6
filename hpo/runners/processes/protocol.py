"""Protocol between a worker process and its parent, besides assignments, decisions, reports and outcomes.

A process first reads the study from a file that all processes map. So its examples are pickled once, and a process
that hangs before it has read them does not block its parent. All other messages use the process's own connection.
"""

import ctypes
import mmap
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol, Self

import torch

from hpo.config.study_file import StoreConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.distributed.rank_group import RankInfo
from hpo.errors import HpoError, StoreError
from hpo.messages import WorkerSettings
from hpo.training.worker import Worker

PR_SET_PDEATHSIG = 1
"""Option of Linux's `prctl(2)`: the signal that a process gets when the thread that started it ends."""
PARENT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that Ctrl-C, a scheduler or a closing terminal sends to a process group; only the parent acts on them."""


def belong_to(parent: int) -> None:
    """Ignore the parent's signals, and on Linux have this process killed when the parent dies.

    A closed connection also tells a worker that its parent is dead, unless the worker is stuck in a driver; the
    kernel's signal reaches it there.
    """
    for number in PARENT_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # A sandbox may refuse the call; then only the closed connection tells of the parent's death.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent died before this call.
        os._exit(0)


RANK_GROUP_LOST = 43
"""Exit status of a process that ends because another rank of its group is gone."""


class Opener(Protocol):
    """Function that opens the worker of a process, such as `hpo.training.worker.open_worker`."""

    def __call__(
        self,
        config: StudyConfig,
        splits: Splits,
        files: Path,
        *,
        device: torch.device,
        shared: bool,
        rank_info: RankInfo | None,
    ) -> Worker:
        """Return a worker on `device`; if `shared`, it shares read-only files with the other workers.

        With a `rank_info`, wait until all ranks of the group have joined.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySetup:
    """The study for opening a worker, without secrets."""

    config: StudyConfig
    splits: Splits
    files: Path
    opener: Opener

    @classmethod
    def of(cls, config: StudyConfig, splits: Splits, files: Path, opener: Opener) -> Self:
        """Return the setup without the store's URL and the recipients of notifications, which may contain passwords."""
        store = config.store.model_copy(update={"url": StoreConfig().url})
        return cls(
            config=config.model_copy(update={"store": store, "notify": (), "warm_start": ()}),
            splits=splits,
            files=files,
            opener=opener,
        )

    @contextmanager
    def written(self, folder: Path) -> Iterator[int]:
        """Write this study to an unnamed file on the disk of `folder`, and yield the file's handle.

        Raises:
            OSError: it cannot be written there.
        """
        with TemporaryFile(dir=folder) as file:
            pickle.dump(self, file)
            file.flush()
            yield file.fileno()

    @staticmethod
    def read(handle: int) -> "StudySetup":
        """Read what `written` wrote, through a memory map, because processes would share the position in the file."""
        with mmap.mmap(handle, 0, access=mmap.ACCESS_READ) as content:
            study = pickle.loads(content)
        assert isinstance(study, StudySetup), "the file holds a study"
        return study


@contextmanager
def writing_to(files: Path) -> Iterator[None]:
    """Raise `StoreError` if the block cannot write to a study's files."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"Nothing can be written to the study's files in {files}: {error.strerror}; name another folder by "
            "store.files."
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """First message to a worker process."""

    worker: str
    device: str
    """Name of the device in that process, in torch's notation."""
    threads: int
    settings: WorkerSettings | None
    """None if not yet chosen."""
    rank_info: RankInfo | None = None
    """Its rank in a group; None if it trains alone."""
    gpu_share: float = 1.0
    """Largest share of the GPU's memory that it may take, in (0, 1], if workers share the GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Message to a worker process: a call of a method of `Worker`, answered when no trial is training."""

    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Message to a worker process: end after the messages of the next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """First message of a worker: its place."""

    name: str
    """Name of the worker; a number is added if another worker has this name."""
    device: str
    """Device of rank 0, in torch's notation on that machine."""
    place: str
    """Identity of its devices; unique for this machine until it restarts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Message from a worker process: its worker is open."""

    slots: int = 1
    """Number of trials that it trains at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFailed:
    """Message from a worker process: its worker cannot be opened, now or later."""

    error: HpoError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Message from a worker process: the result or the error of a call."""

    number: int
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycle:
    """Message from a worker process: it has given back its assignments, and asks to be replaced."""
