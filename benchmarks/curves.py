"""How soon searches come near to the best on real learning curves: what is shipped, Optuna's pruners, Ray's ASHA.

Run it with `python benchmarks/curves.py --curves FILE... [--seeds 50] [--workers 1 8] [--processes N]`. FILE is a table
of nicholaslourie/opda, folder `data/` (Lourie, Cho and He, "Show Your Work with Confidence: Confidence Bands for Tuning
Curves", arXiv 2311.09480, licence CC BY-SA 4.0), gzipped or not; none of it is part of this repository. Without one
nothing is run.

A configuration is answered by the nearest row of the table (`curve_tables.py`). A search has the time of 64 average
trials of the table, shared by its workers; the same configuration comes first in each. Ours is the real coordinator
with the shipped defaults and a store on a virtual clock, the others (`curve_peers.py`) ask a study in memory.

Regret is what the table's best row scores more than the configuration that a method would hand over at a moment: in
Optuna that of the best completed trial, in Ray's ASHA that of the trial whose last result is best, here what `hpo best`
shows: that of the best completed trial, or of an unfinished one that scores higher already. A configuration is judged
at its best full evaluation, also where its trial has not come there yet. Before there is any, it is the first one's.
DeBERTa is searched on the matched validation set and judged on the mismatched one, with odd seeds the other way round,
since the best rows of one score owe much to luck; tables with one score are searched and judged on that.

Ours is compared with the best of the others at each moment, seed by seed, and is BAD where it is worse by more than two
standard errors.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from curve_peers import FULL_REPORTS, PEERS, Handed, judged_at, search
from curve_tables import Table, TableSource, read_table

from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.runners.replay.simulated_search import BEYOND_NOISE, Estimate, estimate, simulate

AVERAGE_TRIALS = 64
MOMENTS = (0.125, 0.25, 0.5, 1.0)
"""Shares of the time at which regret is read."""
SHIPPED = "what is shipped"
IN_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One search."""

    path: Path
    method: str
    workers: int
    seed: int
    overrides: tuple[str, ...] = ()
    """Of what is shipped, as on the command line."""


def regrets(task: Task) -> tuple[float, ...]:
    """Return the regret of a search at each of `MOMENTS`."""
    table = table_of(task.path, turned_round=task.seed % 2 == 1)
    seconds = AVERAGE_TRIALS * table.average_seconds / task.workers
    if task.method == SHIPPED:
        handed = shipped(table, task, seconds)
    else:
        peer = next(one for one in PEERS if one.name == task.method)
        handed = search(peer, table, seed=task.seed, workers=task.workers, seconds=seconds)
    first = table.near(table.search_space().default_values()).judged[-1]
    return tuple(table.best - judged_at(handed, moment * seconds, otherwise=first) for moment in MOMENTS)


@cache
def table_of(path: Path, *, turned_round: bool = False) -> Table:
    """Return the table of a file, read once a process; or with its two scores in each other's place."""
    return table_of(path).turned_round() if turned_round else read_table(path)


def shipped(table: Table, task: Task, seconds: float) -> list[Handed]:
    """Return what hpo would hand over, in the course of a search of so many seconds."""
    if IN_MEMORY.is_dir():
        tempfile.tempdir = str(IN_MEMORY)  # A disk would be most of what the search costs, and is measured elsewhere.
    night = simulate(study(table, task, seconds), TableSource(table), metric="accuracy")
    return [Handed(winner.found_at, winner.true_score) for winner in night.incumbents]


def study(table: Table, task: Task, seconds: float) -> StudyConfig:
    """Return the study: all is as shipped but what the benchmark is about."""
    return load_config(
        values={
            "study": "curves", "seed": task.seed, "model": {"name": "none"}, "data": {"train": "none.csv"},
            "space": table.search_space().to_mapping(), "budget": {"time": f"{seconds:.0f}s"},
            "evaluation": {"full_reports": FULL_REPORTS}, "compute": {"workers": task.workers},
        },
        overrides=task.overrides,
    )  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    """Print a table for each file and number of workers; return 1 where what is shipped is worse than a peer."""
    if not arguments.curves:
        print("skipped: no tables of learning curves; give --curves FILE... (see the head of this file)")
        return 0
    bad = 0
    for path in arguments.curves:
        for workers in arguments.workers:
            bad += compared(path, workers, arguments)
    print(f"{'BAD' if bad else 'good'}: worse than the best of the others in {bad} comparisons")
    return 1 if bad else 0


def compared(path: Path, workers: int, arguments: argparse.Namespace) -> int:
    """Print the table of one file; return in how many moments what is shipped is worse."""
    table = table_of(path)
    judged = "judged on another score" if table.two_scores else "judged on the score searched: it has one"
    print(f"\n{table.name}, {workers} worker{'s' * (workers > 1)}, {arguments.seeds} seeds, {judged}")
    print(f"{'regret, in 1e-4, at':<34}" + "".join(f"{moment:>16.1%}" for moment in MOMENTS))
    found: dict[str, list[tuple[float, ...]]] = {}
    for method in (SHIPPED, *(peer.name for peer in PEERS)):
        tasks = [
            Task(path=path, method=method, workers=workers, seed=seed, overrides=tuple(arguments.overrides))
            for seed in range(arguments.seeds)
        ]
        found[method] = list(mapped(regrets, tasks, arguments.processes))
        print(f"{method:<34}" + "".join(cell(estimate(at)) for at in zip(*found[method], strict=True)), flush=True)
    return verdict(found)


def verdict(found: dict[str, list[tuple[float, ...]]]) -> int:
    """Print what is shipped less the best of the others at each moment; return in how many it is worse."""
    ours = found[SHIPPED]
    differences = []
    for at in range(len(MOMENTS)):
        best = min((name for name in found if name != SHIPPED), key=lambda name: fmean(one[at] for one in found[name]))
        differences.append(estimate([one[at] - other[at] for one, other in zip(ours, found[best], strict=True)]))
    worse = [difference.mean > BEYOND_NOISE * difference.error for difference in differences]
    print(f"{'less the best of the others':<34}" + "".join(cell(one, "+") for one in differences))
    print(f"{'':<34}" + "".join(f"{'BAD' if one else 'good':>16}" for one in worse), flush=True)
    return sum(worse)


def cell(estimated: Estimate, sign: str = "") -> str:
    """Return a mean and its standard error, in 1e-4."""
    return f"{f'{1e4 * estimated.mean:{sign}.1f} ± {1e4 * estimated.error:.1f}':>16}"


def mapped(
    function: Callable[[Task], tuple[float, ...]], tasks: Sequence[Task], processes: int
) -> Iterable[tuple[float, ...]]:
    """Yield the results in the order of the tasks."""
    if processes == 1:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, tasks)


def parsed() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", nargs="*", type=Path, default=[], metavar="FILE", help="tables of opda")
    parser.add_argument("--seeds", type=int, default=50, help="searches of each method, at least 2")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8], help="side by side")
    parser.add_argument("--processes", type=int, default=1, help="searches computed side by side")
    parser.add_argument("overrides", nargs="*", help="another study than what is shipped: search.pruner=none")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(parsed()))
