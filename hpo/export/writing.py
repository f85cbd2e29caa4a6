"""File output: atomic writing of a file that the user names, never over a file of another kind."""

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from hpo.errors import ConfigurationError
from hpo.store.database import sqlite_path

Start = str | re.Pattern[str]
"""Start of every file of a kind, or a pattern of its first line."""
STREAMS = ("/dev/stdout", "/dev/stderr")
FOLDERS_OF_STREAMS = ("/dev/fd", "/proc/self/fd")
LONGEST_LINE = 2**20
"""Longest first line that is read, in characters."""
BESIDE_A_DATABASE = ("-wal", "-shm", "-journal")


def check_writable(path: Path, begins: Start, store: str | None = None) -> None:
    """Refuse, before a long search, a path that `write_text` could not write to.

    Args:
        path: the file to write.
        begins: start of every file of this kind. An existing file is replaced only if it begins with it; otherwise it
            is another file of the user's, such as the texts or the store.
        store: URL of the store, which may not exist yet.

    Raises:
        ConfigurationError: the path is a folder, the store, or a file of another kind, or its folder does not exist or
            cannot be written to.
    """
    try:
        if not _is_stream(path):
            _refuse_folders(path)
            _refuse_other_content(path, begins, store)
    except OSError as error:
        raise unwritable(path, error) from None


def write_text(path: Path, text: str, begins: Start) -> None:
    """Write `text`, which begins as `begins` says, to `path`: to the target of a link, and into a pipe or device.

    Raises:
        ConfigurationError: as for `check_writable`.
    """
    assert _begins(text, begins), "it could not take its own place another time"
    check_writable(path, begins)
    try:
        if _is_stream(path):
            # As the shell's >>: of a stream that leads to a file what was said before stays.
            with path.open("a", encoding="utf-8") as stream:
                stream.write(text)
        else:
            _replace(Path(os.path.realpath(path)), text)
    except OSError as error:
        raise unwritable(path, error) from None


def begins_with(path: Path, start: Start) -> bool:
    """Return true if a file begins as `start` says; not for an open store, as closing the file releases its locks."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return _begins(file.read(len(start)) if isinstance(start, str) else file.readline(LONGEST_LINE), start)


def _begins(text: str, start: Start) -> bool:
    return text.startswith(start) if isinstance(start, str) else start.match(text) is not None


def _is_stream(path: Path) -> bool:
    if str(path) in STREAMS or str(path.parent) in FOLDERS_OF_STREAMS:
        return True  # Though it may lead to a file.
    return path.exists() and not path.is_file() and not path.is_dir()


def _refuse_folders(path: Path) -> None:
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        wrong = "it is a folder" if path.is_dir() else f"the folder {folder} is not there or cannot be written"
        raise ConfigurationError(f"Cannot write {path}: {wrong}; name another place with --output.")


def _refuse_other_content(path: Path, begins: Start, store: str | None) -> None:
    if store is not None and (database := sqlite_path(store)) and os.path.realpath(database) == os.path.realpath(path):
        raise ConfigurationError(f"Cannot write {path}: it is the store; name another place with --output.")
    if path.name.endswith(BESIDE_A_DATABASE):
        raise ConfigurationError(
            f"Cannot write {path}: SQLite keeps a file of such a name beside a database; name another with --output."
        )
    if path.is_file() and not os.access(path, os.W_OK):
        # Of one that may not be written the folder would let another take the place.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if path.is_file() and path.stat().st_size and not begins_with(path, begins):
        raise ConfigurationError(
            f"Cannot write {path}: it holds something else, which would be lost; name another place with --output, or "
            "delete it first."
        )


def _replace(target: Path, text: str) -> None:
    part = target.with_name(f".hpo-{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        if target.exists():
            shutil.copymode(target, part)
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> ConfigurationError:
    """Return the error for a path that cannot be written."""
    return ConfigurationError(f"Cannot write {path}: {error.strerror or error}; name another place with --output.")
