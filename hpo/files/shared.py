"""Shared tensors: files that each worker process of a machine maps, so that memory holds them once.

A file is written by the first that needs it, while others wait, and put in place whole. Its folder's name and its
header hold a digest of what it was made from, its header one of its content: what is torn, altered or foreign is
written again.
"""

import fcntl
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
        parts = [*made_of, *(version(package) for package in PACKAGES)]
        origin = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
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
