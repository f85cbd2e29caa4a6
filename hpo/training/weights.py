"""Where a trial's trained weights are kept: one safetensors file a trial, written whole or not at all, and then sent
to the mirror of the study's files where there is one."""

import json
import logging
import re
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import IO

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hpo.errors import NoResultError
from hpo.messages import Report
from hpo.training.checkpoints import FILES, remove_checkpoints
from hpo.training.disk import can_go_without, refuse_full, replacing, why_not_written
from hpo.training.mirror import NO_MIRROR, Mirror

FOLDER = re.compile(r"trial-(\d{4,})")
FILE = "weights.safetensors"
# Of the format: how long its header is comes first, and may not be more.
LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000

logger = logging.getLogger(__name__)


class Weights:
    """Those of one trial: of its best full report so far, or none."""

    def __init__(
        self, folder: Path | None, trial: int, most_gib: float | None = None, mirror: Mirror = NO_MIRROR
    ) -> None:
        """Keep them below `folder`, the study's files folder, or nowhere.

        Args:
            folder: made where it is not there.
            trial: the trial's number.
            most_gib: GiB that all weights and checkpoints of the study may take; None for as much as is free.
            mirror: of the study's folder.
        """
        self._folder, self._trial, self._most_gib, self._mirror = folder, trial, most_gib, mirror
        self._is_unsent = False
        self._has_told = False

    def keep(self, report: Report, tensors: Mapping[str, Tensor]) -> None:
        """Put these in the place of earlier ones; where there is no room, that is told once and there are none.

        Where they cannot be sent they stay in the folder, and are sent at the end of the attempt.

        Args:
            report: the evaluation of exactly these weights.
            tensors: name -> trained parameter.
        """
        if self._folder is None:
            return
        try:
            path = save_weights(self._folder, self._trial, tensors, header_of(report), most_gib=self._most_gib)
            self._is_unsent = not self._mirror.send(path)
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
        path = weights_path(self._folder, self._trial)
        if best is not None and weights_are_of(self._folder, best):
            # A process that was killed may not have come to send them.
            self._is_unsent = not (_is_mirrored(path, best, self._mirror) or self._mirror.send(path))
        elif best is not None and _is_mirrored(path, best, self._mirror):
            path.unlink(missing_ok=True)
        else:
            self.remove()

    def remove(self) -> None:
        """Remove them."""
        if self._folder is not None:
            path = weights_path(self._folder, self._trial)
            path.unlink(missing_ok=True)
            self._mirror.remove(path.parent, {FILE})
            self._is_unsent = False

    def release(self) -> None:
        """Remove them from the folder if they were sent; what could not be is tried once more."""
        if self._folder is not None:
            path = weights_path(self._folder, self._trial)
            if self._is_unsent:
                self._is_unsent = not self._mirror.send(path)
            self._mirror.release(path)

    def _tell(self, error: Exception) -> None:
        if not self._has_told:
            logger.warning(
                "No weights of trial %d were kept in %s: %s.", self._trial, self._folder, why_not_written(error)
            )
        self._has_told = True


def weights_path(folder: Path, trial: int) -> Path:
    """Return where the weights of `trial` are kept below the study's files folder."""
    return trial_folder(folder, trial) / FILE


def trial_folder(folder: Path, trial: int) -> Path:
    """Return the folder of `trial` below the study's files folder: its weights, and its checkpoints."""
    return folder / f"trial-{trial:04d}"


def save_weights(
    folder: Path, trial: int, tensors: Mapping[str, Tensor], about: Mapping[str, str], *, most_gib: float | None = None
) -> Path:
    """Write the trained weights of a trial, replacing earlier ones at once or leaving them whole; return the file.

    Args:
        folder: the study's files folder; made where it is not there.
        trial: the trial's number.
        tensors: name -> trained parameter; what was frozen is the pretrained model's.
        about: facts for whoever finds the file, stored in its header.
        most_gib: GiB that all weights and checkpoints of the study may take; None for as much as is free.

    Raises:
        OSError: it cannot be written.
    """
    path = weights_path(folder, trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_full(folder, sum(tensor.nbytes for tensor in tensors.values()), most_gib)
    with replacing(path) as part:
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part, dict(about))
        except SafetensorError as error:
            raise OSError(str(error)) from error
    return path


def load_weights(folder: Path, trial: int, mirror: Mirror = NO_MIRROR) -> dict[str, Tensor]:
    """Read the trained weights of a trial, on the CPU; they are fetched where they are not in its folder.

    Raises:
        NoResultError: none were kept.
    """
    path = weights_path(folder, trial)
    if not path.is_file() and not mirror.fetch(path, path):
        raise NoResultError(f"No weights of trial {trial} were kept: there is no {path}; train the trial again.")
    return load_file(path)


def header_of(report: Report) -> dict[str, str]:
    """Return what stands in the header of a file of weights that scored as `report` says."""
    return {
        "trial": str(report.trial),
        "attempt": str(report.attempt),
        "rung": str(report.rung),
        "metric": report.validation.metric,
        "score": repr(report.validation.objective),
    }


def weights_are_of(folder: Path, report: Report) -> bool:
    """Return whether the weights that are kept of a trial are those of this evaluation, not of another one of it.

    Args:
        folder: the study's files folder.
        report: a full report, as it came from the worker: its attempt, rung and score to the last bit.
    """
    try:
        with safe_open(weights_path(folder, report.trial), "pt") as file:
            return (file.metadata() or {}) == header_of(report)
    except (OSError, SafetensorError):
        # None were kept, or what is there is no whole file of weights.
        return False


def fetch_weights_of(folder: Path, report: Report, mirror: Mirror) -> bool:
    """Return whether the weights of this very evaluation are in `folder`, to which they are fetched where need be.

    Args:
        folder: the study's files folder.
        report: a full report, as `weights_are_of` takes it.
        mirror: of the folder.
    """
    if weights_are_of(folder, report):
        return True
    path = weights_path(folder, report.trial)
    return _is_mirrored(path, report, mirror) and mirror.fetch(path, path) and weights_are_of(folder, report)


def keep_only(folder: Path, trials: Set[int], weights_of: Set[int], mirror: Mirror = NO_MIRROR) -> None:
    """Remove the files of all other trials, here and there; what cannot be removed is told, and stays.

    Args:
        folder: the study's files folder, or that of its confirmation.
        trials: those that are not over: theirs are left alone, as a worker may write them now.
        weights_of: those that are over and of which the weights are kept, without checkpoints.
        mirror: of the folder.
    """
    failure: OSError | None = None
    for path in {*folder.glob("trial-*"), *mirror.folders(folder)}:
        named = FOLDER.fullmatch(path.name)
        if named is None or int(named[1]) in trials:
            continue
        going = FILES if int(named[1]) in weights_of else (*FILES, FILE)
        mirror.remove(path, going)
        try:
            if FILE in going:
                (path / FILE).unlink(missing_ok=True)
            remove_checkpoints(path)
        except OSError as error:
            failure = error
    if failure is not None:
        # Only room on the disk is lost by it, and the next ending tries again.
        logger.warning("%s could not be removed: %s.", failure.filename or folder, why_not_written(failure))


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
