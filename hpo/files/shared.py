"""Shared files: tensors that all worker processes of a machine map, so that memory holds them once, and rows.

A file of tensors is written by the first process that needs it, while others wait, and put in place complete. Its
folder's name and its header contain a digest of its sources, its header also one of its content: a damaged or foreign
file is written again.

A file of rows is filled by all processes, in any order and without a lock: each record begins with its digest, which
distinguishes it from a missing or damaged one. Two processes that write a record at once write the same bytes, because
they depend only on its row.
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
"""Subfolder of a study's files folder for them; may be removed when no worker will start any more."""
FILE, LOCK = "tensors.safetensors", "lock"
PACKAGES = ("llm-hpo", "tokenizers", "transformers")
"""Packages whose other versions may make something else of the same sources."""
DIGEST_BYTES = 8
"""Bytes of the digest before each record of a file of rows."""

Tensors = Mapping[str, Tensor]

logger = logging.getLogger(__name__)


class SharedFiles:
    """A folder of shared files on a local disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tensors(self, name: str, made_of: Sequence[object], make: Callable[[], Tensors]) -> Tensors:
        """Return the result of `make`, read-only: from an undamaged file, or made here.

        If it cannot be written, as on a full disk, that is logged, and the result belongs to this process only.

        Args:
            name: prefix of the name of the file's folder.
            made_of: everything that the tensors depend on, as JSON values; versions of packages are added to it.
            make: called at most once.
        """
        origin = _origin(made_of)
        path = self._folder / f"{name}-{origin[:16]}" / FILE
        if (found := _mapped(path, origin)) is not None:
            return found
        with _locked(path):
            # Another process may have written it meanwhile.
            if (found := _mapped(path, origin)) is not None:
                return found
            made = make()
            _write(path, made, origin)
        return _mapped(path, origin) or made

    def arrays(
        self, name: str, made_of: Sequence[object], make: Callable[[], Mapping[str, NDArray[Any]]]
    ) -> dict[str, NDArray[Any]]:
        """Do the same as `tensors`, for numpy arrays."""
        found = self.tensors(name, made_of, lambda: {key: torch.from_numpy(array) for key, array in make().items()})
        arrays = {key: tensor.numpy() for key, tensor in found.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    def rows_path(self, name: str, made_of: Sequence[object]) -> Path:
        """Return the path of a file of rows that depend on `made_of`, as in `tensors`."""
        return self._folder / f"{name}-{_origin(made_of)}.rows"


class RowFile:
    """A file of records with known sizes."""

    def __init__(self, path: Path | None, sizes: NDArray[np.int64], most_bytes: int) -> None:
        """Open a file, or create it without records.

        Args:
            path: None for a file that no other process sees, and that is removed with this object.
            sizes: bytes of each record, equal for all that open this path; shape (rows,).
            most_bytes: size limit of a new file: rows beyond it are not stored.

        Raises:
            OSError: it can neither be opened nor created.
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
            # Takes no disk space yet; its size shows every process which rows are stored.
            os.truncate(self._file, int(ends[ends <= most_bytes].max(initial=0)))
        self.bytes = os.fstat(self._file).st_size
        """Size of the file with all stored rows."""
        self.rows = int(np.searchsorted(ends, self.bytes, side="right"))
        """Number of rows that are stored, the first ones."""
        self._is_sound = np.zeros(self.rows, dtype=np.bool_)
        """Records that this process has verified: their digests are not computed again."""

    def read(self, row: int) -> memoryview | None:
        """Return the record of a row within the limit; None if there is no undamaged one.

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
        """Write the record of a row within the limit.

        Raises:
            OSError: it cannot be written, as on a full disk.
        """
        os.pwrite(self._file, _record_digest(record) + record, int(self._begins[row]))


def _record_digest(record: bytes | memoryview) -> bytes:
    return hashlib.blake2b(record, digest_size=DIGEST_BYTES).digest()


def _origin(made_of: Sequence[object]) -> str:
    """Return a digest that separates files with other sources or of another version; hexadecimal."""
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
    """Keep other processes out of the block for `path`, if the disk supports locks; released when the process ends."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((path.parent / LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            # Without a lock two may write at once, and the digest detects a mixture.
            logger.debug("No lock at %s: %s.", path, error)
        yield


def _mapped(path: Path, origin: str) -> Tensors | None:
    """Return the tensors of a file, mapped into memory; None if it is missing or damaged."""
    try:
        # Private to the process: changes of the tensors never reach the file.
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    sound = about.get("origin") == origin and about.get("content") == content_digest(tensors)
    return tensors if sound else None


def _write(path: Path, tensors: Tensors, origin: str) -> None:
    """Write a file, completely or not at all; log it if that fails."""
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
