"""Scratch folder on each machine of a cluster, for a search whose files are at a URL.

Each process that uses it holds a lock on it, which the kernel releases if the process is killed. A folder without a
lock is removed by the next process that starts there, and at the end of the search.
"""

import fcntl
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpo.errors import StoreError

PREFIX = "hpo-scratch-"
SECONDS_TO_REMOVE = 3.0
"""Seconds that a removal waits for processes that are ending; the removal on all machines has twice as long."""


def new_name() -> str:
    """Return a name that cannot be guessed."""
    return PREFIX + secrets.token_hex(16)


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Yield the folder `name` of this machine, shared by all its workers of the search; the last one removes it.

    Raises:
        StoreError: it cannot be created, or another user has created it.
    """
    remove_unused()
    folder = Path(tempfile.gettempdir(), name)
    handle = _locked(folder)
    try:
        yield folder
    finally:
        _remove_if_unlocked(handle, folder)
        os.close(handle)


def _locked(folder: Path) -> int:
    """Create a folder if it does not exist, and return a handle of it with a shared lock."""
    while True:
        handle = _opened(folder)
        fcntl.flock(handle, fcntl.LOCK_SH)
        if _is_at(handle, folder):
            return handle
        # The last process that used it removed it before this one had the lock.
        os.close(handle)


def _opened(folder: Path) -> int:
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        handle = _handle_of(folder)
    except OSError as error:
        raise StoreError(f"The folder {folder} for files in use cannot be created: {error.strerror}.") from None
    if not _is_private(handle):
        os.close(handle)
        raise StoreError(f"The folder {folder} for files in use is open to other users; remove it.")
    return handle


def remove_unused(name: str = f"{PREFIX}*", seconds: float = 0.0) -> None:
    """Remove unlocked folders of this user, left by killed processes; wait at most `seconds` for locks to be freed."""
    until = time.monotonic() + seconds
    left = list(Path(tempfile.gettempdir()).glob(name))
    while left := [folder for folder in left if not _is_removed(folder)]:
        if time.monotonic() >= until:
            return
        time.sleep(0.1)


def remove_on_all_machines(name: str) -> None:
    """Remove a search's folder from all machines of the cluster, as soon as the processes there have ended."""
    remove = ray.remote(num_cpus=0, max_retries=0)(remove_unused)
    nodes = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes() if node["Alive"]]
    removed = [remove.options(scheduling_strategy=node).remote(name, SECONDS_TO_REMOVE) for node in nodes]
    ray.wait(removed, num_returns=len(removed), timeout=2 * SECONDS_TO_REMOVE)


def _is_removed(folder: Path) -> bool:
    """Remove a folder if it is this user's and unlocked; return true if it need not be waited for."""
    try:
        handle = _handle_of(folder)
    except OSError:
        return True
    try:
        return not _is_private(handle) or _remove_if_unlocked(handle, folder)
    finally:
        os.close(handle)


def _remove_if_unlocked(handle: int, folder: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if _is_at(handle, folder):
        rmtree(folder, ignore_errors=True)
    return True


def _handle_of(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _is_private(handle: int) -> bool:
    found = os.fstat(handle)
    return found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


def _is_at(handle: int, folder: Path) -> bool:
    """Return true if `folder` is still the folder that `handle` opened."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), folder.lstat())
    return False
