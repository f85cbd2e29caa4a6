"""Disks that fill, memory that does not suffice, nights that must end, and what a search costs beside its training."""

import errno
import multiprocessing
import os
import resource
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
from chaos_databases import ended, timed
from chaos_material import Figure, open_timed, study_in
from chaos_search import Search, searching
from chaos_stored import all_once, completed, figure, stored
from numpy.typing import NDArray

from hpo.config.study_file import StudyConfig, load_study
from hpo.data.splits import load_splits
from hpo.messages import Assignment, Decision, Ending, Outcome, Progress, Report
from hpo.runners import run as runner
from hpo.runners.generated_curves import Generated
from hpo.runners.processes import open_processes
from hpo.runners.simulation import simulate
from hpo.runners.watcher import Watcher
from hpo.store.engine import open_database
from hpo.store.results import read_results
from hpo.training import checkpoints
from hpo.training.worker import open_worker
from tests.models import save_tiny_bert, tiny_assignment, tiny_hyperparameters, tiny_study, trained, write_texts

MIB = 2**20
BALLAST = "ballast"

# -- disks

STORE_MIB = 8
FILES_MIB = 300
"""More than the 256 MiB that are always left free."""
STORE_IS_AWAY = "database or disk is full. It is asked again until it answers"
NO_CHECKPOINT, NO_WEIGHTS = "No checkpoint was written to", "No weights of trial"


def disks(folder: Path, short: bool) -> list[Figure]:
    """Fill the disk of the store, then that of checkpoints and weights, in the middle of a search, and make room."""
    trials = 12 if short else 30
    try:
        with small_disk(folder / "store", STORE_MIB) as store, small_disk(folder / "files", FILES_MIB) as files:
            config = study_in(
                folder, url=f"sqlite:///{store / 'hpo.db'}", rows=3000, data={"test_fraction": 0.1},
                budget={"trials": trials}, store={"files": str(files), "keep_weights": trials},
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
    kept = before.items() <= meanwhile.items()
    return [
        figure("full disk of the store: said", STORE_IS_AWAY if told else search.said[-300:], told),
        figure("earlier results read meanwhile", f"{len(before)} of {len(meanwhile)}", bool(before) and kept),
        figure("went on by itself when there was room", str(again), again),
    ]


def full_files(config: StudyConfig, search: Search, disk: Path) -> list[Figure]:
    """Fill the disk of checkpoints and weights until both are missed, look at those that are there, and make room."""
    files = runner.files_folder(config)
    search.comes_to(lambda: newest(files, "weights.safetensors") > 0 and newest(files, "checkpoint-*.pt") > 0)
    before = scores_of(config)
    fill(disk)
    told = search.comes_to(lambda: all(words in said_by_all(search, files) for words in (NO_CHECKPOINT, NO_WEIGHTS)), 30)
    sound = [checkpoints._is_sound(path) for path in files.glob("trial-*/checkpoint-*.pt")]
    meanwhile = scores_of(config)
    (disk / BALLAST).unlink()
    room_at = time.time()
    again = search.comes_to(lambda: min(newest(files, name) for name in ("weights.safetensors", "checkpoint-*.pt")) > room_at)
    kept = before.items() <= meanwhile.items()
    return [
        figure("full disk of checkpoints and weights: said", f"{NO_CHECKPOINT} ..., {NO_WEIGHTS} ...", told),
        figure("checkpoints sound meanwhile", f"{sum(sound)} of {len(sound)}", all(sound) and bool(sound)),
        figure("earlier results there meanwhile", f"{len(before)}", bool(before) and kept),
        figure("both written again when there was room", str(again), again),
    ]


def at_the_end(config: StudyConfig, search: Search, status: int, trials: int) -> list[Figure]:
    """Return how the search has ended."""
    tested = stored(config.store.url).events("test_read")
    return [
        ended(search, status, 0),
        *all_once(stored(config.store.url), trials),
        figure("the winner's weights were there, or made again, for the test split", str(len(tested)), len(tested) == 1),
    ]


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """Mount a disk of so many MiB."""
    folder.mkdir(parents=True)
    size = f"size={mib}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "hpo-chaos", folder], check=True, capture_output=True, text=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    """Write to a disk until nothing more goes on it."""
    with (disk / BALLAST).open("wb", buffering=0) as file:
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


def said_by_all(search: Search, files: Path) -> str:
    """Return what the search has said, and its workers."""
    return search.said + "".join(path.read_text(errors="replace") for path in (files / "workers").glob("*.log"))


# -- memory

LIMIT_MIB = 160
BATCH = 512
Trained = tuple[list[float], int | None, str, Mapping[str, NDArray[np.float32]]]
"""Losses on validation, rows at once, how it ended, final weights."""


def memory(folder: Path, short: bool) -> list[Figure]:
    """Train within a real limit of memory, and with room: the same without dropout, and it trains with it."""
    model, texts = save_tiny_bert(folder / "model", longest=128), long_texts(folder / "texts.csv")
    # The limit is one of addresses: what is freed must go back at once, and not wait in the heap for its like.
    with patch.dict(os.environ, {"MALLOC_MMAP_THRESHOLD_": "65536"}):
        runs = {
            (dropout, limit): in_a_process(model, texts, dropout, limit)
            for dropout in (0.0, 0.2)
            for limit in (None, LIMIT_MIB)
        }
    (whole, all_rows, _, expected), (losses, rows, ending, weights) = runs[0.0, None], runs[0.0, LIMIT_MIB]
    apart = max((float(np.abs(weights[name] - expected[name]).max()) for name in expected), default=0.0)
    off = max(abs(one - other) for one, other in zip(losses, whole, strict=True)) if losses else float("inf")
    room, (masked, masked_rows, masked_ending, _) = runs[0.2, None][0], runs[0.2, LIMIT_MIB]
    return [
        figure("rows at once, with room and without", f"{all_rows or BATCH} and {rows} ({ending})", all_rows is None and rows is not None),
        figure("largest difference of final weights, without dropout", f"{apart:.1e}", apart < 1e-5),
        figure("losses on validation", f"{shown(whole)} with room, {shown(losses)} without: {off:.1e} apart", off < 1e-5),
        figure("with dropout", f"{shown(room)} with room, {shown(masked)} with {masked_rows} rows at once ({masked_ending})", masked_rows is not None and masked[-1:] < masked[:1]),
    ]


def long_texts(path: Path) -> Path:
    """Write texts of some 100 tokens."""
    head, *lines = write_texts(path, rows=1280).read_text().splitlines()
    parts = [line.rpartition(",") for line in lines]
    path.write_text("\n".join([head, *(f"{' '.join([text] * 14)},{label}" for text, _, label in parts)]))
    return path


def in_a_process(model: Path, texts: Path, dropout: float, mib: int | None) -> Trained:
    """Train a trial in a process of its own, which may take so much more memory than it has when its model is open."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=train_within, args=(model, texts, dropout, mib, answers))
    process.start()
    try:
        found: Trained = answers.get(timeout=120)
    finally:
        process.join(10)
        process.kill()
    return found


def train_within(model: Path, texts: Path, dropout: float, mib: int | None, answers: "Queue[Trained]") -> None:
    """Train, and answer what came of it."""
    config = tiny_study(model, texts)
    worker = open_worker(config, load_splits(config.data, config.seed))
    worker.cut_share(128)
    if mib is not None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + mib * MIB, resource.RLIM_INFINITY))
    chosen = tiny_hyperparameters(batch_size=BATCH, max_length=128, dropout=dropout, epochs=2)
    reports, outcome = trained(worker, tiny_assignment(chosen))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    weights = {name: weight.numpy() for name, weight in worker._bench.model.network.state_dict().items()}
    losses = [report.validation.values["loss"] for report in reports]
    answers.put((losses, outcome.rows_at_once, outcome.reason or str(outcome.ending), weights))


def shown(losses: list[float]) -> str:
    """Return a first and a last loss in words."""
    return f"{losses[0]:.6f} to {losses[-1]:.6f}" if losses else "none"
