"""Costs of leading a long study: every verb with 64 workers, at 100, 1,000 and 10,000 finished trials; and all of the
dispatch with 1,000 workers.

Run: python benchmarks/scale.py [--only SECTION ...] [--short]

The stores are PostgreSQL, on this machine, with its default settings: every commit is on disk. The first 100 trials
are searched; up to 1,000 and 10,000 their rows are copied, in every table, Optuna's and ours. The three studies are
led by one process and take turns, ten trials at a time, so that what else the machine does falls on all of them alike.
The dispatch runs whole searches with a deadline over workers on a virtual clock.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event

import sqlalchemy as sa
from sqlalchemy.engine import make_url

sys.path.insert(0, str(Path(__file__).parent))

from chaos_material import Figure
from chaos_postgresql import postgresql_server
from scale_load import CALLS, TRIAL_SECONDS, WORKERS, Curves, Load, Timings, led, study_at
from scale_seed import seed

from hpo.runners.callbacks import SearchCallback
from hpo.runners.dispatch import Dispatch
from hpo.runners.replay.worker_pool import ReplayWorkerPool, VirtualClock
from hpo.store.database import open_database
from hpo.store.status import read_status

SIZES, SHORT_SIZES = (100, 1_000, 10_000), (100, 1_000)
BLOCK = 10
MOST_GROWTH = 2.0
MANY_WORKERS = 1_000
FINISHED = 5_000
MOST_MILLISECONDS = 120
PROGRESS_EVERY = TRIAL_SECONDS / 20
"""Seconds between two words of a trial on its progress: as often as forecasts learn from them."""
TIME = "25m"
"""Of a search with a deadline: two trials a worker and the tail, in which fewer and fewer fit."""
Stores = Mapping[int, str]
"""Finished trials -> URL of the store that has so many."""


def verbs(stores: Stores, short: bool) -> list[Figure]:
    """Random search without a pruner: every verb costs the same, however many trials there are."""
    timings = _in_turns(stores, _blocks(short))
    _print_table(timings)
    return [_growth(timings, verb) for verb in (*CALLS, "standing")]


def pruner(stores: Stores, short: bool) -> list[Figure]:
    """The same with the median pruner, which goes through all finished trials at each report; it is Optuna's own."""
    timings = _in_turns(stores, _blocks(short), pruner="median")
    _print_table(timings)
    return [_told(timings, "observe")]


def tpe(stores: Stores, short: bool) -> list[Figure]:
    """TPE, which sees the best trials and an even part of the others: it costs no more beyond a thousand."""
    timings = _in_turns(stores, _blocks(short) // 2, sampler="tpe")
    _print_table(timings)
    bounded = timings if short else {size: timings[size] for size in SIZES[1:]}
    return [_told(timings, "next_assignment"), _growth(bounded, "next_assignment")]


def leader(stores: Stores, short: bool) -> list[Figure]:
    """What one leader sustains with as many workers as a large cluster has."""
    size, workers = max(stores), WORKERS if short else MANY_WORKERS
    began = time.perf_counter()
    with led(study_at(stores[size])) as coordinator:
        started = time.perf_counter() - began
        timings = Load(coordinator, workers).train(BLOCK * _blocks(short))
    _print_table({size: timings})
    a_second = 1000 / timings.of_a_trial()
    needed = workers / TRIAL_SECONDS
    status = _status_milliseconds(stores)
    return [
        Figure(name=f"start at {size:,} trials", measured=f"{started:.1f} s", good=started < 30),
        Figure(
            name=f"{workers:,} workers, trials of {TRIAL_SECONDS / 60:.0f} minutes",
            measured=f"one leader sustains {a_second:.1f} trials a second and needs {needed:.2f}: it is busy "
            f"{needed / a_second:.0%} of its time, and {a_second * TRIAL_SECONDS:,.0f} workers would be all of it",
            good=needed < a_second,
        ),
        Figure(
            name="hpo status", measured=", ".join(f"{one:,} trials {took:.0f} ms" for one, took in status.items()),
            good=max(status.values()) < 1000,
        ),
    ]  # fmt: skip


def dispatch(stores: Stores, short: bool) -> list[Figure]:
    """TPE with a deadline, by all of the dispatch: a trial costs the same, or at most twice as much, however many run.

    So what a leader does in all grows as the workers do, and not as their square. Counted is all of a search, from the
    beginning, when all workers ask at once, to its tail: every verb, forecasts, files, and the dispatch's own loop; not
    the launcher and what other processes do.
    """
    counts = (WORKERS // 4, WORKERS) if short else (MANY_WORKERS // 4, MANY_WORKERS)
    few, many = (_searched(url, workers, short) for workers, url in zip(counts, stores.values(), strict=False))
    took, bar = f"{many:.0f} ms a trial", MOST_MILLISECONDS
    return [
        Figure(name=f"{counts[1]:,} workers", measured=f"{took} (bar: {bar})", good=many < bar),
        Figure(
            name=f"{counts[1]:,} workers for {counts[0]:,}",
            measured=f"{took} for {few:.0f} (bar: {MOST_GROWTH:g} times as much)", good=many < MOST_GROWTH * few,
        ),
    ]  # fmt: skip


SECTIONS: Mapping[str, Callable[[Stores, bool], list[Figure]]] = {
    "verbs": verbs,
    "pruner": pruner,
    "tpe": tpe,
    "leader": leader,
    "dispatch": dispatch,
}


def main() -> None:
    """Run the sections that are asked for; end with 1 where a figure is not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--short", action="store_true", help="up to 1,000 trials, and fewer of them timed")
    asked = parser.parse_args()
    with postgresql_server() as (_, url):
        seeded = _seeded(url, SHORT_SIZES if asked.short else SIZES)
        bad = [name for name in asked.only if not shown(name, seeded, asked.short)]
    if bad:
        sys.exit(f"Not as it should be: {', '.join(bad)}.")


def shown(name: str, seeded: Stores, short: bool) -> bool:
    """Run a section on copies of the stores, print its figures, and return whether all are good."""
    began = time.monotonic()
    figures = SECTIONS[name]({size: _copied(url, f"{name}_{size}") for size, url in seeded.items()}, short)
    print(f"{name} ({time.monotonic() - began:.0f} s)")
    for figure in figures:
        print(f"  {'good' if figure.good else 'BAD '}  {figure.name}: {figure.measured}", flush=True)
    return all(figure.good for figure in figures)


def _seeded(url: str, sizes: Sequence[int]) -> Stores:
    """Search the first trials at `url`, and return stores with so many of them."""
    with led(study_at(url)) as coordinator:
        load = Load(coordinator, workers=16)
        load.train(sizes[0] - 16)
        load.drain()
    stores = {size: _copied(url, f"seeded_{size}") for size in sizes}
    for size in sizes[1:]:
        seed(stores[size], size)
    return stores


def _copied(url: str, name: str) -> str:
    """Copy a database under another name, and return its URL."""
    here = make_url(url)
    engine = sa.create_engine(here.set(database="template1"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {here.database}"))
    engine.dispose()
    return here.set(database=name).render_as_string(hide_password=False)


def _searched(url: str, workers: int, short: bool) -> float:
    """Search until a deadline in a study of `FINISHED` trials; return the milliseconds spent on each that ended."""
    seed(url, max(SHORT_SIZES) if short else FINISHED)
    clock, timings = VirtualClock(), Timings()
    pool = ReplayWorkerPool(workers, Curves(), clock, metric="macro_f1", progress_every=PROGRESS_EVERY)
    config = study_at(url, sampler="tpe", time=TIME)
    with led(config, clock) as coordinator, tempfile.TemporaryDirectory() as files:
        before = coordinator.standing().finished
        for called, verbs in ((coordinator, CALLS), (pool, ("listen",))):
            for verb in verbs:
                setattr(called, verb, partial(timings.call, getattr(called, verb)))
        began = time.perf_counter()
        Dispatch(coordinator, pool, SearchCallback(), Event(), files=Path(files), clock=clock, ticks=clock).run()
        total = 1000 * (time.perf_counter() - began)
        trials = coordinator.standing().finished - before
    told = {verb: sum(taken) / trials for verb, taken in timings.taken.items()}
    each = total / trials - told.pop("listen")
    of_verbs = ", ".join(f"{verb} {taken:.1f}" for verb, taken in told.items())
    print(f"{workers:,} workers, {trials:,} trials; ms a trial: {of_verbs}, all else {each - sum(told.values()):.1f}")
    return each


def _blocks(short: bool) -> int:
    return 3 if short else 8


def _in_turns(stores: Stores, blocks: int, *, sampler: str = "random", pruner: str = "none") -> Mapping[int, Timings]:
    """Let each study train so many blocks of trials, and return what the verbs took by its size."""
    timings = {size: Timings() for size in stores}
    with _loaded(stores, sampler, pruner) as loads:
        for _ in range(blocks):
            for size, load in loads.items():
                timings[size].add(load.train(BLOCK))
    return timings


@contextmanager
def _loaded(stores: Stores, sampler: str, pruner: str) -> Iterator[Mapping[int, Load]]:
    with ExitStack() as leads:
        yield {
            size: Load(leads.enter_context(led(study_at(url, sampler=sampler, pruner=pruner))))
            for size, url in stores.items()
        }


def _print_table(timings: Mapping[int, Timings]) -> None:
    print(f"{'median / p95, ms':<20}" + "".join(f"{size:>10,} trials" for size in timings))
    for verb in (*CALLS, "standing"):
        cells = (f"{one.median(verb):.1f} / {one.p95(verb):.1f}" for one in timings.values())
        print(f"  {verb:<18}" + "".join(f"{cell:>17}" for cell in cells))
    print(f"  {'a whole trial':<18}" + "".join(f"{one.of_a_trial():>17.1f}" for one in timings.values()), flush=True)


def _growth(timings: Mapping[int, Timings], verb: str) -> Figure:
    growth, told = _grown(timings, verb)
    return Figure(name=verb, measured=f"{told} (bar: less than {MOST_GROWTH:g})", good=growth < MOST_GROWTH)


def _told(timings: Mapping[int, Timings], verb: str) -> Figure:
    return Figure(name=verb, measured=_grown(timings, verb)[1], good=True)


def _grown(timings: Mapping[int, Timings], verb: str) -> tuple[float, str]:
    """Return how many times as much a verb costs in the longest study as in the shortest, and that in words."""
    (first, fewest), *_, (last, most) = timings.items()
    growth = most.median(verb) / fewest.median(verb)
    return growth, f"{growth:.2f} times as much at {last:,} trials as at {first:,}"


def _status_milliseconds(stores: Stores) -> Mapping[int, float]:
    """Return what `hpo status` takes to read, by the study's size."""
    taken = {}
    for size, url in stores.items():
        database, timings = open_database(url), Timings()
        for _ in range(10):
            timings.call(read_status, database)
        database.close()
        taken[size] = median(timings.taken["read_status"])
    return taken


if __name__ == "__main__":
    main()
