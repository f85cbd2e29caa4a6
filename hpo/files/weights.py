"""Weights of a trial: one safetensors file, written completely or not at all, with its evaluation in the header.

If the study has remote files, the file is uploaded when it is complete.
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
"""Name of the values that the task has fitted, among the weights."""
# Of the format: the length of its header comes first, and is limited.
LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000


class Weights:
    """Weights of one trial: those of its best full report so far, or none."""

    def __init__(self, files: TrialFiles) -> None:
        self._files = files
        self._path: Path | None = None
        """The current file."""
        self._is_unsent = False
        self._failures = ToleratedFailures(f"No weights of trial {files.trial} were kept in {files.root}")

    def keep(self, report: Report, tensors: Mapping[str, Tensor], fitted: NDArray[np.float64] | None = None) -> None:
        """Replace earlier weights by these; if there is no room, that is logged once and there are none.

        If they cannot be uploaded, they stay in the folder, and are uploaded at the end of the attempt.

        Args:
            report: the evaluation of exactly these weights.
            tensors: name -> trained parameter.
            fitted: values that the task has fitted; None if there are none.
        """
        if fitted is not None:
            tensors = {**tensors, FITTED: torch.from_numpy(fitted)}
        with self._failures.tolerated():
            path = save_weights(self._files, tensors, header_of(report))
            self._is_unsent = not self._files.remote.send(path)
            self._remove_others(path)
            return
        # On a disk that has become read-only they stay; their header names their evaluation.
        with suppress(OSError):
            self.remove()

    def keep_only_of(self, best: Report | None) -> None:
        """Remove the weights unless they are of this report: an earlier attempt, or another study, left others."""
        here = there = None
        if best is not None:
            paths, remote = _paths_of(self._files.root, best), self._files.remote
            here = next((path for path in paths if _header_at(path) == header_of(best)), None)
            there = next((path for path in paths if _is_remote(path, best, remote)), None)
        if here is not None:
            # A process that was killed may not have uploaded them.
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
        """Remove the weights from the folder if uploaded; failed uploads are tried once more."""
        if self._path is not None:
            if self._is_unsent:
                self._is_unsent = not self._files.remote.send(self._path)
            self._files.remote.release(self._path)

    def _remove_others(self, kept: Path | None, *, is_here: bool = True) -> None:
        """Remove other files of this attempt and earlier ones, here and remotely."""
        self._path = kept

        def is_removed(name: str) -> bool:
            own = attempt_of(name, WEIGHTS) in range(1, self._files.attempt + 1)
            return own and (kept is None or name != kept.name)

        for path in files_in(self._files.folder, WEIGHTS):
            if is_removed(path.name) or (path == kept and not is_here):
                path.unlink(missing_ok=True)
        # The weights of a first attempt have replaced its own earlier ones.
        if kept is None or self._files.attempt > 1:
            self._files.remote.remove(self._files.folder, is_removed)


def weights_path(root: Path, trial: int, attempt: int = 1) -> Path:
    """Return the path of an attempt's weights of `trial` below the study's files folder."""
    return trial_folder(root, trial) / (f"weights-{attempt}.safetensors" if attempt > 1 else "weights.safetensors")


def save_weights(files: TrialFiles, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
    """Write the trained weights of a trial, replacing earlier ones at once or leaving them unchanged; return the file.

    Args:
        files: of the attempt that has trained them.
        tensors: name -> trained parameter; frozen ones are in the pretrained model.
        about: facts for readers of the file, stored in its header.

    Raises:
        OSError: it cannot be written.
    """
    path = weights_path(files.root, files.trial, files.attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_full(files.root, sum(tensor.nbytes for tensor in tensors.values()), files.disk_gib)
    save_tensors(path, {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, about)
    return path


def fitted_among(tensors: dict[str, Tensor]) -> NDArray[np.float64] | None:
    """Remove the fitted values from the weights of a trial and return them; None if there are none."""
    fitted = tensors.pop(FITTED, None)
    return None if fitted is None else fitted.numpy()


def load_weights(root: Path, trial: int, remote: RemoteFiles = NO_REMOTE) -> dict[str, Tensor]:
    """Read the trained weights of a trial, on the CPU, of the latest attempt that kept any.

    They are downloaded if they are not in its folder.

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
    """Return the header of a file of weights with the evaluation `report`."""
    numbers = {name: str(getattr(report, name)) for name in ("trial", "attempt", "rung")}
    return {**numbers, "metric": report.validation.metric, "score": repr(report.validation.objective)}


def weights_are_of(root: Path, report: Report) -> bool:
    """Return true if the kept weights of a trial are those of exactly this evaluation.

    Args:
        root: the study's files folder.
        report: a full report from the worker: its attempt, rung and exact score are compared.
    """
    return any(_header_at(path) == header_of(report) for path in _paths_of(root, report))


def fetch_weights_of(root: Path, report: Report, remote: RemoteFiles) -> bool:
    """Return true if the weights of this evaluation are in `root`; they are downloaded if needed.

    Args:
        root: the study's files folder.
        report: a full report, as for `weights_are_of`.
        remote: of the folder.
    """
    if weights_are_of(root, report):
        return True
    there = next((path for path in _paths_of(root, report) if _is_remote(path, report, remote)), None)
    return there is not None and remote.fetch(there, there) and weights_are_of(root, report)


def _paths_of(root: Path, report: Report) -> list[Path]:
    """Return possible paths of the weights of an evaluation: an earlier version had no attempt in the name."""
    return [weights_path(root, report.trial, attempt) for attempt in dict.fromkeys((report.attempt, 1))]


def _header_at(path: Path) -> dict[str, str] | None:
    """Return the header that a file of weights got from `header_of`; None without a complete file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return None


def _is_remote(path: Path, report: Report, remote: RemoteFiles) -> bool:
    """Return true if the remote copy of a file of weights is of this evaluation; only its header is read."""
    return remote.read(path, _header_in, None) == header_of(report)


def _header_in(file: IO[bytes]) -> dict[str, str] | None:
    """Return the header that an open file of weights got from `header_of`; None if it is no such file."""
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    try:
        header = json.loads(file.read(length)) if length <= LONGEST_HEADER else {}
    except ValueError:
        return None
    return header.get("__metadata__") if isinstance(header, dict) else None
