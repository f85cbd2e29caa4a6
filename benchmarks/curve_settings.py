"""Settings of hpo's search compared with the shipped ones on published learning curves, on the same seeds.

Searches and cases are those of `curves.py`, with one worker. Printed are the average trials to half of the attainable
gain, as geometric mean over the cases of each table and over all, and the ratio to what is shipped, with its 95%
interval over seeds. The last lines leave one table out: the setting that is best on the others, and its ratio on that
one.

Run: python benchmarks/curve_settings.py --curves FILE... [--seeds 16] [--first-seed 100] [--processes 1] SETTING...
     # a SETTING is one or more overrides in quotes: search.sampler=random
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean

from curves import RATES, SHIPPED, Task, mapped, name_of
from intervals import interval

Logs = Mapping[Path, Sequence[float]]
"""Table -> for each seed, the logarithm of the average trials, as mean over the rates of the default."""


def main() -> None:
    """Print a line for what is shipped, for each setting, and for each table left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="+", type=Path, required=True, metavar="FILE", help="tables of opda")
    parser.add_argument("--seeds", type=int, default=16, help="searches in each case, at least 2")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1, help="searches computed side by side")
    parser.add_argument("settings", nargs="+", metavar="SETTING")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print(f"{'':<44}" + "".join(f"{name_of(path)[:13]:>14}" for path in options.curves) + f"{'mean':>8}  ratio")
    found: dict[str, Logs] = {}
    for setting in ("", *options.settings):
        found[setting] = measured(setting, options.curves, seeds, options.processes)
        print(line(setting, found[setting], found[""]), flush=True)
    for path in options.curves:
        chosen = best_without(path, found)
        ratio = math.exp(fmean(found[chosen][path]) - fmean(found[""][path]))
        print(f"best without {name_of(path)}: {chosen or SHIPPED}, there {ratio:.2f} of {SHIPPED}")


def measured(setting: str, paths: Sequence[Path], seeds: Sequence[int], processes: int) -> Logs:
    """Search with a setting on all tables, from all seeds."""
    tasks = [
        Task(path=path, rate=rate, workers=1, method=SHIPPED, seed=seed, overrides=tuple(setting.split()))
        for path in paths for seed in seeds for rate in RATES
    ]  # fmt: skip
    logs = map(math.log, mapped(tasks, processes))
    return {path: [fmean(islice(logs, len(RATES))) for _ in seeds] for path in paths}


def line(setting: str, logs: Logs, shipped: Logs) -> str:
    """Return what is printed of a setting: its figure on each table, their mean, and the ratio to what is shipped."""
    of_seeds, of_shipped = ([fmean(seed) for seed in zip(*one.values(), strict=True)] for one in (logs, shipped))
    low, ratio, high = map(math.exp, interval([a - b for a, b in zip(of_seeds, of_shipped, strict=True)]))
    tables = "".join(f"{math.exp(fmean(of_table)):>14.2f}" for of_table in logs.values())
    return f"{setting or SHIPPED:<44}{tables}{math.exp(fmean(of_seeds)):>8.2f}  {ratio:.2f} [{low:.2f}, {high:.2f}]"


def best_without(path: Path, found: Mapping[str, Logs]) -> str:
    """Return the setting with the least time on all tables but that one."""
    return min(found, key=lambda setting: fmean(fmean(of) for other, of in found[setting].items() if other != path))


if __name__ == "__main__":
    main()
