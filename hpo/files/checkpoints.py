"""Checkpoints: the full state of a trial in training, in files with digests that detect damage.

Two files are written alternately: if one is damaged, the other is used. A checkpoint is resumed only for the same
assignment, texts, model and precision. Writing and reading one takes no additional memory: tensors are streamed to the
disk, and mapped from it. If the study has remote files, each checkpoint is uploaded when it is complete, and a trial
resumes from the furthest undamaged one of both places.
"""

import hashlib
import logging
import pickle
import re
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from hpo.files.disk import ToleratedFailures, refuse_full, remove_partial_files, replacing, why_not_written
from hpo.files.remote import NO_REMOTE, RemoteFiles

TRIAL_FOLDER = re.compile(r"trial-(\d{4,})")
CHECKPOINT = re.compile(r"checkpoint-(?:(\d+)-)?[ab]\.pt")
WEIGHTS = re.compile(r"weights(?:-(\d+))?\.safetensors")
"""Names of these files; those without an attempt are of the first attempt, or of an earlier version of hpo."""
CHECKPOINT_OR_WEIGHTS = re.compile(f"{CHECKPOINT.pattern}|{WEIGHTS.pattern}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFiles:
    """Place of the checkpoints and weights of an attempt at a trial.

    Each attempt has its own file names: an attempt that is presumed dead but still writes cannot damage the next one's
    files.
    """

    root: Path
    """The study's files folder, or that of its confirmation; created if missing."""
    trial: int
    attempt: int = 1
    disk_gib: float | None = None
    """Largest size in GiB of all weights and checkpoints of the study; None for all free space."""
    remote: RemoteFiles = NO_REMOTE

    @property
    def folder(self) -> Path:
        """The trial's own folder."""
        return trial_folder(self.root, self.trial)


def trial_folder(root: Path, trial: int) -> Path:
    """Return the folder of `trial` below the study's files folder."""
    return root / f"trial-{trial:04d}"


def attempt_of(name: str, pattern: re.Pattern[str]) -> int:
    """Return the attempt that wrote the file of this name, from 1; 0 if it is no such file."""
    matched = pattern.fullmatch(name)
    return 0 if matched is None else int(matched[1] or 1)


def files_in(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the files of a folder by that pattern, the latest attempt first; empty if there is no folder."""
    found = [path for path in folder.glob("*") if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: (-attempt_of(path.name, pattern), path.name))


def remove_files(folder: Path, pattern: re.Pattern[str]) -> None:
    """Remove the files of a trial's folder by that pattern, partly written ones, and the folder if then empty."""
    for path in files_in(folder, pattern):
        path.unlink(missing_ok=True)
    remove_partial_files(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def keep_only(
    folder: Path,
    trials: Set[int],
    weights_of: Set[int],
    remote: RemoteFiles = NO_REMOTE,
    *,
    among: Set[int] | None = None,
) -> None:
    """Remove the files of all other trials, here and remotely; files that cannot be removed are logged, and stay.

    Args:
        folder: the study's files folder, or that of its confirmation.
        trials: unfinished trials, whose files are kept, because a worker may be writing them.
        weights_of: finished trials whose weights are kept, without checkpoints.
        remote: of the folder.
        among: trials that may have files; None for all, which are then listed.
    """
    failure: OSError | None = None
    if among is None:
        paths = {*folder.glob("trial-*"), *remote.entries(folder)}
    else:
        paths = {trial_folder(folder, trial) for trial in among}
    for path in paths:
        named = TRIAL_FOLDER.fullmatch(path.name)
        if named is None or int(named[1]) in trials:
            continue
        removed = CHECKPOINT if int(named[1]) in weights_of else CHECKPOINT_OR_WEIGHTS
        remote.remove(path, removed.fullmatch)
        try:
            remove_files(path, removed)
        except OSError as error:
            failure = error
    if failure is not None:
        # This costs only disk space, and the next search tries again.
        logger.warning("%s could not be removed: %s.", failure.filename or folder, why_not_written(failure))


# Appended to torch's archive, which is read from its front: the trial's progress, and a digest of everything before.
SEEN_BYTES = 8
DIGEST_BYTES = 32
READ_BYTES = 2**20
MOST_OF_TIME = 0.03
"""Share of the training time that checkpoints may take."""
ASSUMED_BYTES_PER_SECOND = 100e6
"""Assumed write speed, until a checkpoint was written."""
SECONDS_TO_RETRY = 60.0
"""Seconds of training until the next attempt, after one that could not be written or uploaded."""

State = Mapping[str, Any]


class Checkpoints:
    """Checkpoints of one attempt at a trial: when the next is due, and where they are."""

    def __init__(self, files: TrialFiles, identity: str) -> None:
        """Resume only from checkpoints with this identity."""
        self._files, self._identity, self._names = files, identity, checkpoint_names(files.attempt)
        self._due: float | None = None
        self._newest: Path | None = None
        self._has_earlier = files.attempt > 1
        """True if checkpoints of earlier attempts may have a remote copy."""
        self._failures = ToleratedFailures(f"No checkpoint was written to {files.folder}")

    def is_due(self, seconds: float, tensor_bytes: int) -> bool:
        """Return true if writing `tensor_bytes` is cheap compared with that many seconds of training."""
        if self._due is None:
            self._due = seconds + tensor_bytes / ASSUMED_BYTES_PER_SECOND / MOST_OF_TIME
        return seconds >= self._due

    def save(self, state: State, seconds: float) -> None:
        """Write `state` over the older file, and upload it; a failure is logged once, and retried later.

        Args:
            state: tensors, numbers, strings, and lists and mappings of them; `seen` is the trial's progress.
            seconds: of training so far.
        """
        began, before, is_sent = time.perf_counter(), self._newest, False
        with self._failures.tolerated():
            is_sent = self._files.remote.send(self._write(state))
            if is_sent and self._has_earlier:
                self._remove_earlier(before)
        apart = (time.perf_counter() - began) / MOST_OF_TIME
        self._due = seconds + (apart if is_sent else max(apart, SECONDS_TO_RETRY))

    def load(self) -> State | None:
        """Return the furthest undamaged checkpoint of this trial, its tensors mapped from the file; None without one.

        Copy the tensors that are kept: the file's disk space is not freed while one of them exists.
        """
        folder, remote = self._files.folder, self._files.remote
        remove_partial_files(folder)
        here = [(_seen(path), _read, path) for path in files_in(folder, CHECKPOINT)]
        there = [
            (remote.read(path, _seen_in, -1), self._fetched, path)
            for path in sorted(remote.entries(folder))
            if CHECKPOINT.fullmatch(path.name)
        ]
        # Of two with equal progress, prefer the local one: the sort is stable.
        by_progress = sorted([*here, *there], key=lambda one: (_attempt(one[2]), one[0]), reverse=True)
        for _, read, path in by_progress:
            state = read(path) if _attempt(path) <= self._files.attempt else None
            if state is not None and state["identity"] == self._identity:
                self._newest = path
                return state
        return None

    def remove(self) -> None:
        """Remove the checkpoints of all attempts, and partly written files."""
        remove_files(self._files.folder, CHECKPOINT)
        self._files.remote.remove(self._files.folder, CHECKPOINT.fullmatch)

    def release(self) -> None:
        """Remove uploaded files from the folder: the trial may resume elsewhere, and this disk would not be cleared."""
        for name in self._names:
            self._files.remote.release(self._files.folder / name)

    def _remove_earlier(self, before: Path | None) -> None:
        """Remove the remote copies of earlier attempts' files, except those of the attempt before the newest."""
        kept = None if before is None or before.name in self._names else before.name
        self._files.remote.remove(self._files.folder, lambda name: self._is_earlier(name) and name != kept)
        self._has_earlier = kept is not None

    def _is_earlier(self, name: str) -> bool:
        """Return true if a file is a checkpoint of an earlier attempt."""
        return 0 < attempt_of(name, CHECKPOINT) < self._files.attempt

    def _fetched(self, path: Path) -> State | None:
        """Return the content of a file's remote copy, mapped from an unnamed file; None without one."""
        fetched, remote = path.with_name(f"{path.name}.fetched.part"), self._files.remote
        try:
            return _read(fetched, remote.shown(path)) if remote.fetch(path, fetched) else None
        finally:
            fetched.unlink(missing_ok=True)

    def _write(self, state: State) -> Path:
        """Write the next file, and return it."""
        folder = self._files.folder
        folder.mkdir(parents=True, exist_ok=True)
        path = next(path for path in (folder / name for name in self._names) if path != self._newest)
        earlier = [one for one in files_in(folder, CHECKPOINT) if self._is_earlier(one.name) and one != self._newest]
        replaced = [*earlier, path] if path.exists() else earlier
        freed = sum(one.stat().st_size for one in replaced)
        refuse_full(folder.parent, _tensor_bytes(state), self._files.disk_gib, freed)
        # Not overwritten, because tensors may be mapped from it. Not kept until the new one is complete, because that
        # would make three.
        for one in replaced:
            one.unlink(missing_ok=True)
        write_checkpoint(path, {"identity": self._identity, **state})
        self._newest = path
        return path


def write_checkpoint(path: Path, state: State) -> None:
    """Write `state` to a file, completely or not at all, copying only one tensor of a GPU at a time.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as part, part.open("wb") as file:
        hashed = _HashingFile(file)
        try:
            torch.save(state, hashed)  # type: ignore[arg-type]
        except RuntimeError as error:
            # torch closes its archive even if the disk is full, which raises another error.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        hashed.write(state["seen"].to_bytes(SEEN_BYTES, "big"))
        file.write(hashed.digest())


def checkpoint_names(attempt: int) -> tuple[str, str]:
    """Return the names of the two files that an attempt writes alternately."""
    of = f"{attempt}-" if attempt > 1 else ""
    return f"checkpoint-{of}a.pt", f"checkpoint-{of}b.pt"


def _attempt(path: Path) -> int:
    return attempt_of(path.name, CHECKPOINT)


class _HashingFile:
    """Output of torch's archive: a file, and a digest of everything written to it."""

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
    """Return the bytes of all tensors in nested lists and mappings."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_tensor_bytes, value.values()))
    return sum(map(_tensor_bytes, value)) if isinstance(value, list | tuple) else 0


def _seen(path: Path) -> int:
    """Return the progress in the end of a file that may be damaged; -1 without one."""
    try:
        with path.open("rb") as file:
            return _seen_in(file)
    except OSError:
        return -1


def _seen_in(file: IO[bytes]) -> int:
    """Return the progress in the end of an open file; -1 if it is too short."""
    end = file.seek(0, 2) - SEEN_BYTES - DIGEST_BYTES
    if end < 0:
        return -1
    file.seek(end)
    return int.from_bytes(file.read(SEEN_BYTES), "big")


def _read(path: Path, shown: Path | str | None = None) -> State | None:
    """Return the content of a file; None if it does not exist or is damaged, which is logged with the name `shown`."""
    why = "is damaged, and is not used"
    try:
        if _is_sound(path):
            state: State = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            return state
    except FileNotFoundError:
        return None
    except OSError as error:
        why = f"cannot be read: {why_not_written(error)}"
    except (RuntimeError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        why = f"is whole, but this version of torch does not read it: {first}"
    logger.warning("The checkpoint %s %s.", shown or path, why)
    return None


def _is_sound(path: Path) -> bool:
    """Return true if the digest at the end of a file matches its content."""
    left = path.stat().st_size - DIGEST_BYTES
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(max(0, min(left, READ_BYTES))):
            found.update(chunk)
            left -= len(chunk)
        return not left and file.read() == found.digest()
