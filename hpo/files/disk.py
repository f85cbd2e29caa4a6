"""Disk limit and atomic writes: files within a study's disk budget, written completely or not at all."""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from safetensors.torch import save_file
from torch import Tensor

from hpo.memory import is_out_of_memory

GIB = 2**30
RESERVE_BYTES = 256 * 2**20
"""Free space that is left on a disk, because the store may be on it and must be able to record the end of a trial."""
MOST_BESIDE_TENSORS = 2**20
"""Bytes of a tensor file other than the tensors: names, digests."""
# Our temporary files, and those of safetensors, which chooses the name itself.
PARTIAL = ("*.part", ".tmp*")

logger = logging.getLogger(__name__)


def refuse_full(folder: Path, tensor_bytes: int, most_gib: float | None, freed: int = 0) -> None:
    """Refuse to write a file for which the study's folder, or its disk, has no room.

    Workers that write at the same moment do not see each other's files; each may exceed the budget by its own file.

    Args:
        folder: the study's files folder.
        tensor_bytes: size of the tensors to be written to a file.
        most_gib: most GiB of all weights and checkpoints in it; None for all free space.
        freed: bytes of a file that is removed before.

    Raises:
        OSError: gives need and room, as the end of a sentence.
    """
    need = tensor_bytes + MOST_BESIDE_TENSORS
    if most_gib is not None:
        room = int(most_gib * GIB) - _used(folder) + freed
        if need > room:
            raise OSError(
                errno.EDQUOT,
                f"{_gib(need)} are needed, and of store.disk_gib, {most_gib:g} GiB, {_gib(room)} are left in {folder}",
            )
    free = shutil.disk_usage(folder).free + freed
    if need > free - RESERVE_BYTES:
        raise OSError(
            errno.ENOSPC,
            f"{_gib(need)} are needed, and the disk of {folder} has {_gib(free)} free, of which {_gib(RESERVE_BYTES)} "
            "stay free",
        )


def cache_bytes(folder: Path) -> int:
    """Return the size limit of cache files: a quarter of their disk's free space, or half of the memory if less.

    A file that is read repeatedly is held in memory, from which the system drops it when memory is short.
    """
    free = shutil.disk_usage(folder).free - RESERVE_BYTES
    return max(0, min(free // 4, psutil.virtual_memory().available // 2))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write, which replaces `path` once it is complete and on the disk, and is removed on an error."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        flush(part)
        part.replace(path)
        flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a safetensors file with `about` in its header, completely or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as part, system_errors():
        save_file(dict(tensors), part, dict(about))


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise an OSError where safetensors or tokenizers cannot write a file: their own error only quotes the system's.

    Raises:
        OSError: the block could not write a file.
    """
    try:
        yield
    except Exception as error:
        # As Rust words it: "Error while serializing: I/O error: No space left on device (os error 28)".
        quoted = re.search(r"\(os error (\d+)\)", str(error))
        if isinstance(error, OSError) or quoted is None:
            raise
        number = int(quoted[1])
        raise OSError(number, os.strerror(number)) from error


def remove_partial_files(folder: Path) -> None:
    """Remove files in `folder` that killed processes had partly written; nobody may be writing there now."""
    for pattern in PARTIAL:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


class ToleratedFailures:
    """Failures to write a file that a trial can do without: only the first is logged."""

    def __init__(self, what: str) -> None:
        """Start the log message with `what`."""
        self._what, self._has_warned = what, False

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """End the block without an error if disk or memory do not suffice for it."""
        try:
            yield
        except (OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            if not self._has_warned:
                logger.warning("%s: %s.", self._what, why_not_written(error))
            self._has_warned = True


def why_not_written(error: BaseException) -> str:
    """Return the reason that a file could not be written, as the end of a sentence."""
    if is_out_of_memory(error):
        return "memory ran out"
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _used(folder: Path) -> int:
    """Return the bytes of all files of trials in a study's folder."""
    used = 0
    for trial in folder.glob("trial-*"):
        # Another worker may remove its files meanwhile; `walk` then treats the folder, and this the file, as empty.
        for parent, _, names in os.walk(trial):
            for name in names:
                with suppress(FileNotFoundError):
                    used += Path(parent, name).stat().st_size
    return used


def _gib(count: int) -> str:
    return f"{max(count, 0) / GIB:.2f} GiB"
