"""Where a trial's trained weights are kept: one safetensors file a trial, written whole or not at all."""

import os
import re
from collections.abc import Mapping, Set
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from hpo.errors import NoResultError
from hpo.training.checkpoints import remove_checkpoints

FOLDER = re.compile(r"trial-(\d{4,})")
FILE = "weights.safetensors"


def weights_path(folder: Path, trial: int) -> Path:
    """Return where the weights of `trial` are kept below the study's files folder."""
    return trial_folder(folder, trial) / FILE


def trial_folder(folder: Path, trial: int) -> Path:
    """Return the folder of `trial` below the study's files folder: its weights, and its checkpoints."""
    return folder / f"trial-{trial:04d}"


def save_weights(folder: Path, trial: int, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
    """Write the trained weights of a trial, replacing earlier ones at once or leaving them whole; return the file.

    Args:
        folder: the study's files folder; made where it is not there.
        trial: the trial's number.
        tensors: name -> trained parameter; what was frozen is the pretrained model's.
        about: facts for whoever finds the file, stored in its header.
    """
    path = weights_path(folder, trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{FILE}.{os.getpid()}.part")
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part, dict(about))
        _flush(part)
        part.replace(path)
        _flush(path.parent)
    finally:
        part.unlink(missing_ok=True)
    return path


def load_weights(folder: Path, trial: int) -> dict[str, Tensor]:
    """Read the trained weights of a trial, on the CPU.

    Raises:
        NoResultError: none were kept.
    """
    path = weights_path(folder, trial)
    if not path.is_file():
        raise NoResultError(f"No weights of trial {trial} were kept: there is no {path}; train the trial again.")
    return load_file(path)


def keep_only(folder: Path, trials: Set[int]) -> None:
    """Remove the weights and checkpoints of every trial but `trials`."""
    for path in folder.glob("trial-*"):
        named = FOLDER.fullmatch(path.name)
        if named and int(named[1]) not in trials:
            (path / FILE).unlink(missing_ok=True)
            remove_checkpoints(path)


def _flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
