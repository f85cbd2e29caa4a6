"""Settings of hpo's search compared with the shipped ones on published learning curves, on the same seeds.

Searches and cases are those of `curves.py`, with one worker. Printed are the average trials to half of the attainable
gain, as geometric mean over cases and seeds, and the ratio to what is shipped, with its 95% interval over seeds.

Run: python benchmarks/curve_settings.py --curves FILE... [--seeds 16] [--first-seed 100] [--processes 1] SETTING...
     # a SETTING is one or more overrides in quotes: search.sampler=random
"""

import argparse
import math
from pathlib import Path
from statistics import fmean

from curves import RATES, SHIPPED, Task, mapped
from intervals import interval


def main() -> None:
    """Print a line for what is shipped and for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="+", type=Path, required=True, metavar="FILE", help="tables of opda")
    parser.add_argument("--seeds", type=int, default=16, help="searches in each case, at least 2")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1, help="searches computed side by side")
    parser.add_argument("settings", nargs="+", metavar="SETTING")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    shipped: list[float] = []
    for setting in ("", *options.settings):
        tasks = [
            Task(path=path, rate=rate, workers=1, method=SHIPPED, seed=seed, overrides=tuple(setting.split()))
            for seed in seeds for path in options.curves for rate in RATES
        ]  # fmt: skip
        logs = list(map(math.log, mapped(tasks, options.processes)))
        cases = len(tasks) // len(seeds)
        of_seeds = [fmean(logs[start : start + cases]) for start in range(0, len(logs), cases)]
        shipped = shipped or of_seeds
        low, ratio, high = map(math.exp, interval([one - other for one, other in zip(of_seeds, shipped, strict=True)]))
        mean = math.exp(fmean(logs))
        print(f"{setting or 'shipped':<40}{mean:>6.2f}  ratio {ratio:.2f} [{low:.2f}, {high:.2f}]", flush=True)


if __name__ == "__main__":
    main()
