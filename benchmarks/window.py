"""Cost of TPE's window on a long study, against TPE that sees all trials, on the objectives of `samplers.py`.

Run it with `python benchmarks/window.py [--trials 1000] [--window 250] [--seeds 12] [--workers 2]`.

Each seed draws an objective and searches it twice: once with every finished trial in view, once with the best 25 and an
even part of the others, as `hpo.search.samplers` has them. Up to as many trials as the window holds both are the same
search. A search of 1,000 trials takes one to two minutes.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean

import optuna

sys.path[:0] = [str(Path(__file__).parent)]

from samplers import Contestant, draw_objective, regret, standard_error, study  # noqa: E402

from hpo.search.samplers import TPE_WINDOW, PerTrialSampler, Window, build_sampler  # noqa: E402
from hpo.space.space_file import space_of  # noqa: E402

SPACE = "encoder"


def seeing(window: Window | None, trials: int, seed: int) -> PerTrialSampler:
    """Return the sampler that is shipped, with another window; None for all of a study."""
    sampler = build_sampler(study(SPACE, "tpe", seed, trials), space_of(SPACE))
    assert isinstance(sampler, PerTrialSampler)
    sampler._window = window
    return sampler


def regrets(trials: int, window: Window, seed: int) -> tuple[float, float]:
    """Return what a search loses that sees all, and one that sees the window."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective = draw_objective(space_of(SPACE), seed)
    whole, part = (
        regret(Contestant(name="", build=partial(seeing, seen, trials)), objective, trials, seed)
        for seen in (None, window)
    )
    return whole, part


def main() -> None:
    """Print a line a seed, and what they come to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="of each search")
    parser.add_argument("--window", type=int, default=250, help="finished trials that are seen, the best 25 among them")
    parser.add_argument("--seeds", type=int, default=12, help="objectives, at least 2")
    parser.add_argument("--workers", type=int, default=2, help="searches side by side")
    asked = parser.parse_args()
    if asked.window < TPE_WINDOW.best:
        parser.error(f"--window must be at least {TPE_WINDOW.best}, the best that are always seen")
    window = replace(TPE_WINDOW, others=asked.window - TPE_WINDOW.best)
    print(f"{asked.trials} trials over {SPACE}, regret: all are seen, {asked.window} are seen, difference", flush=True)
    found = []
    with ProcessPoolExecutor(asked.workers) as pool:
        for seed, (whole, part) in enumerate(pool.map(partial(regrets, asked.trials, window), range(asked.seeds))):
            found.append((whole, part))
            print(f"  seed {seed:<3} {whole:6.3f} {part:6.3f} {part - whole:+7.3f}", flush=True)
    whole, part = (mean(one) for one in zip(*found, strict=True))
    error = standard_error([of_part - of_whole for of_whole, of_part in found])
    print(f"  mean     {whole:6.3f} {part:6.3f} {part - whole:+7.3f}, standard error {error:.3f}")


if __name__ == "__main__":
    main()
