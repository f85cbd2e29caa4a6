"""Limits: too little memory, deadlines, and the overhead of a search besides its training."""

import math
import multiprocessing
import os
import resource
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from chaos_databases import timed
from chaos_material import Figure, open_timed, study_in
from chaos_stored import figure, stored
from numpy.typing import NDArray

from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.messages import Assignment, Decision, Outcome, Progress, Report
from hpo.runners import run as runner
from hpo.runners.callbacks import SearchCallback
from hpo.runners.processes.launcher import open_processes
from hpo.runners.replay.generated_curves import GeneratedCurves
from hpo.runners.replay.simulated_search import simulate
from hpo.training.worker import open_worker
from tests.models import save_tiny_bert, tiny_assignment, tiny_hyperparameters, tiny_study, trained, write_texts

MIB = 2**20

# -- memory

LIMIT_MIB = 52
BATCH = 512
DROPOUTS = (0.0, 0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of a trial."""

    ending: str
    rows: int
    """Of a batch, that went through the model at once."""
    losses: list[float]
    """On validation, one a report."""
    weights: Mapping[str, NDArray[np.float32]]
    """At its end."""

    def __str__(self) -> str:
        first, last = self.losses[0], self.losses[-1]
        return f"loss on validation {first:.6f} to {last:.6f} with {self.rows} of {BATCH} rows at once ({self.ending})"


def memory(folder: Path, short: bool) -> list[Figure]:
    """Train within a real limit of memory, and with room: the same without dropout, and it trains with it."""
    del short  # It is as short as it can be.
    model, texts = save_tiny_bert(folder / "model", longest=128), long_texts(folder / "texts.csv")
    context, cases = multiprocessing.get_context("spawn"), list(product((None, LIMIT_MIB), DROPOUTS))
    # Each in a process of its own: what a trial has left in the heap would be missing to the next.
    with (
        patch.dict(os.environ, {"MALLOC_MMAP_THRESHOLD_": "65536"}),
        ProcessPoolExecutor(2, context, max_tasks_per_child=1) as processes,
    ):
        runs = [processes.submit(trained_within, model, texts, *case) for case in cases]
        room, masked_room, limited, masked_limited = (run.result(240) for run in runs)
    apart = max(float(np.abs(limited.weights[name] - weight).max()) for name, weight in room.weights.items())
    off = max(abs(one - other) for one, other in zip(limited.losses, room.losses, strict=False))
    learned = masked_limited.losses[-1] < masked_limited.losses[0]
    return [
        figure("with room", str(room), room.rows == BATCH),
        figure("in the limit", str(limited), limited.rows < BATCH),
        figure("largest difference of final weights", f"{apart:.1e}", apart < 1e-5),
        figure("largest difference of losses", f"{off:.1e}", off < 1e-5),
        figure("with dropout, with room", str(masked_room), masked_room.rows == BATCH),
        figure("with dropout, in the limit", str(masked_limited), masked_limited.rows < BATCH and learned),
    ]


def long_texts(path: Path) -> Path:
    """Write texts of some 100 tokens."""
    head, *lines = write_texts(path, rows=1280).read_text().splitlines()
    parts = [line.rpartition(",") for line in lines]
    path.write_text("\n".join([head, *(f"{' '.join([text] * 14)},{label}" for text, _, label in parts)]))
    return path


def trained_within(model: Path, texts: Path, mib: int | None, dropout: float) -> Trained:
    """Train a trial in this process, which may take so much more memory than with its model open."""
    torch.set_num_threads(1)
    config = tiny_study(model, texts)
    # The limit is one of addresses: what is freed must go back at once, and not wait in the heap for its like.
    with patch("hpo.training.worker.settle_heap"):
        worker = open_worker(config, load_splits(config.data, config.seed))
    worker.cut_share(128)
    if mib is not None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + mib * MIB, resource.RLIM_INFINITY))
    chosen = tiny_hyperparameters(batch_size=BATCH, max_length=128, dropout=dropout, epochs=2)
    reports, outcome = trained(worker, tiny_assignment(chosen))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    weights = worker._context.model.network.state_dict()
    return Trained(
        ending=outcome.reason or outcome.ending,
        rows=outcome.micro_batch_size or BATCH,
        losses=[report.validation.values["loss"] for report in reports] or [math.nan],
        weights={name: weight.numpy().copy() for name, weight in weights.items()},
    )


# -- deadlines

NIGHTS, SHORT_NIGHTS = 20, 4
WORKERS, SHORT_WORKERS = (1, 2, 4, 8), (1, 2)
"""Nights of many workers take minutes."""
LEAST_SHARE, MOST_SHARE = 0.90, 1.02


def deadlines(folder: Path, short: bool) -> list[Figure]:
    """Replay nights, and meanwhile search for real: each ends when it was told to."""
    nights, workers, seconds = (SHORT_NIGHTS, SHORT_WORKERS, 40) if short else (NIGHTS, WORKERS, 90)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as processes:
        shares = processes.map(night_share, range(nights), [workers[night % len(workers)] for night in range(nights)])
        real, trials = real_share(folder, seconds)
        replayed = list(shares)
    return [
        figure(
            f"{nights} nights of 8 h with {', '.join(map(str, workers))} workers, share of the time given",
            f"{min(replayed):.1%} to {max(replayed):.1%}",
            min(replayed) >= LEAST_SHARE and max(replayed) <= MOST_SHARE,
        ),
        figure(
            f"a real search of {seconds} s, from call to return, with {trials} trials",
            f"{real:.1%}",
            LEAST_SHARE <= real <= MOST_SHARE,
        ),
    ]


def night_share(night: int, workers: int) -> float:
    """Replay a night, and return what it took of the time that it was given."""
    values = {
        "study": f"night-{night}",
        "seed": night,
        "model": {"name": "none"},
        "data": {"train": "none.csv"},
        "space": "encoder",
        "search": {"sampler": "tpe", "pruner": "median"},
        "confirmation": {"finalists": 0, "audit": 0},
        "budget": {"time": "8h"},
        "compute": {"workers": workers},
    }
    found = simulate(load_config(values=values), GeneratedCurves(night))
    assert found.given_seconds is not None, "it was given 8 hours"
    return found.seconds / found.given_seconds


def real_share(folder: Path, seconds: int) -> tuple[float, int]:
    """Search over real workers for so long; return what it took of that, and how many trials were completed."""
    config = study_in(folder, budget={"trials": None, "time": f"{seconds}s"}, data={"test_fraction": 0.1})
    began = time.monotonic()
    results = runner.run(config)
    return (time.monotonic() - began) / seconds, len(results.leaderboard)


# -- overhead

LEAST_BUSY = 0.95
MOST_BETWEEN = 0.01
LONG_SECONDS = 60.0
MOST_TO_FIRST_STEP = 1.0


@dataclass(slots=True)
class Diary(SearchCallback):
    """When each trial of a search was given, was ready for its first step, was last heard of; and how long it took."""

    given: dict[int, float] = field(default_factory=dict)
    ready: dict[int, float] = field(default_factory=dict)
    over: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    lanes: list[list[int]] = field(default_factory=list)
    """The trials of each worker, in order."""

    def assigned(self, assignment: Assignment) -> None:
        """Note when."""
        self.given[assignment.trial] = time.monotonic()

    def progressed(self, progress: Progress) -> None:
        """Note when a trial first says something, which is before its first step."""
        self.ready.setdefault(progress.trial, time.monotonic())

    def reported(self, report: Report, decision: Decision) -> None:
        """Note when: at its last report a trial is over."""
        self.over[report.trial] = time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        """Note how long it took."""
        self.seconds[outcome.trial] = outcome.seconds


def overhead(folder: Path, short: bool) -> list[Figure]:
    """Search with trials of a fixed time, and with real ones: what is not training is little."""
    trials, long = (24, 10.0) if short else (40, LONG_SECONDS)
    # Trials of a fixed time sleep, so that the long ones can be beside the others.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        sleeping = processes.submit(searched, study_in(folder / "slow", budget={"trials": 4}), long)
        quick = searched(study_in(folder / "quick", budget={"trials": trials}), 1.0)
        real = searched(study_in(folder / "real"), None)
        slow = sleeping.result()
    between = gap(slow) / LONG_SECONDS
    starts = [
        real.ready[trial] - max(real.given[trial], real.over[before])
        for lane in real.lanes
        for before, trial in pairwise(lane)
    ]
    return [
        figure(
            f"{trials} trials of 1 s on 2 workers, that they were busy while both had trials",
            f"{busy(quick):.1%} ({start_up(quick):.1f} s until both did, {1000 * gap(quick):.0f} ms between trials)",
            len(quick.lanes) == 2 and busy(quick) >= LEAST_BUSY,
        ),
        figure(
            f"time between trials of {long:.0f} s, as a share of 60 s",
            f"{between:.2%} ({1000 * gap(slow):.0f} ms)",
            between < MOST_BETWEEN,
        ),
        figure(
            f"to the first step of a real trial on a warm worker, {len(starts)} of them",
            f"{1000 * median(starts):.0f} ms, at most {1000 * max(starts):.0f} ms",
            max(starts) < MOST_TO_FIRST_STEP,
        ),
    ]


def searched(config: StudyConfig, seconds: float | None) -> Diary:
    """Search, with trials that take so long, or with real ones; return when what happened."""
    openers = dict(runner.OPENERS)
    if seconds is not None:
        openers["processes"] = partial(open_processes, opener=open_timed)  # type: ignore[arg-type]
        timed(config, seconds)
    diary = Diary()
    with patch.object(runner, "OPENERS", openers):
        runner.run(config, diary)
    lanes = defaultdict(list)
    for row in stored(config.store.url).tables["hpo_attempts"]:
        lanes[row["worker"]].append(row["trial"])
    diary.lanes = [sorted(lane, key=diary.over.__getitem__) for lane in lanes.values()]
    return diary


def busy(diary: Diary) -> float:
    """Return the share of two workers' time in which trials were trained, while both had trials.

    From when the last of them began, which tells the start of processes apart, to when the first had no more.
    """
    begins = max(diary.over[lane[0]] - diary.seconds[lane[0]] for lane in diary.lanes)
    ends = min(diary.over[lane[-1]] for lane in diary.lanes)
    trained = sum(
        max(0.0, min(ends, diary.over[trial]) - max(begins, diary.over[trial] - diary.seconds[trial]))
        for lane in diary.lanes
        for trial in lane
    )
    return trained / (len(diary.lanes) * (ends - begins))


def start_up(diary: Diary) -> float:
    """Return the seconds from the first trial given until the last worker began to train."""
    firsts = [lane[0] for lane in diary.lanes]
    return max(diary.over[trial] - diary.seconds[trial] for trial in firsts) - min(diary.given.values())


def gap(diary: Diary) -> float:
    """Return the mean seconds between two trials on a worker."""
    gaps = [
        diary.over[trial] - diary.seconds[trial] - diary.over[before]
        for lane in diary.lanes
        for before, trial in pairwise(lane)
    ]
    return sum(gaps) / len(gaps)
