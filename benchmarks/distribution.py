"""Utilisation of 2, 8 and 32 workers under hpo's runners and under plain Ray Tune, against the target.

Trials take no work: they sleep, and report. So they run side by side on any machine in any number, and what is measured
is what there is between them. They are much shorter than a fine-tune, so that it weighs more than it ever will. Only
starting is work, of the machine's cores: each of our workers imports torch and transformers, as it will have to.

Run: python benchmarks/distribution.py [--only WAY ...] [--side-by-side N ...] [--short]
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))

from distribution_notes import Asked, Measured

SIDE_BY_SIDE = (2, 8, 32)
FEW = 8
LEAST_SHARE = 0.90
"""Of the workers' time, that ours train while there are few of them."""
REPORTS = 4
TRIAL_SECONDS, SHORT_TRIAL_SECONDS = 5.0, 1.0
STEADY_SECONDS, SHORT_STEADY_SECONDS = 15.0, 4.0
PATIENCE_SECONDS = 180.0
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
"""Plain Ray without what it prints and logs, which it is the faster for."""


def plain(asked: Asked, *, reuse_actors: bool) -> Measured:
    os.environ |= QUIET
    import distribution_plain

    return distribution_plain.searched(asked, reuse_actors=reuse_actors)


def ours(asked: Asked, *, name: Literal["processes", "ray_tune"]) -> Measured:
    import distribution_ours

    return distribution_ours.searched(asked, name=name)


Way = Callable[[Asked], Measured]
WAYS: Mapping[str, Way] = {
    "plain": partial(plain, reuse_actors=False),
    "plain_reusing": partial(plain, reuse_actors=True),
    "processes": partial(ours, name="processes"),
    "ray_tune": partial(ours, name="ray_tune"),
}
OURS = ("processes", "ray_tune")
WAYS_OF_MANY = ("plain_reusing", *OURS)
"""Without plain Ray's default, a new process for each trial, which is then busy with nothing else."""
SHORT_WAYS = ("plain_reusing", "ray_tune")


def main() -> None:
    """Measure what is asked for; end with 1 where a figure is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WAYS)
    parser.add_argument("--side-by-side", nargs="+", type=int, metavar="N")
    parser.add_argument("--short", action="store_true", help="2 side by side, shorter, and fewer ways")
    asked = parser.parse_args()
    sizes = asked.side_by_side or ((2,) if asked.short else SIDE_BY_SIDE)
    bad = [f"{way} with {size}" for size in sizes for way in shown(size, ways_of(asked, size), asked.short)]
    if bad:
        sys.exit(f"Not as it should be: {', '.join(bad)}.")


def ways_of(asked: argparse.Namespace, workers: int) -> list[str]:
    """Return the ways to be measured with so many workers, plain Ray first, which ours is compared with."""
    usual = SHORT_WAYS if asked.short else WAYS if workers <= FEW else WAYS_OF_MANY
    return [way for way in WAYS if way in (asked.only or usual)]


def shown(workers: int, ways: list[str], short: bool) -> list[str]:
    """Measure these ways with so many workers, print what came of each, and return those that fall short."""
    print(f"{workers} side by side", flush=True)
    measured: dict[str, Measured] = {}
    bad = []
    with cluster(workers) as address:
        for way in ways:
            measured[way] = measured_in_a_process(WAYS[way], address, workers, short)
            if not is_good(way, workers, measured):
                bad.append(way)
            print(f"  {'BAD ' if way in bad else 'good'}  {way}: {told(measured[way], workers)}", flush=True)
    return bad


def is_good(way: str, workers: int, measured: Mapping[str, Measured]) -> bool:
    """Return whether ours is as busy as it should be: with many workers, `ray_tune` at least as plain Ray's best."""
    if way not in OURS:
        return True
    least = LEAST_SHARE
    if workers > FEW:
        least = max((measured[name].share for name in measured if name not in OURS and way == "ray_tune"), default=0.0)
    return measured[way].begun == workers and measured[way].share >= least


def told(measured: Measured, workers: int) -> str:
    """Return it in words."""
    all_or_not = "all" if measured.begun == workers else f"only {measured.begun} of {workers}"
    return (
        f"{measured.share:.1%} of their time in training ({measured.start_up:.1f} s until {all_or_not} were; then "
        f"{measured.trials} trials, of at most {measured.longest:.2f} s)"
    )


def measured_in_a_process(way: Way, address: str, workers: int, short: bool) -> Measured:
    """Search in a fresh process: what one way imports and sets up is nothing to the others."""
    with (
        tempfile.TemporaryDirectory(prefix="hpo-") as folder,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes,
    ):
        asked = Asked(
            folder=Path(folder),
            cluster=address,
            workers=workers,
            seconds=SHORT_TRIAL_SECONDS if short else TRIAL_SECONDS,
            reports=REPORTS,
            steady=SHORT_STEADY_SECONDS if short else STEADY_SECONDS,
            patience=PATIENCE_SECONDS,
        )
        return processes.submit(way, asked).result()


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """Start a Ray cluster of this machine with room for so many trials, however many cores it has; give its address.

    In a folder of its own, so that no other search of this machine takes it for its own.
    """
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        with patch.dict(os.environ, {"RAY_TMPDIR": folder}):
            # Imported by this process alone: in those that search, Ray is set up before it is imported.
            from ray.cluster_utils import Cluster

            started = Cluster(True, head_node_args={"num_cpus": workers, "include_dashboard": False})
        try:
            yield started.address
        finally:
            started.shutdown()


if __name__ == "__main__":
    main()
