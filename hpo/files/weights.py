"""Weights of a trial: one safetensors file, written whole or not at all, whose header says of which evaluation it is.

Where the study has remote files, it is sent there once it is written.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from hpo.errors import NoResultError
from hpo.files.checkpoints import WEIGHTS, TrialFiles, attempt_of, files_in, trial_folder
from hpo.files.disk import ToleratedFailures, refuse_full, save_tensors
from hpo.files.remote import NO_REMOTE, RemoteFiles
from hpo.messages import Report

FITTED = "hpo.fitted"
"""Name of what was fitted to rows, among the weights."""
# Of the format: how long its header is comes first, and may not be more.
LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000


class Weights:
    """Those of one trial: of its best full report so far, or none."""

    def __init__(self, files: TrialFiles) -> None:
        self._files = files
        self._path: Path | None = None
        """The file that is kept."""
        self._is_unsent = False
        self._failures = ToleratedFailures(f"No weights of trial {files.trial} were kept in {files.root}")

    def keep(self, report: Report, tensors: Mapping[str, Tensor], fitted: NDArray[np.float64] | None = None) -> None:
        """Put these in the place of earlier ones; where there is no room, that is logged once and there are none.

        Where they cannot be sent they stay in the folder, and are sent at the end of the attempt.

        Args:
            report: the evaluation of exactly these weights.
            tensors: name -> trained parameter.
            fitted: what the task has fitted to rows; None where that is nothing.
        """
        if fitted is not None:
            tensors = {**tensors, FITTED: torch.from_numpy(fitted)}
        with self._failures.tolerated():
            path = save_weights(self._files, tensors, header_of(report))
            self._is_unsent = not self._files.remote.send(path)
            self._remove_others(path)
            return
        # On a disk that has become read-only they stay; their header says of what they are.
        with suppress(OSError):
            self.remove()

    def keep_only_of(self, best: Report | None) -> None:
        """Remove them unless they are of this report: an earlier attempt, or another study, left others."""
        here = there = None
        if best is not None:
            paths, remote = _paths_of(self._files.root, best), self._files.remote
            here = next((path for path in paths if _header_at(path) == header_of(best)), None)
            there = next((path for path in paths if _is_remote(path, best, remote)), None)
        if here is not None:
            # A process that was killed may not have come to send them.
            self._is_unsent = not (here == there or self._files.remote.send(here))
        if here is None and there is None:
            self.remove()
        else:
            self._remove_others(here or there, is_here=here is not None)

    def remove(self) -> None:
        """Remove them."""
        self._is_unsent = False
        self._remove_others(None)

    def release(self) -> None:
        """Remove them from the folder if they were sent; what could not be is tried once more."""
        if self._path is not None:
            if self._is_unsent:
                self._is_unsent = not self._files.remote.send(self._path)
            self._files.remote.release(self._path)

    def _remove_others(self, kept: Path | None, *, is_here: bool = True) -> None:
        """Remove what this attempt and earlier ones left beside the file that is kept, here and remotely."""
        self._path = kept

        def is_removed(name: str) -> bool:
            own = attempt_of(name, WEIGHTS) in range(1, self._files.attempt + 1)
            return own and (kept is None or name != kept.name)

        for path in files_in(self._files.folder, WEIGHTS):
            if is_removed(path.name) or (path == kept and not is_here):
                path.unlink(missing_ok=True)
        # What a first attempt keeps has replaced what it kept before.
        if kept is None or self._files.attempt > 1:
            self._files.remote.remove(self._files.folder, is_removed)


def weights_path(root: Path, trial: int, attempt: int = 1) -> Path:
    """Return where an attempt at `trial` keeps its weights below the study's files folder."""
    return trial_folder(root, trial) / (f"weights-{attempt}.safetensors" if attempt > 1 else "weights.safetensors")


def save_weights(files: TrialFiles, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
    """Write the trained weights of a trial, replacing earlier ones at once or leaving them whole; return the file.

    Args:
        files: of the attempt that has trained them.
        tensors: name -> trained parameter; what was frozen is the pretrained model's.
        about: facts for whoever finds the file, stored in its header.

    Raises:
        OSError: it cannot be written.
    """
    path = weights_path(files.root, files.trial, files.attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_full(files.root, sum(tensor.nbytes for tensor in tensors.values()), files.disk_gib)
    save_tensors(path, {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, about)
    return path


def fitted_among(tensors: dict[str, Tensor]) -> NDArray[np.float64] | None:
    """Take what was fitted to rows out of the weights of a trial; None where that is nothing."""
    fitted = tensors.pop(FITTED, None)
    return None if fitted is None else fitted.numpy()


def load_weights(root: Path, trial: int, remote: RemoteFiles = NO_REMOTE) -> dict[str, Tensor]:
    """Read the trained weights of a trial, on the CPU, of the latest attempt that kept any.

    They are fetched where they are not in its folder.

    Raises:
        NoResultError: none were kept.
    """
    folder = trial_folder(root, trial)
    if here := files_in(folder, WEIGHTS):
        return load_file(here[0])
    path = max(remote.entries(folder), key=lambda path: attempt_of(path.name, WEIGHTS), default=None)
    if path is None or not attempt_of(path.name, WEIGHTS) or not remote.fetch(path, path):
        raise NoResultError(f"No weights of trial {trial} were kept in {folder}; train the trial again.")
    return load_file(path)


def header_of(report: Report) -> dict[str, str]:
    """Return what stands in the header of a file of weights that scored as `report` says."""
    numbers = {name: str(getattr(report, name)) for name in ("trial", "attempt", "rung")}
    return {**numbers, "metric": report.validation.metric, "score": repr(report.validation.objective)}


def weights_are_of(root: Path, report: Report) -> bool:
    """Return whether the weights that are kept of a trial are those of this evaluation, not of another one of it.

    Args:
        root: the study's files folder.
        report: a full report, as it came from the worker: its attempt, rung and score to the last bit.
    """
    return any(_header_at(path) == header_of(report) for path in _paths_of(root, report))


def fetch_weights_of(root: Path, report: Report, remote: RemoteFiles) -> bool:
    """Return whether the weights of this very evaluation are in `root`, to which they are fetched where need be.

    Args:
        root: the study's files folder.
        report: a full report, as `weights_are_of` takes it.
        remote: of the folder.
    """
    if weights_are_of(root, report):
        return True
    there = next((path for path in _paths_of(root, report) if _is_remote(path, report, remote)), None)
    return there is not None and remote.fetch(there, there) and weights_are_of(root, report)


def _paths_of(root: Path, report: Report) -> list[Path]:
    """Return where the weights of an evaluation may be: an earlier version wrote no attempt into the name."""
    return [weights_path(root, report.trial, attempt) for attempt in dict.fromkeys((report.attempt, 1))]


def _header_at(path: Path) -> dict[str, str] | None:
    """Return what `header_of` gave to a file of weights; None where there is no whole one."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return None


def _is_remote(path: Path, report: Report, remote: RemoteFiles) -> bool:
    """Return whether the remote copy of a file of weights is of this evaluation; only its header is read."""
    return remote.read(path, _header_in, None) == header_of(report)


def _header_in(file: IO[bytes]) -> dict[str, str] | None:
    """Return what `header_of` gave to an open file of weights; None where it is no such file."""
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    try:
        header = json.loads(file.read(length)) if length <= LONGEST_HEADER else {}
    except ValueError:
        return None
    return header.get("__metadata__") if isinstance(header, dict) else None
