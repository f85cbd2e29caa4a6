"""Trial files: the folder of a trial, the names of its checkpoints and weights by attempt, and their removal."""

import logging
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from hpo.files.disk import remove_partial_files, why_not_written
from hpo.files.remote import NO_REMOTE, RemoteFiles

TRIAL_FOLDER = re.compile(r"trial-(\d{4,})")
CHECKPOINT = re.compile(r"checkpoint-(?:(\d+)-)?[ab]\.pt")
WEIGHTS = re.compile(r"weights(?:-(\d+))?\.safetensors")
"""Names of these files; without an attempt they are of the first, or of an earlier version, which wrote none."""
CHECKPOINT_OR_WEIGHTS = re.compile(f"{CHECKPOINT.pattern}|{WEIGHTS.pattern}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFiles:
    """Where an attempt at a trial keeps its checkpoints and weights.

    Files of each attempt have names of their own: one that is taken for dead and still writes spoils none of the next.
    """

    root: Path
    """The study's files folder, or that of its confirmation; made where it is not there."""
    trial: int
    attempt: int = 1
    disk_gib: float | None = None
    """GiB that all weights and checkpoints of the study may take; None for as much as is free."""
    remote: RemoteFiles = NO_REMOTE

    @property
    def folder(self) -> Path:
        """The trial's own folder."""
        return trial_folder(self.root, self.trial)


def trial_folder(root: Path, trial: int) -> Path:
    """Return the folder of `trial` below the study's files folder."""
    return root / f"trial-{trial:04d}"


def attempt_of(name: str, pattern: re.Pattern[str]) -> int:
    """Return which attempt wrote the file of this name, from 1; 0 where it is no such file."""
    matched = pattern.fullmatch(name)
    return 0 if matched is None else int(matched[1] or 1)


def files_in(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the files of a folder by that pattern, those of the latest attempt first; none without the folder."""
    found = [path for path in folder.glob("*") if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: (-attempt_of(path.name, pattern), path.name))


def remove_files(folder: Path, pattern: re.Pattern[str]) -> None:
    """Remove the files of a trial's folder by that pattern, those half written, and it if nothing else is in it."""
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
    """Remove the files of all other trials, here and remotely; what cannot be removed is logged, and stays.

    Args:
        folder: the study's files folder, or that of its confirmation.
        trials: those that have not ended: theirs are left alone, as a worker may write them now.
        weights_of: those that have ended and whose weights are kept, without checkpoints.
        remote: of the folder.
        among: trials whose files may be there; None for all, which are then listed.
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
        # Only room on the disk is lost by it, and the next search tries again.
        logger.warning("%s could not be removed: %s.", failure.filename or folder, why_not_written(failure))
