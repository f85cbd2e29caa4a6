"""Shared files: tensors that each worker process of a machine maps, so that memory holds them once, and rows.

A file of tensors is written by the first that needs it, while others wait, and put in place whole. Its folder's name
and its header hold a digest of what it was made from, its header one of its content: what is torn, altered or foreign
is written again.

A file of rows is filled by all, in any order and without a lock: each record begins with a digest of it, so that one
that is not there, torn or altered is told from a sound one. Two that write a record at once write the same, since it
follows from its row alone.
"""

import fcntl
import hashlib
import json
import logging
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpo.files.disk import refuse_full, remove_partial_files, save_tensors, why_not_written

FOLDER = "shared"
"""Of a study's files folder the part that holds them; may be removed when no worker will start any more."""
FILE, LOCK = "tensors.safetensors", "lock"
PACKAGES = ("llm-hpo", "tokenizers", "transformers")
"""What of another version may make something else of the same."""
DIGEST_BYTES = 8
"""Of the digest in front of each record of a file of rows."""

Tensors = Mapping[str, Tensor]

logger = logging.getLogger(__name__)


class SharedFiles:
    """A folder of them on a local disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tensors(self, name: str, made_of: Sequence[object], make: Callable[[], Tensors]) -> Tensors:
        """Return what `make` returns, read only: from the file, or made here where there is none that is sound.

        Where it cannot be written, as on a full disk, that is logged, and what was made is this process's alone.

        Args:
            name: begins the name of the file's folder.
            made_of: all that the tensors follow from, of JSON's kinds; versions of packages are added to it.
            make: is called once at most.
        """
        origin = _origin(made_of)
        path = self._folder / f"{name}-{origin[:16]}" / FILE
        if (found := _mapped(path, origin)) is not None:
            return found
        with _locked(path):
            # Another process may have been first.
            if (found := _mapped(path, origin)) is not None:
                return found
            made = make()
            _write(path, made, origin)
        return _mapped(path, origin) or made

    def arrays(
        self, name: str, made_of: Sequence[object], make: Callable[[], Mapping[str, NDArray[Any]]]
    ) -> dict[str, NDArray[Any]]:
        """Do as `tensors` does, for arrays of numpy."""
        found = self.tensors(name, made_of, lambda: {key: torch.from_numpy(array) for key, array in make().items()})
        arrays = {key: tensor.numpy() for key, tensor in found.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    def rows_path(self, name: str, made_of: Sequence[object]) -> Path:
        """Return the path of a file of rows that follow from `made_of`, as `tensors` has it."""
        return self._folder / f"{name}-{_origin(made_of)}.rows"


class RowFile:
    """A file of records whose sizes are known."""

    def __init__(self, path: Path | None, sizes: NDArray[np.int64], most_bytes: int) -> None:
        """Open a file, or make it without a record.

        Args:
            path: None for a file that no other process sees, and that goes with this object.
            sizes: bytes of each record, the same for all that open this path; shape (rows,).
            most_bytes: of the file, where it is made here: rows behind that have no place in it.

        Raises:
            OSError: it can neither be opened nor made.
        """
        ends = np.cumsum(sizes + DIGEST_BYTES)
        self._begins, self._sizes = ends - sizes - DIGEST_BYTES, sizes
        if path is None:
            self._file, name = tempfile.mkstemp()
            os.unlink(name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        weakref.finalize(self, os.close, self._file)
        if not os.fstat(self._file).st_size:
            # Takes nothing of the disk yet; by its size all that open it know which rows have a place.
            os.truncate(self._file, int(ends[ends <= most_bytes].max(initial=0)))
        self.rows = int(np.searchsorted(ends, os.fstat(self._file).st_size, side="right"))
        """How many rows have a place, the first ones."""
        self._is_sound = np.zeros(self.rows, dtype=np.bool_)
        """Which records this process has found sound: their digests are not computed again."""

    def read(self, row: int) -> memoryview | None:
        """Return the record of a row that has a place; None where there is none that is sound.

        Raises:
            OSError: the disk cannot be read.
        """
        size = int(self._sizes[row])
        found = memoryview(os.pread(self._file, DIGEST_BYTES + size, int(self._begins[row])))
        digest, record = found[:DIGEST_BYTES], found[DIGEST_BYTES:]
        if not self._is_sound[row]:
            self._is_sound[row] = len(record) == size and digest == _record_digest(record)
        return record if self._is_sound[row] else None

    def write(self, row: int, record: bytes) -> None:
        """Write the record of a row that has a place.

        Raises:
            OSError: it cannot be written, as on a full disk.
        """
        os.pwrite(self._file, _record_digest(record) + record, int(self._begins[row]))


def _record_digest(record: bytes | memoryview) -> bytes:
    return hashlib.blake2b(record, digest_size=DIGEST_BYTES).digest()


def _origin(made_of: Sequence[object]) -> str:
    """Return what tells files apart that were made of something else, or by another version; hexadecimal."""
    parts = [*made_of, *(version(package) for package in PACKAGES)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def content_digest(tensors: Tensors) -> str:
    """Return SHA-256, hexadecimal, over names, kinds, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # As bytes, because numpy has no bf16.
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let no other process into the block for `path`, where the disk allows a lock; that ends with the process."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((path.parent / LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            # Then two may write at once, and a mixture is found out by its digest.
            logger.debug("No lock at %s: %s.", path, error)
        yield


def _mapped(path: Path, origin: str) -> Tensors | None:
    """Return the tensors of a file, mapped into memory; None where it is not there or not what was written."""
    try:
        # Private to the process: what would be written to the tensors never reaches the file.
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    sound = about.get("origin") == origin and about.get("content") == content_digest(tensors)
    return tensors if sound else None


def _write(path: Path, tensors: Tensors, origin: str) -> None:
    """Write a file, whole or not at all; say so where it cannot be."""
    try:
        remove_partial_files(path.parent)
        refuse_full(path.parent, sum(tensor.nbytes for tensor in tensors.values()), most_gib=None)
        save_tensors(path, tensors, {"origin": origin, "content": content_digest(tensors)})
    except OSError as error:
        logger.warning(
            "%s is not shared, and each worker process holds its own in memory: %s.",
            path.parent.name,
            why_not_written(error),
        )
