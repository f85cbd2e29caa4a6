"""Output folder: written beside its place and renamed at the end, so that it is complete or not there.

A killed process leaves what it had written. It held a lock, which the kernel releases, so the next process that writes
to the same place can tell what nobody uses any more, and removes it.
"""

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from shutil import rmtree

from hpo.errors import ConfigurationError
from hpo.export.writing import unwritable
from hpo.files.disk import flush

LOCK = "hpo.lock"


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder whose `model` is renamed to `output` at the end; always remove the rest.

    Raises:
        ConfigurationError: `output` exists and is not an empty folder, or cannot be written.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConfigurationError(f"Cannot write {output}: it is no folder; name another place with --output.")
    if output.is_dir() and any(output.iterdir()):
        raise ConfigurationError(
            f"The folder {output} is not empty, and what is in it would be mixed with the model; name another with "
            "--output, or empty it."
        )
    output = output.resolve()
    prefix, suffix = f".{output.name}-", ".part"
    _remove_abandoned(output.parent, f"{escape(prefix)}*{suffix}")
    try:
        with (
            tempfile.TemporaryDirectory(
                prefix=prefix, suffix=suffix, dir=output.parent, ignore_cleanup_errors=True
            ) as name,
            _locked(part := Path(name)),
        ):
            if output.is_dir():
                # To know it before hours of training: where a disk is mounted nothing can take the place of a folder.
                output.rename(part / "empty").rename(output)
            yield part
            model = part / "model"
            for path in (*model.rglob("*"), model):
                flush(path)
            os.replace(model, output)
            flush(output.parent)
    except OSError as error:
        raise unwritable(output, error) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from removing a new folder, until the block or this process ends."""
    new = folder / f"{LOCK}.new"
    with new.open("w", encoding="utf-8") as lock:
        # Without locks on this disk, nobody can tell whether the folder is in use, and it is never removed.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
            print(socket.gethostname(), end="", file=lock, flush=True)
            # Under its name it is locked from the first moment.
            new.rename(folder / LOCK)
        yield


def _remove_abandoned(parent: Path, pattern: str) -> None:
    """Remove the folders that killed processes of this machine have left; others may not see each other's locks."""
    for path in parent.glob(f"{pattern}/{LOCK}"):
        # Open for writing, which a lock on NFS needs.
        with suppress(OSError), path.open("r+", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.read() == socket.gethostname():
                rmtree(path.parent, ignore_errors=True)
