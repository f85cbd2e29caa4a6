"""Budget that searches with `budget.patience` use, and gain that they keep, on published learning curves.

Each search replays the tables of `curves.py` with the shipped settings, one worker, and the time of 64 average trials:
once to its deadline, and once with each patience. Printed are the share of the time that it uses, and the share of the
attainable gain over the default that the configuration is worth which it hands over, both in the mean over seeds.

Run: python benchmarks/patience.py --curves FILE... [--patience 8 16 32] [--seeds 16] [--first-seed 100] [overrides]
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from curve_responses import ResponseSource
from curves import AVERAGE_TRIALS, IN_MEMORY, RATES, SHIPPED, Task, name_of, responses_of, study
from intervals import interval

from hpo.runners.replay.simulated_search import simulate

Case = tuple[Path, float]
"""Table, and rate of the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A search at its end."""

    used: float
    """Share of the time that it was given."""
    reached: float
    """Worth of its configuration: 0 is that of the default, 1 that of the best row of the table."""


def ended(case: Case, seed: int, patience: int | None, overrides: Sequence[str] = ()) -> Ended:
    """Return the end of a search; None for no patience."""
    more = () if patience is None else (f"budget.patience={patience}",)
    task = Task(path=case[0], rate=case[1], workers=1, method=SHIPPED, seed=seed, overrides=(*overrides, *more))
    responses = responses_of(task.path, turned_round=seed % 2 == 1)
    space, seconds = responses.table.search_space(task.rate), AVERAGE_TRIALS * responses.table.average_seconds
    if IN_MEMORY.is_dir():
        tempfile.tempdir = str(IN_MEMORY)
    found = simulate(study(space, task, seconds), ResponseSource(responses), metric="accuracy")
    default = responses.worth(space.default_values())
    worth = found.incumbents[-1].true_score if found.incumbents else default
    return Ended(used=found.seconds / seconds, reached=(worth - default) / (responses.best - default))


Searches = Mapping[tuple[Case, int | None], Sequence[Ended]]
"""(case, patience) -> the search of each seed."""


def print_table(searches: Searches, cases: Sequence[Case], patiences: Sequence[int]) -> None:
    """Print what each patience uses and reaches in each case, and the gain that it keeps, with its 95% interval."""
    print(f"{'':<14}" + "".join(f"{f'{name_of(path)[:7]} x{rate:g}':>14}" for path, rate in cases) + f"{'mean':>14}")
    whole = over_seeds([searches[case, None] for case in cases])
    for patience in (None, *patiences):
        found = [searches[case, patience] for case in cases]
        means = [(fmean(one.used for one in of_case), fmean(one.reached for one in of_case)) for of_case in found]
        means.append((fmean(used for used, _ in means), fmean(reached for _, reached in means)))
        name = "no patience" if patience is None else f"patience {patience}"
        print(f"{name:<14}" + "".join(f"{f'{used:.2f} / {reached:.2f}':>14}" for used, reached in means), end="")
        kept = [1 + (one - other) / fmean(whole) for one, other in zip(over_seeds(found), whole, strict=True)]
        low, mean, high = interval(kept)
        print(f"  keeps {mean:.2f} [{low:.2f}, {high:.2f}]", flush=True)


def over_seeds(found: Sequence[Sequence[Ended]]) -> list[float]:
    """Return the mean over cases of what is reached, for each seed."""
    return [fmean(one.reached for one in of_seed) for of_seed in zip(*found, strict=True)]


def main() -> None:
    """Run all searches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="+", type=Path, required=True, metavar="FILE", help="tables of opda")
    parser.add_argument("--patience", nargs="+", type=int, default=[8, 16, 32])
    parser.add_argument("--seeds", type=int, default=16, help="searches in each case, at least 2")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("overrides", nargs="*", help="other settings than the shipped ones")
    options = parser.parse_args()
    cases = [(path, rate) for path in options.curves for rate in RATES]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    searches = {
        (case, patience): [ended(case, seed, patience, options.overrides) for seed in seeds]
        for case in cases for patience in (None, *options.patience)
    }  # fmt: skip
    print_table(searches, cases, options.patience)


if __name__ == "__main__":
    main()
