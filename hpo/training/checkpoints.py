"""Checkpoints: the whole state of a trial in training, in files that are found out when torn or altered.

Two files, each with a digest at its end, are written in turns: if one is damaged, the one before it is used. Each
attempt has names of its own: one that is taken for dead and still writes spoils nothing of the one that goes on. A
checkpoint is used only for what it was made of: the same assignment, texts, model and precision. Writing and reading
one takes no memory beside the live tensors: they are streamed to the disk, and mapped from it. Where the study's files
have a mirror, each is sent there once it is whole, and a trial goes on from the furthest sound one of both places.
"""

import hashlib
import logging
import pickle
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from hpo.files.disk import can_go_without, refuse_full, remove_remains, replacing, why_not_written
from hpo.files.remote import NO_MIRROR, Mirror

CHECKPOINT = re.compile(r"checkpoint-(?:(\d+)-)?[ab]\.pt")
"""Name of such a file; without an attempt it is of the first, or of an earlier version, which told none."""
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
        self,
        folder: Path | None,
        identity: str,
        most_gib: float | None = None,
        mirror: Mirror = NO_MIRROR,
        attempt: int = 1,
    ) -> None:
        """Keep them in `folder`, the trial's own in that of the study, or nowhere.

        Args:
            folder: made with the first checkpoint.
            identity: what must be the same to go on from one.
            most_gib: GiB that all weights and checkpoints of the study may take; None for as much as is free.
            mirror: of the study's folder.
            attempt: which writes them; it goes on from those of earlier ones.
        """
        self._folder, self._identity, self._most_gib, self._mirror = folder, identity, most_gib, mirror
        self._attempt, self._names = attempt, checkpoint_names(attempt)
        self._due: float | None = None
        self._newest: Path | None = None
        self._has_earlier = attempt > 1
        """Whether those of earlier attempts may have a twin."""
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
            before = self._newest
            done = self._mirror.send(self._write(self._folder, state))
            if done and self._has_earlier:
                self._forget_earlier(self._folder, before)
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
        here = [(_attempt(path), _seen(path), _read, path) for path in checkpoints_in(self._folder)]
        there = [
            (_attempt(path), self._mirror.look(path, _seen_in, -1), self._fetched, path)
            for path in sorted(self._mirror.files(self._folder))
            if CHECKPOINT.fullmatch(path.name)
        ]
        # Of two that are as far the one that is here: the order of equal ones stays.
        for attempt, _, read, path in sorted([*here, *there], key=lambda found: found[:2], reverse=True):
            state = read(path) if attempt <= self._attempt else None
            if state is not None and state["identity"] == self._identity:
                self._newest = path
                return state
        return None

    def remove(self) -> None:
        """Remove them, and what is left of files half written."""
        if self._folder is not None:
            remove_checkpoints(self._folder)
            self._mirror.remove(self._folder, is_checkpoint)

    def release(self) -> None:
        """Remove from the folder what was sent: the trial may go on elsewhere, and none would clear this disk."""
        if self._folder is not None:
            for name in self._names:
                self._mirror.release(self._folder / name)

    def _forget_earlier(self, folder: Path, before: Path | None) -> None:
        """Remove the twins of earlier attempts' files, but of the one before the newest."""
        kept = None if before is None or before.name in self._names else before.name
        self._mirror.remove(folder, lambda name: self._is_before(name) and name != kept)
        self._has_earlier = kept is not None

    def _is_before(self, name: str) -> bool:
        """Return whether a file is a checkpoint of an earlier attempt."""
        return is_checkpoint(name) and _attempt(Path(name)) < self._attempt

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
        path = next(path for path in (folder / name for name in self._names) if path != self._newest)
        earlier = [one for one in checkpoints_in(folder) if self._is_before(one.name) and one != self._newest]
        going = [*earlier, path] if path.exists() else earlier
        refuse_full(folder.parent, _tensor_bytes(state), self._most_gib, sum(one.stat().st_size for one in going))
        # Not written into: tensors may be mapped from it. Not kept until the new one is whole: that would be three.
        for one in going:
            one.unlink(missing_ok=True)
        write_checkpoint(path, {"identity": self._identity, **state})
        self._newest = path
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


def checkpoint_names(attempt: int) -> tuple[str, str]:
    """Return the names of the two files that an attempt writes in turns."""
    of = f"{attempt}-" if attempt > 1 else ""
    return f"checkpoint-{of}a.pt", f"checkpoint-{of}b.pt"


def is_checkpoint(name: str) -> bool:
    """Return whether a file of that name is a checkpoint, whichever attempt wrote it."""
    return CHECKPOINT.fullmatch(name) is not None


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of all attempts in `folder`, by name; none where it is not there."""
    return sorted(path for path in folder.glob("checkpoint-*.pt") if is_checkpoint(path.name))


def _attempt(path: Path) -> int:
    """Return which attempt wrote a checkpoint."""
    named = CHECKPOINT.fullmatch(path.name)
    assert named is not None, "it is a checkpoint"
    return int(named[1] or 1)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints in `folder`, what is left of files half written, and it if nothing else is in it."""
    for path in checkpoints_in(folder):
        path.unlink(missing_ok=True)
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
