"""Where a trial in training can be gone on with: its whole state, in files that are found out when torn or altered.

Two files stand side by side, each with a digest of its content, and are written in turns: if a crash tears one, the one
before it is used. A checkpoint is used only for what it was made of: the same assignment, texts, model and precision.
"""

import hashlib
import io
import logging
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

FILES = ("checkpoint-a.pt", "checkpoint-b.pt")
DIGEST_BYTES = 32
MOST_OF_TIME = 0.03
"""Share of the training time that checkpoints may take."""
ASSUMED_BYTES_PER_SECOND = 100e6
"""How fast a checkpoint is taken to be written, until one was."""

State = Mapping[str, Any]

logger = logging.getLogger(__name__)


class Checkpoints:
    """Those of one trial: when the next is due, and where they are."""

    def __init__(self, folder: Path | None, identity: str) -> None:
        """Keep them in `folder`, the trial's own, or nowhere.

        Args:
            folder: made with the first checkpoint.
            identity: what must be the same to go on from one.
        """
        self._folder, self._identity = folder, identity
        self._due: float | None = None

    def is_due(self, seconds: float, tensor_bytes: int) -> bool:
        """Return whether, after so many seconds of training, writing `tensor_bytes` costs little beside them."""
        if self._due is None:
            self._due = seconds + tensor_bytes / ASSUMED_BYTES_PER_SECOND / MOST_OF_TIME
        return self._folder is not None and seconds >= self._due

    def save(self, state: State, seconds: float) -> None:
        """Write `state`, which holds `seen`, how far the trial has come; a full disk is told and trying goes on.

        Args:
            state: tensors, numbers, strings, and lists and mappings of them.
            seconds: of training so far.
        """
        if self._folder is None:
            return
        began = time.perf_counter()
        try:
            write_checkpoint(self._folder, self._identity, state)
        except OSError as error:
            # The trial can go on without; the last good checkpoint is as it was.
            logger.warning("No checkpoint was written to %s: %s.", self._folder, error.strerror)
        self._due = seconds + (time.perf_counter() - began) / MOST_OF_TIME

    def load(self) -> State | None:
        """Return the furthest sound checkpoint that is of this trial, its tensors on the CPU; None without one."""
        if self._folder is None:
            return None
        return next((state for _, state in _sound(self._folder) if state["identity"] == self._identity), None)

    def remove(self) -> None:
        """Remove them."""
        if self._folder is not None:
            remove_checkpoints(self._folder)


def write_checkpoint(folder: Path, identity: str, state: State) -> None:
    """Write a checkpoint over the older of the two in `folder`, whole or not at all.

    Raises:
        OSError: it cannot be written; both that were there are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"identity": identity, **state}, buffer)
    content = buffer.getbuffer()
    newest = next((name for name, _ in _sound(folder)), None)
    path = folder / next(name for name in FILES if name != newest)
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as stream:
            stream.write(hashlib.sha256(content).digest())
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints in `folder`, and the folder if nothing else is in it."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _sound(folder: Path) -> list[tuple[str, State]]:
    """Return name and content of each checkpoint that is what was written, the furthest first."""
    found = [(name, state) for name in FILES if (state := _read(folder / name)) is not None]
    return sorted(found, key=lambda one: -one[1]["seen"])


def _read(path: Path) -> State | None:
    """Return what is in a file; None where it is not there, or not what was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    try:
        state: State = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError):
        # It is whole, so it is of another version of torch.
        return None
    return state
