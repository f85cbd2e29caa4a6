"""Time to a good configuration on real learning curves: the shipped search, Optuna's pruners, Ray's ASHA.

Run it with `python benchmarks/curves.py --curves FILE... [--seeds 100] [--first-seed 0] [--workers 1 8]`. FILE is a
table of nicholaslourie/opda, folder `data/` (Lourie, Cho and He, "Show Your Work with Confidence: Confidence Bands for
Tuning Curves", arXiv 2311.09480, licence CC BY-SA 4.0), gzipped or not; none of it is part of this repository. Without
one nothing is run.

Each table is searched from three defaults: the usual configuration, and that at a tenth and at ten times its rate. The
default comes first in each search, and what a configuration shows (`curve_responses.py`) depends on the seed of its
trial. A search has the time of 64 average trials of the table, shared by its workers. Ours is the real coordinator
with the shipped defaults and a store on a virtual clock, the others (`curve_peers.py`) ask a study in memory.

Measured is the time until what a method would hand over is worth at least half of what the best configuration of the
table is worth more than the default, in average trials; 64 where it never is. What is handed over is in Optuna the best
completed trial, in Ray's ASHA the trial whose last result is best, here what `hpo best` shows: the best completed
trial, or an unfinished one that scores higher already. What it is worth is free of noise, and of another score than the
one searched where the table has two: DeBERTa is searched on the matched validation set and judged on the mismatched
one, with odd seeds the other way round.

The peer that ours is compared with is that of the least geometric mean on the other half of the seeds. Peers' searches
are kept in the folder for temporary files and not made again.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean

from curve_peers import CLAIRVOYANT, PEERS, search
from curve_responses import Responses, ResponseSource, read_responses
from intervals import interval

from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.runners.replay.simulated_search import simulate
from hpo.space.search_space import SearchSpace

AVERAGE_TRIALS = 64
RATES = (1.0, 0.1, 10.0)
"""The default's rate, times the usual one."""
HALF = 0.5
"""Of the attainable gain over the default."""
SHIPPED = "what is shipped"
METHODS = (SHIPPED, *(peer.name for peer in PEERS), CLAIRVOYANT.name)
IN_MEMORY = Path("/dev/shm")
CLEAR_GAIN = 2
"""Times the noise of a trial; cases with less to be gained count in no mean, and ours must only not be slower."""
GOAL, UPPER_GOAL, TABLE_GOAL = 0.7, 0.9, 1.1
"""Of the ratio to the best peer, of the upper end of its interval, and of its ratio on any one table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One search."""

    path: Path
    rate: float
    workers: int
    method: str
    seed: int
    overrides: tuple[str, ...] = ()
    """Of what is shipped, as on the command line."""


Times = Mapping[Task, float]


def trials_to_half(task: Task) -> float:
    """Return the time to half of the attainable gain, in average trials of the table."""
    responses = responses_of(task.path, turned_round=task.seed % 2 == 1)
    space, average = responses.table.search_space(task.rate), responses.table.average_seconds
    target = half_way(responses, space)
    seconds = AVERAGE_TRIALS * average / task.workers
    found = shipped(responses, space, task, seconds, target)
    if task.method != SHIPPED:
        peer = next(one for one in (*PEERS, CLAIRVOYANT) if one.name == task.method)
        handed = search(
            peer, responses, space, seed=task.seed, workers=task.workers, seconds=seconds,
            until=lambda worth: worth >= target,
        )  # fmt: skip
        found = [one.moment for one in handed if one.worth >= target]
    return min([seconds, *found]) / average


def half_way(responses: Responses, space: SearchSpace) -> float:
    """Return what the default is worth and half of what is to be gained."""
    first = responses.worth(space.default_values())
    return first + HALF * (responses.best - first)


@cache
def responses_of(path: Path, *, turned_round: bool = False) -> Responses:
    """Return the responses of a file, read once a process; or with its two scores in each other's place."""
    return replace(responses_of(path), turned_round=True) if turned_round else read_responses(path)


def shipped(responses: Responses, space: SearchSpace, task: Task, seconds: float, target: float) -> list[float]:
    """Return when hpo would have handed over something that is worth the target."""
    if task.method != SHIPPED:
        return []
    if IN_MEMORY.is_dir():
        tempfile.tempdir = str(IN_MEMORY)  # A disk would be most of what the search costs, and is measured elsewhere.
    found = simulate(
        study(space, task, seconds), ResponseSource(responses), metric="accuracy",
        until=lambda winner: winner.true_score >= target,
    )  # fmt: skip
    return [one.found_at for one in found.incumbents if one.true_score >= target]


def study(space: SearchSpace, task: Task, seconds: float) -> StudyConfig:
    """Return the study: all is as shipped but what the benchmark is about."""
    return load_config(
        values={
            "study": "curves", "seed": task.seed, "model": {"name": "none"}, "data": {"train": "none.csv"},
            "space": space.to_mapping(), "budget": {"time": f"{seconds:.0f}s"},
            "evaluation": {"full_reports": 4}, "compute": {"workers": task.workers},
        },
        overrides=task.overrides,
    )  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    """Print a table for each number of workers; return 1 where a goal is missed."""
    if not arguments.curves:
        print("skipped: no tables of learning curves; give --curves FILE... (see the head of this file)")
        return 0
    bad = 0
    for path in arguments.curves:
        print(described(path))
    for workers in arguments.workers:
        print(f"\n{workers} worker{'s' * (workers > 1)}, {arguments.seeds} seeds: average trials to half of the gain")
        bad += compared(measured(workers, arguments), arguments.curves)
    return 1 if bad else 0


def described(path: Path) -> str:
    """Return what is to be gained on a table, and the noise of a trial."""
    responses = responses_of(path)
    said = f"{responses.table.name}: noise {responses.noise:.4f}, best {responses.best:.4f}"
    gains = ", ".join(f"{responses.best - worth_of_default(path, rate):.4f}" for rate in RATES)
    return f"{said}, to be gained over the default at {', '.join(f'{rate:g}' for rate in RATES)} times its rate {gains}"


def worth_of_default(path: Path, rate: float) -> float:
    """Return what the default at `rate` times the usual rate is worth."""
    responses = responses_of(path)
    return responses.worth(responses.table.search_space(rate).default_values())


def has_gain(path: Path, rate: float) -> bool:
    """Return true if there is clearly something to be gained over the default."""
    return responses_of(path).best - worth_of_default(path, rate) >= CLEAR_GAIN * responses_of(path).noise


def measured(workers: int, arguments: argparse.Namespace) -> Times:
    """Return the time of each search; those of peers are remembered."""
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    tasks = [
        Task(
            path=path, rate=rate, workers=workers, method=method, seed=seed,
            overrides=tuple(arguments.overrides) if method == SHIPPED else (),
        )
        for method in METHODS for path in arguments.curves for rate in RATES for seed in seeds
    ]  # fmt: skip
    known = remembered()
    new = [task for task in tasks if key_of(task) not in known]
    for task, took in zip(new, mapped(new, arguments.processes), strict=True):
        known[key_of(task)] = took
        if task.seed == seeds[-1]:
            remember(known)
    return {task: known[key_of(task)] for task in tasks}


def compared(times: Times, paths: Sequence[Path]) -> int:
    """Print the times of each method and the ratio to the best peer; return how many goals are missed."""
    logs = {
        (method, path, rate): [math.log(times[task]) for task in times if key(task) == (method, path, rate)]
        for method in METHODS for path in paths for rate in RATES
    }  # fmt: skip
    columns = [(path, rate) for path in paths for rate in RATES]
    print(f"{'':<30}" + "".join(f"{f'{name_of(path)[:7]} x{rate:g}':>13}" for path, rate in columns) + f"{'mean':>8}")
    for method in METHODS:
        means = [fmean(logs[method, path, rate]) for path, rate in columns]
        shown = "".join(f"{math.exp(one):>13.2f}" for one in means)
        print(f"{method:<30}{shown}{math.exp(fmean(means)):>8.2f}")
    clear = [column for column in columns if has_gain(*column)]
    low, ratio, high = ratio_to_best(over_seeds(logs, clear))
    of_tables = {name_of(path): [column for column in clear if column[0] == path] for path in paths}
    tables = {name: ratio_to_best(over_seeds(logs, some))[1] for name, some in of_tables.items() if some}
    slower = [column for column in columns if ratio_to_best(over_seeds(logs, [column]))[0] > 1]
    print(f"ratio to the best peer {ratio:.3f} [{low:.2f}, {high:.2f}]", end="; ")
    print(", ".join(f"on {name} {one:.2f}" for name, one in tables.items()), end="; ")
    print(f"clearly slower in {len(slower)} of {len(columns)} cases, {len(columns) - len(clear)} without a clear gain")
    unclear = sum(column not in clear for column in slower)
    missed = (ratio > GOAL) + (high > UPPER_GOAL) + sum(one > TABLE_GOAL for one in tables.values()) + unclear
    print(f"{'BAD' if missed else 'good'}: {missed} goals missed", flush=True)
    return missed


Column = tuple[Path, float]
Logs = Mapping[tuple[str, Path, float], Sequence[float]]
"""(method, table, rate of the default) -> logarithm of the time of each seed."""


def key(task: Task) -> tuple[str, Path, float]:
    """Return what a task has in common with those of other seeds."""
    return task.method, task.path, task.rate


def name_of(path: Path) -> str:
    """Return the name of a table."""
    return path.name.split(".")[0].removeprefix("opda-")


def over_seeds(logs: Logs, columns: Sequence[Column]) -> dict[str, list[float]]:
    """Return method -> mean logarithm over columns, for each seed."""
    return {
        method: [fmean(one) for one in zip(*(logs[method, path, rate] for path, rate in columns), strict=True)]
        for method in METHODS
    }


def ratio_to_best(logs: Mapping[str, Sequence[float]]) -> tuple[float, float, float]:
    """Return the ratio of our time to that of the best peer, within its 95% interval.

    Args:
        logs: method -> logarithm of its time, in the mean over what it searched, for each seed.
    """
    peers = [peer.name for peer in PEERS]
    best = [min(peers, key=lambda name: sum(logs[name][1 - half :: 2])) for half in (0, 1)]
    ours = logs[SHIPPED]
    apart = [one - logs[best[seed % 2]][seed] for seed, one in enumerate(ours)]
    low, mean, high = map(math.exp, interval(apart))
    return low, mean, high


KEPT_FOR = ("curve_peers.py", "curve_responses.py", "curve_tables.py")


@cache
def kept() -> Path:
    """Return the file of the times of peers, as they are made now."""
    sources = b"".join((Path(__file__).parent / name).read_bytes() for name in KEPT_FOR)
    return Path(tempfile.gettempdir(), f"hpo-curves-{hashlib.sha256(sources).hexdigest()[:16]}.json")


def remembered() -> dict[str, float]:
    """Return the times of peers that are known."""
    return json.loads(kept().read_text()) if kept().exists() else {}


def remember(known: Mapping[str, float]) -> None:
    """Keep the times of peers."""
    kept().write_text(json.dumps({key: took for key, took in known.items() if SHIPPED not in key}))


def key_of(task: Task) -> str:
    """Return a task as text."""
    return json.dumps(astuple(task), default=str)


def mapped(tasks: Sequence[Task], processes: int) -> Iterable[float]:
    """Yield the times in the order of the tasks."""
    if processes == 1:
        yield from map(trials_to_half, tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(trials_to_half, tasks)


def parsed() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", nargs="*", type=Path, default=[], metavar="FILE", help="tables of opda")
    parser.add_argument("--seeds", type=int, default=100, help="searches of each method, at least 4")
    parser.add_argument("--first-seed", type=int, default=0, help="of the searches; the others follow it")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8], help="side by side")
    parser.add_argument("--processes", type=int, default=1, help="searches computed side by side")
    parser.add_argument("overrides", nargs="*", help="another study than what is shipped: search.pruner=none")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(parsed()))
