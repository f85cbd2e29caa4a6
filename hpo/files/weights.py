"""Trained weights of a trial, as they are kept: one safetensors file, written whole or not at all, and then sent to the
mirror of the study's files where there is one. Its name tells the attempt: one that is taken for dead and still writes
spoils nothing of the one that goes on."""

import json
import logging
import re
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hpo.errors import NoResultError
from hpo.files.disk import can_go_without, refuse_full, replacing, why_not_written
from hpo.files.remote import NO_MIRROR, Mirror
from hpo.messages import Report
from hpo.training.checkpoints import is_checkpoint, remove_checkpoints

FOLDER = re.compile(r"trial-(\d{4,})")
WEIGHTS = re.compile(r"weights(?:-(\d+))?\.safetensors")
"""Name of such a file; without an attempt it is of the first, or of an earlier version, which told none."""
FITTED = "hpo.fitted"
"""Name of what was fitted to rows, among the weights."""
# Of the format: how long its header is comes first, and may not be more.
LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000

logger = logging.getLogger(__name__)


class Weights:
    """Those of one trial: of its best full report so far, or none."""

    def __init__(
        self,
        folder: Path | None,
        trial: int,
        most_gib: float | None = None,
        mirror: Mirror = NO_MIRROR,
        attempt: int = 1,
    ) -> None:
        """Keep them below `folder`, the study's files folder, or nowhere.

        Args:
            folder: made where it is not there.
            trial: the trial's number.
            most_gib: GiB that all weights and checkpoints of the study may take; None for as much as is free.
            mirror: of the study's folder.
            attempt: which keeps them.
        """
        self._folder, self._trial, self._most_gib, self._mirror = folder, trial, most_gib, mirror
        self._attempt = attempt
        self._path: Path | None = None
        """The file that is kept."""
        self._is_unsent = False
        self._has_told = False

    def keep(self, report: Report, tensors: Mapping[str, Tensor], fitted: NDArray[np.float64] | None = None) -> None:
        """Put these in the place of earlier ones; where there is no room, that is told once and there are none.

        Where they cannot be sent they stay in the folder, and are sent at the end of the attempt.

        Args:
            report: the evaluation of exactly these weights.
            tensors: name -> trained parameter.
            fitted: what the task has fitted to rows; None where that is nothing.
        """
        if self._folder is None:
            return
        if fitted is not None:
            tensors = {**tensors, FITTED: torch.from_numpy(fitted)}
        try:
            path = save_weights(
                self._folder, self._trial, tensors, header_of(report), most_gib=self._most_gib, attempt=self._attempt
            )
            self._is_unsent = not self._mirror.send(path)
            self._stay_alone(path)
        except (OSError, MemoryError, RuntimeError) as error:
            if not can_go_without(error):
                raise
            self._tell(error)
            # On a disk that has become read-only they stay; their header says of what they are.
            with suppress(OSError):
                self.remove()

    def keep_only_of(self, best: Report | None) -> None:
        """Remove them unless they are of this report: an earlier attempt, or another study, left others."""
        if self._folder is None:
            return
        paths = [] if best is None else _paths_of(self._folder, best)
        here = next((path for path in paths if best is not None and _header_at(path) == header_of(best)), None)
        there = next((path for path in paths if best is not None and _is_mirrored(path, best, self._mirror)), None)
        if here is not None:
            # A process that was killed may not have come to send them.
            self._is_unsent = not (here == there or self._mirror.send(here))
        if here is None and there is None:
            self.remove()
        else:
            self._stay_alone(here or there, also_here=here is not None)

    def remove(self) -> None:
        """Remove them."""
        self._path, self._is_unsent = None, False
        self._stay_alone(None)

    def release(self) -> None:
        """Remove them from the folder if they were sent; what could not be is tried once more."""
        if self._path is not None:
            if self._is_unsent:
                self._is_unsent = not self._mirror.send(self._path)
            self._mirror.release(self._path)

    def _stay_alone(self, kept: Path | None, *, also_here: bool = True) -> None:
        """Remove what this attempt and earlier ones left beside the file that is kept, there and here."""
        if self._folder is None:
            return
        self._path = kept

        def goes(name: str) -> bool:
            return _attempt(name) in range(1, self._attempt + 1) and (kept is None or name != kept.name)

        folder = trial_folder(self._folder, self._trial)
        for path in _weights_in(folder):
            if goes(path.name) or (path == kept and not also_here):
                path.unlink(missing_ok=True)
        # What a first attempt keeps stands in the place of what it kept before.
        if kept is None or self._attempt > 1:
            self._mirror.remove(folder, goes)

    def _tell(self, error: Exception) -> None:
        if not self._has_told:
            logger.warning(
                "No weights of trial %d were kept in %s: %s.", self._trial, self._folder, why_not_written(error)
            )
        self._has_told = True


def weights_path(folder: Path, trial: int, attempt: int = 1) -> Path:
    """Return where an attempt at `trial` keeps its weights below the study's files folder."""
    return trial_folder(folder, trial) / (f"weights-{attempt}.safetensors" if attempt > 1 else "weights.safetensors")


def is_weights(name: str) -> bool:
    """Return whether a file of that name has weights, whichever attempt wrote it."""
    return WEIGHTS.fullmatch(name) is not None


def _attempt(name: str) -> int:
    """Return which attempt wrote a file of weights; 0 where it is none."""
    named = WEIGHTS.fullmatch(name)
    return 0 if named is None else int(named[1] or 1)


def _weights_in(folder: Path) -> list[Path]:
    """Return the files of weights in a trial's folder, those of the latest attempt first."""
    found = [path for path in folder.glob("weights*.safetensors") if is_weights(path.name)]
    return sorted(found, key=lambda path: _attempt(path.name), reverse=True)


def _paths_of(folder: Path, report: Report) -> list[Path]:
    """Return where the weights of an evaluation may be: an earlier version told no attempt in the name."""
    return [weights_path(folder, report.trial, attempt) for attempt in dict.fromkeys((report.attempt, 1))]


def trial_folder(folder: Path, trial: int) -> Path:
    """Return the folder of `trial` below the study's files folder: its weights, and its checkpoints."""
    return folder / f"trial-{trial:04d}"


def save_weights(
    folder: Path,
    trial: int,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, str],
    *,
    most_gib: float | None = None,
    attempt: int = 1,
) -> Path:
    """Write the trained weights of a trial, replacing earlier ones at once or leaving them whole; return the file.

    Args:
        folder: the study's files folder; made where it is not there.
        trial: the trial's number.
        tensors: name -> trained parameter; what was frozen is the pretrained model's.
        about: facts for whoever finds the file, stored in its header.
        most_gib: GiB that all weights and checkpoints of the study may take; None for as much as is free.
        attempt: which has trained them.

    Raises:
        OSError: it cannot be written.
    """
    path = weights_path(folder, trial, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_full(folder, sum(tensor.nbytes for tensor in tensors.values()), most_gib)
    with replacing(path) as part:
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part, dict(about))
        except SafetensorError as error:
            raise OSError(str(error)) from error
    return path


def fitted_among(tensors: dict[str, Tensor]) -> NDArray[np.float64] | None:
    """Take what was fitted to rows out of the weights of a trial; None where that is nothing."""
    fitted = tensors.pop(FITTED, None)
    return None if fitted is None else fitted.numpy()


def load_weights(folder: Path, trial: int, mirror: Mirror = NO_MIRROR) -> dict[str, Tensor]:
    """Read the trained weights of a trial, on the CPU, of the latest attempt that kept any.

    They are fetched where they are not in its folder.

    Raises:
        NoResultError: none were kept.
    """
    of_trial = trial_folder(folder, trial)
    if here := _weights_in(of_trial):
        return load_file(here[0])
    there = [path for path in mirror.files(of_trial) if is_weights(path.name)]
    path = max(there, key=lambda path: _attempt(path.name), default=None)
    if path is None or not mirror.fetch(path, path):
        raise NoResultError(f"No weights of trial {trial} were kept in {of_trial}; train the trial again.")
    return load_file(path)


def header_of(report: Report) -> dict[str, str]:
    """Return what stands in the header of a file of weights that scored as `report` says."""
    numbers = {name: str(getattr(report, name)) for name in ("trial", "attempt", "rung")}
    return {**numbers, "metric": report.validation.metric, "score": repr(report.validation.objective)}


def weights_are_of(folder: Path, report: Report) -> bool:
    """Return whether the weights that are kept of a trial are those of this evaluation, not of another one of it.

    Args:
        folder: the study's files folder.
        report: a full report, as it came from the worker: its attempt, rung and score to the last bit.
    """
    return any(_header_at(path) == header_of(report) for path in _paths_of(folder, report))


def fetch_weights_of(folder: Path, report: Report, mirror: Mirror) -> bool:
    """Return whether the weights of this very evaluation are in `folder`, to which they are fetched where need be.

    Args:
        folder: the study's files folder.
        report: a full report, as `weights_are_of` takes it.
        mirror: of the folder.
    """
    if weights_are_of(folder, report):
        return True
    there = next((path for path in _paths_of(folder, report) if _is_mirrored(path, report, mirror)), None)
    return there is not None and mirror.fetch(there, there) and weights_are_of(folder, report)


def keep_only(
    folder: Path, trials: Set[int], weights_of: Set[int], mirror: Mirror = NO_MIRROR, *, among: Set[int] | None = None
) -> None:
    """Remove the files of all other trials, here and there; what cannot be removed is told, and stays.

    Args:
        folder: the study's files folder, or that of its confirmation.
        trials: those that are not over: theirs are left alone, as a worker may write them now.
        weights_of: those that are over and of which the weights are kept, without checkpoints.
        mirror: of the folder.
        among: trials whose files may be there; None for all, which are then listed.
    """
    failure: OSError | None = None
    if among is None:
        paths = {*folder.glob("trial-*"), *mirror.folders(folder)}
    else:
        paths = {trial_folder(folder, trial) for trial in among}
    for path in paths:
        named = FOLDER.fullmatch(path.name)
        if named is None or int(named[1]) in trials:
            continue
        keeps = int(named[1]) in weights_of
        mirror.remove(path, is_checkpoint if keeps else lambda name: is_checkpoint(name) or is_weights(name))
        try:
            for weights in () if keeps else _weights_in(path):
                weights.unlink(missing_ok=True)
            remove_checkpoints(path)
        except OSError as error:
            failure = error
    if failure is not None:
        # Only room on the disk is lost by it, and the next search tries again.
        logger.warning("%s could not be removed: %s.", failure.filename or folder, why_not_written(failure))


def _header_at(path: Path) -> dict[str, str] | None:
    """Return what `header_of` gave to a file of weights; None where there is no whole one."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return None


def _is_mirrored(path: Path, report: Report, mirror: Mirror) -> bool:
    """Return whether the twin of a file of weights is of this evaluation; only its header is read."""
    nothing: dict[str, str] = {}
    return mirror.look(path, _header_in, nothing) == header_of(report)


def _header_in(file: IO[bytes]) -> dict[str, str]:
    """Return what `header_of` gave to an open file of weights; nothing where it is no such file."""
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > LONGEST_HEADER:
        return {}
    try:
        header = json.loads(file.read(length))
    except ValueError:
        return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}
