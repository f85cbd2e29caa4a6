"""Disk limit and atomic writes: files within what a study may fill of a disk, written whole or not at all."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hpo.memory import is_out_of_memory

GIB = 2**30
RESERVE_BYTES = 256 * 2**20
"""What is left free on a disk: a store may be on it, which must be able to write that a trial has ended."""
MOST_BESIDE_TENSORS = 2**20
"""Bytes of a file of tensors that are not theirs: names, digests."""
# Ours, and those of safetensors, which writes to a file of its own choice first.
PARTIAL = ("*.part", ".tmp*")

logger = logging.getLogger(__name__)


def refuse_full(folder: Path, tensor_bytes: int, most_gib: float | None, freed: int = 0) -> None:
    """Refuse to write what a study's folder, or its disk, has no room for.

    Workers that write at the same moment do not see each other's; each may pass the budget by what it writes.

    Args:
        folder: the study's files folder.
        tensor_bytes: those of the tensors that are to be written to a file.
        most_gib: GiB that all weights and checkpoints in it may take; None for as much as is free.
        freed: bytes of a file that is removed before.

    Raises:
        OSError: says need and room, as the end of a sentence.
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
    """Return how large a file may grow that only saves time: a quarter of what is free of its disk, or half of memory.

    A file that is read again and again is held in memory, from which the system drops it where memory is short.
    """
    free = shutil.disk_usage(folder).free - RESERVE_BYTES
    return max(0, min(free // 4, psutil.virtual_memory().available // 2))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write, which takes the place of `path` once it is whole and on the disk, and else is removed."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        _flush(part)
        part.replace(path)
        _flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a safetensors file with `about` in its header, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as part:
        try:
            save_file(dict(tensors), part, dict(about))
        except SafetensorError as error:
            raise OSError(str(error)) from error


def remove_partial_files(folder: Path) -> None:
    """Remove what processes that were killed had half written in `folder`, in which nobody writes now."""
    for pattern in PARTIAL:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


class ToleratedFailures:
    """Failures to write a file that a trial can do without: only the first is logged."""

    def __init__(self, what: str) -> None:
        """Begin the message with `what`."""
        self._what, self._has_warned = what, False

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """End the block, without an error, where disk or memory do not suffice for it."""
        try:
            yield
        except (OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            if not self._has_warned:
                logger.warning("%s: %s.", self._what, why_not_written(error))
            self._has_warned = True


def why_not_written(error: BaseException) -> str:
    """Return why a file could not be written, as the end of a sentence."""
    if is_out_of_memory(error):
        return "memory ran out"
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _used(folder: Path) -> int:
    """Return the bytes of all files of trials in a study's folder."""
    used = 0
    for trial in folder.glob("trial-*"):
        # Another worker may remove its own meanwhile, of which `walk` takes a folder, and this a file, for empty.
        for parent, _, names in os.walk(trial):
            for name in names:
                with suppress(FileNotFoundError):
                    used += Path(parent, name).stat().st_size
    return used


def _gib(count: int) -> str:
    return f"{max(count, 0) / GIB:.2f} GiB"


def _flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
