"""Where a trial in training can be gone on with: its whole state, in files that are found out when torn or altered.

Two files, each with a digest at its end, are written in turns: if one is damaged, the one before it is used. A
checkpoint is used only for what it was made of: the same assignment, texts, model and precision. Writing and reading
one takes no memory beside the live tensors: they are streamed to the disk, and mapped from it. Where the study's files
have a mirror, each is sent there once it is whole, and a trial goes on from the furthest sound one of both places.
"""

import hashlib
import logging
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from hpo.training.disk import can_go_without, refuse_full, remove_remains, replacing, why_not_written
from hpo.training.mirror import NO_MIRROR, Mirror

FILES = ("checkpoint-a.pt", "checkpoint-b.pt")
# Behind torch's archive, which is read from its front: how far the trial had come, and a digest of all before it.
SEEN_BYTES = 8
DIGEST_BYTES = 32
READ_BYTES = 2**20
MOST_OF_TIME = 0.03
"""Share of the training time that checkpoints may take."""
ASSUMED_BYTES_PER_SECOND = 100e6
"""How fast a checkpoint is taken to be written, until one was."""
SECONDS_TO_RETRY = 60.0
"""Of training, after one that could not be written, or not be sent."""

State = Mapping[str, Any]

logger = logging.getLogger(__name__)


class Checkpoints:
    """Those of one trial: when the next is due, and where they are."""

    def __init__(
        self, folder: Path | None, identity: str, most_gib: float | None = None, mirror: Mirror = NO_MIRROR
    ) -> None:
        """Keep them in `folder`, the trial's own in that of the study, or nowhere.

        Args:
            folder: made with the first checkpoint.
            identity: what must be the same to go on from one.
            most_gib: GiB that all weights and checkpoints of the study may take; None for as much as is free.
            mirror: of the study's folder.
        """
        self._folder, self._identity, self._most_gib, self._mirror = folder, identity, most_gib, mirror
        self._due: float | None = None
        self._newest: str | None = None
        self._has_told = False

    def is_due(self, seconds: float, tensor_bytes: int) -> bool:
        """Return whether, after so many seconds of training, writing `tensor_bytes` costs little beside them."""
        if self._folder is None:
            return False
        if self._due is None:
            self._due = seconds + tensor_bytes / ASSUMED_BYTES_PER_SECOND / MOST_OF_TIME
        return seconds >= self._due

    def save(self, state: State, seconds: float) -> None:
        """Write `state` over the older of the two, and send it; what cannot be is told once, and trying goes on.

        Args:
            state: tensors, numbers, strings, and lists and mappings of them; under `seen`, how far the trial has come.
            seconds: of training so far.
        """
        if self._folder is None:
            return
        began = time.perf_counter()
        try:
            done = self._mirror.send(self._write(self._folder, state))
        except (OSError, MemoryError, RuntimeError) as error:
            if not can_go_without(error):
                raise
            self._tell(error)
            done = False
        apart = (time.perf_counter() - began) / MOST_OF_TIME
        self._due = seconds + (apart if done else max(apart, SECONDS_TO_RETRY))

    def load(self) -> State | None:
        """Return the furthest sound checkpoint that is of this trial, its tensors mapped from the file; None without.

        What is kept of a tensor must be a copy, or the file's room on the disk is not free until it is forgotten.
        """
        if self._folder is None:
            return None
        remove_remains(self._folder)
        paths = [self._folder / name for name in FILES]
        here = [(_seen(path), _read, path) for path in paths]
        there = [(self._mirror.look(path, _seen_in, -1), self._fetched, path) for path in paths]
        # Of two that are as far the one that is here: the order of equal ones stays.
        for _, read, path in sorted([*here, *there], key=lambda found: found[0], reverse=True):
            state = read(path)
            if state is not None and state["identity"] == self._identity:
                self._newest = path.name
                return state
        return None

    def remove(self) -> None:
        """Remove them, and what is left of files half written."""
        if self._folder is not None:
            remove_checkpoints(self._folder)
            self._mirror.remove(self._folder, FILES)

    def release(self) -> None:
        """Remove from the folder what was sent: the trial may go on elsewhere, and none would clear this disk."""
        if self._folder is not None:
            for name in FILES:
                self._mirror.release(self._folder / name)

    def _fetched(self, path: Path) -> State | None:
        """Return what is in a file's twin; None without. It is mapped from a file without a name."""
        fetched = path.with_name(f"{path.name}.fetched.part")
        try:
            return _read(fetched, self._mirror.shown(path)) if self._mirror.fetch(path, fetched) else None
        finally:
            fetched.unlink(missing_ok=True)

    def _write(self, folder: Path, state: State) -> Path:
        """Write the next file, and return it."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / next(name for name in FILES if name != self._newest)
        freed = path.stat().st_size if path.exists() else 0
        refuse_full(folder.parent, _tensor_bytes(state), self._most_gib, freed)
        # Not written into: tensors may be mapped from it. Not kept until the new one is whole: that would be three.
        path.unlink(missing_ok=True)
        write_checkpoint(path, {"identity": self._identity, **state})
        self._newest = path.name
        return path

    def _tell(self, error: Exception) -> None:
        if not self._has_told:
            logger.warning("No checkpoint was written to %s: %s.", self._folder, why_not_written(error))
        self._has_told = True


def write_checkpoint(path: Path, state: State) -> None:
    """Write `state` to a file, whole or not at all, without a copy of its tensors but one at a time of a GPU's.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as part, part.open("wb") as file:
        hashed = _Hashed(file)
        try:
            torch.save(state, hashed)  # type: ignore[arg-type]
        except RuntimeError as error:
            # torch ends its archive even where the disk is full, and fails of that anew.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        hashed.write(state["seen"].to_bytes(SEEN_BYTES, "big"))
        file.write(hashed.digest())


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints in `folder`, what is left of files half written, and it if nothing else is in it."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    remove_remains(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


class _Hashed:
    """What torch writes an archive to: a file, and a digest of all that went into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, content: bytes | memoryview) -> int:
        self._hash.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> bytes:
        return self._hash.digest()


def _tensor_bytes(value: Any) -> int:
    """Return the bytes of all tensors in lists and mappings of lists and mappings."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_tensor_bytes, value.values()))
    return sum(map(_tensor_bytes, value)) if isinstance(value, list | tuple) else 0


def _seen(path: Path) -> int:
    """Return how far the trial had come, as the end of a file says that may be damaged; -1 without."""
    try:
        with path.open("rb") as file:
            return _seen_in(file)
    except OSError:
        return -1


def _seen_in(file: IO[bytes]) -> int:
    """Return how far the trial had come, as the end of an open file says; -1 where it is too short."""
    end = file.seek(0, 2) - SEEN_BYTES - DIGEST_BYTES
    if end < 0:
        return -1
    file.seek(end)
    return int.from_bytes(file.read(SEEN_BYTES), "big")


def _read(path: Path, shown: Path | str | None = None) -> State | None:
    """Return what is in a file; None where it is not there, or not what was written, which is told of `shown`."""
    shown = shown or path
    try:
        sound = _is_sound(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("The checkpoint %s cannot be read: %s.", shown, why_not_written(error))
        return None
    if not sound:
        logger.warning("The checkpoint %s is damaged, and is not used.", shown)
        return None
    try:
        state: State = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        logger.warning("The checkpoint %s is whole, but this version of torch does not read it: %s.", shown, why)
        return None
    return state


def _is_sound(path: Path) -> bool:
    """Return whether the digest at the end of a file is that of all before it."""
    left = path.stat().st_size - DIGEST_BYTES
    found = hashlib.sha256()
    with path.open("rb") as file:
        while left > 0:
            chunk = file.read(min(left, READ_BYTES))
            if not chunk:
                return False
            found.update(chunk)
            left -= len(chunk)
        return file.read() == found.digest()
