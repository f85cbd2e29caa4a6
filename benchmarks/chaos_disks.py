"""Disk faults: disks that fill up during a search and have room again later."""

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from chaos_databases import ended
from chaos_material import Figure, study_in
from chaos_search import Search, searching
from chaos_stored import all_once, completed, figure, stored

from hpo.config.study_file import StudyConfig
from hpo.files import checkpoints
from hpo.runners import run as runner
from hpo.store.database import open_database
from hpo.store.results import read_results

MIB = 2**20
BALLAST = "ballast"
STORE_MIB = 8
FILES_MIB = 300
"""More than the 256 MiB that are always left free."""
STORE_IS_AWAY = "database or disk is full. It is asked again until it answers"
NO_CHECKPOINT, NO_WEIGHTS = "No checkpoint was written to", "No weights of trial"


def disks(folder: Path, short: bool) -> list[Figure]:
    """Fill the disk of the store, then that of checkpoints and weights, in the middle of a search, and make room."""
    trials = 14 if short else 30
    try:
        with small_disk(folder / "store", STORE_MIB) as store, small_disk(folder / "files", FILES_MIB) as files:
            config = study_in(
                folder, url=f"sqlite:///{store / 'hpo.db'}", rows=2000, data={"test_fraction": 0.1},
                space={"epochs": {"value": 2}}, budget={"trials": trials},
                store={"files": str(files), "keep_weights": trials},
            )  # fmt: skip
            with searching(config, folder) as search:
                figures = [*full_store(config, search, store), *full_files(config, search, files)]
                status = search.ends()
            return [*figures, *at_the_end(config, search, status, trials)]
    except subprocess.CalledProcessError as error:
        return [figure("small disks", f"not tried: they cannot be mounted ({error.stderr.strip()})", True)]


def full_store(config: StudyConfig, search: Search, disk: Path) -> list[Figure]:
    """Fill the disk under the store until the search says so, read all of it meanwhile, and make room."""
    search.comes_to(lambda: completed(config.store.url) >= 2)
    before = scores_of(config)
    fill(disk)
    told = search.comes_to(lambda: STORE_IS_AWAY in search.said)
    meanwhile = scores_of(config)
    (disk / BALLAST).unlink()
    again = search.comes_to(lambda: "The store answers again" in search.said, 30)
    return [
        figure("full disk of the store: said", STORE_IS_AWAY if told else search.said[-300:], told),
        results_kept(before, meanwhile),
        figure("went on by itself when there was room", str(again), again),
    ]


def full_files(config: StudyConfig, search: Search, disk: Path) -> list[Figure]:
    """Fill the disk of checkpoints and weights, kill the workers on it, and make room when two trials went without."""
    files = runner.files_folder(config)
    before = scores_of(config)
    search.comes_to(lambda: stops_with_checkpoint(search, files))
    fill(disk)
    for worker in workers_of(search):
        worker.kill()
    sound = [checkpoints._is_sound(path) for path in files.glob("trial-*/checkpoint-*.pt")]
    then = completed(config.store.url)
    search.comes_to(lambda: completed(config.store.url) >= then + 2)
    meanwhile = scores_of(config)
    (disk / BALLAST).unlink()
    room_at = time.time()
    again = search.comes_to(lambda: min(newest(files, "checkpoint-*.pt"), newest(files, "weights.*")) > room_at)
    told = [words for words in (NO_CHECKPOINT, NO_WEIGHTS) if words in search.said]
    return [
        figure("full disk of checkpoints and weights: said", " ... ".join(told) or "nothing", len(told) == 2),
        figure("checkpoints sound meanwhile", f"{sum(sound)} of {len(sound)}", all(sound) and bool(sound)),
        results_kept(before, meanwhile),
        figure("both written again when there was room", str(again), again),
    ]


def stops_with_checkpoint(search: Search, files: Path) -> bool:
    """Stop the workers, and let them go on where no trial has a checkpoint; return whether one has."""
    for worker in workers_of(search):
        worker.suspend()
    if newest(files, "checkpoint-*.pt"):
        return True
    for worker in workers_of(search):
        worker.resume()
    return False


def workers_of(search: Search) -> list[psutil.Process]:
    """Return the worker processes of a search."""
    return psutil.Process(search.process.pid).children()


def results_kept(before: Mapping[int, object], meanwhile: Mapping[int, object]) -> Figure:
    """Return whether the store could be read while the disk was full, with what was in it before."""
    kept = [number for number, score in before.items() if meanwhile.get(number) == score]
    return figure("earlier results read meanwhile", f"{len(kept)} of {len(before)}", len(kept) == len(before) > 0)


def at_the_end(config: StudyConfig, search: Search, status: int, trials: int) -> list[Figure]:
    """Return how the search has ended."""
    found = stored(config.store.url)
    resumed = [row["trial"] for row in found.tables["hpo_attempts"] if row["resumed_examples"]]
    reads = len(found.events("test_read"))
    return [
        ended(search, status, 0),
        *all_once(found, trials, attempts=2),
        figure("trials that went on from a checkpoint of before", f"{len(resumed)} of 2", bool(resumed)),
        figure("times that the test split was read", str(reads), reads == 1),
    ]


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """Mount a disk of so many MiB."""
    folder.mkdir(parents=True)
    size = f"size={mib}m"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "hpo-chaos", folder], check=True, capture_output=True, text=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    """Take all room of a disk, at once and then to its last byte."""
    with (disk / BALLAST).open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, max(MIB, shutil.disk_usage(disk).free - MIB))
        file.seek(0, os.SEEK_END)
        try:
            while True:
                file.write(bytes(MIB))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def scores_of(config: StudyConfig) -> dict[int, float | None]:
    """Return the scores of the trials that were completed, as hpo's own verbs read them."""
    database = open_database(config.store.url, must_exist=True)
    try:
        return {trial.number: trial.score for trial in read_results(database).leaderboard}
    finally:
        database.close()


def newest(files: Path, name: str) -> float:
    """Return when the newest of the trials' files of that name was written; 0 where there is none."""
    times = [0.0]
    for path in files.glob(f"trial-*/{name}"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times)
