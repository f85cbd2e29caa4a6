"""Time to a good configuration on real trials: hpo against Optuna, Ray Tune and FLAML around transformers' Trainer.

    B0  Optuna's TPE around the Trainer as tutorials show it
    B1  the same done well: dynamic padding, bf16 if it is faster, the model read once
    B2  B1 with Optuna's successive halving at half epochs
    B3  Ray Tune with OptunaSearch and ASHA around the Trainer of B2
    B4  FLAML's CFO around the Trainer of B1, where flaml is installed

All search the same space over MiniLM on three data sets (`ladder_data.py`), and start with the same default. `record`
trains a bank of real trials and measures the pace of each way to train (`ladder_bank.py`). `replay` searches over the
bank on a virtual clock, as `curves.py` does over published tables. B2 gets the time of `B2_TRIALS` average trials, T.
Printed is the time, over T, until what a method hands over is worth as much as what B2 hands over at T, and how much
more it is worth at T / 2. `live` runs B2 and hpo for real, and prints what their replays say of the same time. `quick`
records a small bank and replays a few seeds, in less than 25 minutes.

Run: python benchmarks/ladder.py record|replay|live|quick FOLDER [--data headlines films products] [--trials 48]
     [--seeds 20] [--minutes 4] [--processes 2]
"""

import argparse
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import ladder_data
import numpy as np
import optuna
import transformers
from curve_peers import Handed, Peer, RayRule, search
from curve_responses import Responses, ResponseSource
from ladder_bank import FIXED, HALVING, OURS, RAY, SPACE, TRAINERS, TUTORIAL, WELL, Bank, bank_of, record, study
from ladder_trainer import TrainerLoop
from optuna.pruners import SuccessiveHalvingPruner
from scipy.stats import t

import hpo
from hpo.messages import Assignment, Ending, Outcome
from hpo.runners.callbacks import SearchCallback
from hpo.runners.replay.curves import Curve, Point
from hpo.runners.replay.simulated_search import simulate
from hpo.space.space_file import space_of

B2_TRIALS = 16
QUICK_TRIALS, QUICK_SEEDS = 16, 5
NEVER = 2.0
"""Time over T at which a search ends."""
GOAL, DEFAULT_GOAL, UPPER_GOAL = 0.5, 0.7, 1.0
"""Of the time over T, of hpo's seconds of the default over B2's, and of the upper end of the interval of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to search."""

    name: str
    pace: str
    """Way to train whose pace it has."""
    peer: Peer | None = None
    overrides: tuple[str, ...] = ()
    """Of hpo's shipped settings."""
    is_flaml: bool = False


HPO, B2 = "hpo", "B2 Optuna, halving"
METHODS = {
    one.name: one
    for one in (
        Method(name="B0 Optuna, tutorial", pace=TUTORIAL, peer=Peer(name="TPE")),
        Method(name="B1 Optuna, done well", pace=WELL, peer=Peer(name="TPE")),
        Method(name=B2, pace=HALVING, peer=Peer(name="halving", pruner=SuccessiveHalvingPruner)),
        Method(name="B3 Ray Tune, ASHA", pace=RAY, peer=Peer(name="ASHA", rule=RayRule)),
        Method(name="B4 FLAML, CFO", pace=WELL, is_flaml=True),
        Method(name=HPO, pace=OURS),
        Method(name="hpo at B2's pace", pace=HALVING),
        Method(name="hpo, no pruner", pace=OURS, overrides=("search.pruner=none",)),
        Method(name="hpo, asynchronous median", pace=OURS, overrides=("search.pruner=asynchronous_median",)),
        Method(name="hpo, random sampler", pace=OURS, overrides=("search.sampler=random",)),
    )
    if not one.is_flaml or find_spec("flaml")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One search."""

    folder: Path
    data: str
    method: str
    seed: int


def handed_over(task: Task, trials: float = NEVER * B2_TRIALS) -> list[Handed]:
    """Return what a method hands over in the course of the time of so many average trials at the pace of B2."""
    bank, method = recorded(task.folder, task.data), METHODS[task.method]
    seconds = trials * average_seconds(bank)
    responses, space = paced(bank.responses, bank.paces[method.pace]), space_of(dict(SPACE))
    if method.peer:
        return search(method.peer, responses, space, seed=task.seed, workers=1, seconds=seconds)
    if method.is_flaml:
        return searched_by_flaml(responses, task.seed, seconds)
    config = study(
        task.data, task.folder, seed=task.seed, budget={"time": f"{seconds:.0f}s"}, overrides=method.overrides
    )
    found = simulate(config, PartlyScored(responses, config.evaluation.part_rows), metric="macro_f1")
    return [Handed(one.found_at, one.true_score) for one in found.incumbents]


@dataclass(frozen=True, slots=True)
class PartlyScored(ResponseSource):
    """Curves whose rungs are scored on a part of validation: as recorded, and the noise of that part beside."""

    rows: int

    def curve(self, assignment: Assignment) -> Curve:
        """Return the recorded curve, with noise of which the variance is that of an accuracy."""
        curve = ResponseSource.curve(self, assignment)
        random = np.random.default_rng(assignment.seed)
        full = {one.rung for one in assignment.milestones if one.full}
        more = 1 / self.rows - 1 / ladder_data.VALIDATION

        def scored(point: Point) -> float:
            if point.rung in full:
                return point.score
            return point.score + math.sqrt(max(0.0, point.score * (1 - point.score) * more)) * random.standard_normal()

        points = tuple(replace(point, score=scored(point)) for point in curve.points)
        return replace(curve, points=points)


def average_seconds(bank: Bank) -> float:
    """Return the seconds of an average trial at the pace of B2."""
    return bank.responses.table.average_seconds * bank.paces[HALVING]


def paced(responses: Responses, pace: float) -> Responses:
    """Return responses whose trials take `pace` times as long."""
    return replace(responses, fit={**responses.fit, "pass_seconds": pace * responses.fit["pass_seconds"]})


def searched_by_flaml(responses: Responses, seed: int, seconds: float) -> list[Handed]:
    """Return what FLAML's CFO hands over, told the least epochs as its low-cost start, as its manual advises."""
    from flaml import tune

    domains = {
        name: tune.choice(one["values"]) if "values" in one
        else tune.randint(one["min"], one["max"] + 1) if isinstance(one["min"], int)
        else (tune.loguniform if "distribution" in one else tune.uniform)(one["min"], one["max"])
        for name, one in SPACE.items() if "value" not in one
    }  # fmt: skip
    handed: list[Handed] = []
    spent, best = 0.0, -math.inf

    def evaluate(values: Mapping[str, Any]) -> dict[str, float]:
        nonlocal spent, best
        trained = responses.trained({**FIXED, **values}, seed + round(1000 * spent))
        spent += trained.seconds
        score = trained.score(1.0)
        if score > best and spent <= seconds:
            best = score
            handed.append(Handed(spent, responses.worth({**FIXED, **values})))
        return {"score": score, "seconds": trained.seconds}

    default = {name: value for name, value in space_of(dict(SPACE)).default_values().items() if name not in FIXED}
    tune.run(
        evaluate, config=domains, metric="score", mode="max", points_to_evaluate=[default], cost_attr="seconds",
        low_cost_partial_config={"epochs": SPACE["epochs"]["min"]}, num_samples=round(3 * NEVER * B2_TRIALS),
        verbose=0, use_ray=False,
    )  # fmt: skip
    return handed


@cache
def recorded(folder: Path, data: str) -> Bank:
    """Return the bank of a data set, read once in a process."""
    return bank_of(data, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A search beside that of B2 with the same seed."""

    time: float
    """Time until what it hands over is worth what B2 hands over at T, over T; `NEVER` at most."""
    more: float
    """What it hands over at T / 2 is worth more than what B2 hands over at T."""


def against(handed: Sequence[Handed], ends: Sequence[Handed], whole: float) -> Against:
    """Compare a search with that of B2, which ends after `whole` seconds."""
    target = worth_at(ends, whole)
    reached = min((one.moment / whole for one in handed if one.worth >= target), default=NEVER)
    return Against(time=min(NEVER, reached), more=worth_at(handed, whole / 2) - target)


def worth_at(handed: Sequence[Handed], moment: float) -> float:
    """Return what is handed over at a moment; before anything is, the first."""
    return next((one.worth for one in reversed(handed) if one.moment <= moment), handed[0].worth)


def replay(options: argparse.Namespace) -> int:
    """Print what each method takes; return the number of goals missed."""
    tasks = [
        Task(folder=options.folder, data=data, method=method, seed=seed)
        for data in options.data for method in METHODS for seed in range(options.seeds)
    ]  # fmt: skip
    with ProcessPoolExecutor(options.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        handed = dict(zip(tasks, pool.map(handed_over, tasks), strict=True))
    missed = sum(described(options.folder, data) for data in options.data)
    found = {
        task: against(
            handed[task],
            handed[replace(task, method=B2)],
            B2_TRIALS * average_seconds(recorded(task.folder, task.data)),
        )
        for task in tasks
    }
    print(
        f"\n{'time over that of B2':<28}"
        + "".join(f"{data:>11}" for data in options.data)
        + f"{'mean':>7}  worth more at T / 2"
    )
    for method in METHODS:
        by_data = [
            [found[task] for task in tasks if (task.method, task.data) == (method, data)] for data in options.data
        ]
        logs = [fmean(math.log(one.time) for one in of_seed) for of_seed in zip(*by_data, strict=True)]
        more = [fmean(one.more for one in of_seed) for of_seed in zip(*by_data, strict=True)]
        cells = "".join(f"{math.exp(fmean(math.log(one.time) for one in some)):>11.2f}" for some in by_data)
        low, ratio, high = (math.exp(one) for one in interval(logs))
        below, mean, above = interval(more)
        print(f"{method:<28}{cells}{ratio:>7.2f} [{low:.2f}, {high:.2f}]  {mean:+.3f} [{below:+.3f}, {above:+.3f}]")
        if method == HPO:
            missed += (ratio > GOAL) + (high >= UPPER_GOAL)
    print(f"{'BAD' if missed else 'good'}: {missed} goals missed")
    return missed


def described(folder: Path, data: str) -> int:
    """Print a data set, its noise and its paces; return the number of goals missed."""
    bank = recorded(folder, data)
    responses, seconds = bank.responses, bank.responses.table.average_seconds
    default = responses.worth(space_of(dict(SPACE)).default_values())
    gain, ratios = responses.best - default, bank.default_ratios[HALVING]
    paces = ", ".join(f"{way} {pace:.2f}" for way, pace in sorted(bank.paces.items(), key=lambda item: item[1]))
    print(
        f"{data}: {len(responses.table.rows)} trials of {seconds:.1f} s, texts of {'/'.join(map(str, bank.lengths))} "
        f"tokens (least, median, most)\n  noise of a score {responses.noise:.3f}, gain {gain:.3f} over the default's "
        f"{default:.3f}\n  pace: {paces}\n  the default takes {median(ratios):.2f} times as long as in B2 "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return (gain < 2 * responses.noise) + (median(ratios) > DEFAULT_GOAL)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean between the ends of its 95% interval."""
    reach = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - reach, fmean(values), fmean(values) + reach


def live(options: argparse.Namespace) -> None:
    """Run B2 and hpo for real, one after the other, and print both beside their replays."""
    seconds = 60.0 * options.minutes
    for data in options.data:
        trials = seconds / average_seconds(recorded(options.folder, data))
        for seed in range(options.seeds):
            for method, run in ((B2, live_b2), (HPO, live_hpo)):
                scores = run(options.folder, data, seed, seconds)
                reached, best = max(scores, key=lambda one: one[1])
                said = handed_over(Task(folder=options.folder, data=data, method=method, seed=seed), trials)
                print(
                    f"{data}, seed {seed}, {method}: {len(scores)} scores, best {best:.3f} after {reached:.0f} s; "
                    f"the replay hands over {worth_at(said, seconds):.3f} at the end",
                    flush=True,
                )


def live_b2(folder: Path, data: str, seed: int, seconds: float) -> list[tuple[float, float]]:
    """Run B2 for so many seconds; return when each trial completed, and its score."""
    began, scores = time.perf_counter(), []
    loop, space = TrainerLoop(ladder_data.write(data, folder), **TRAINERS[HALVING]), space_of(dict(SPACE))
    loop.open()

    def objective(trial: optuna.Trial) -> float:
        pruned = False

        def heard(number: int, score: float) -> bool:
            nonlocal pruned
            trial.report(score, number)
            pruned = trial.should_prune()
            return pruned

        score = loop.train({**space.suggest(trial), **FIXED}, seed=trial.number, heard=heard)
        if pruned:
            raise optuna.TrialPruned
        scores.append((time.perf_counter() - began, score))
        return score

    search = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=SuccessiveHalvingPruner()
    )  # fmt: skip
    search.enqueue_trial(space.sampled(space.default_values()))
    search.optimize(objective, timeout=seconds)
    return scores


def live_hpo(folder: Path, data: str, seed: int, seconds: float) -> list[tuple[float, float]]:
    """Run hpo for so many seconds; return when each trial completed, and its score."""
    began, scores = time.perf_counter(), []

    class Scores(SearchCallback):
        """Notes the score of each completed trial."""

        def ended(self, outcome: Outcome) -> None:
            if outcome.ending is Ending.COMPLETED and outcome.best:
                scores.append((time.perf_counter() - began, outcome.best.validation.objective))

    with tempfile.TemporaryDirectory() as store:
        url = f"sqlite:///{Path(store) / 'hpo.db'}"
        hpo.run(study(data, folder, seed=seed, budget={"time": f"{seconds:.0f}s"}, store={"url": url}), Scores())
    return scores


def main() -> int:
    """Do what the command line asks for; return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "replay", "live", "quick"))
    parser.add_argument("folder", type=Path, help="of the bank")
    parser.add_argument("--data", nargs="+", choices=ladder_data.DATA_SETS, default=list(ladder_data.DATA_SETS))
    parser.add_argument("--trials", type=int, default=48, help="record: configurations of each data set")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each method")
    parser.add_argument("--minutes", type=float, default=4.0, help="live: of each search")
    parser.add_argument("--processes", type=int, default=2, help="replay: searches computed side by side")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options.folder = options.folder.absolute()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.what == "quick":
        options.trials, options.seeds = QUICK_TRIALS, QUICK_SEEDS
    if options.what in ("record", "quick"):
        for data in options.data:
            record(data, options.folder, options.trials)
    if options.what in ("replay", "quick"):
        return 1 if replay(options) else 0
    if options.what == "live":
        live(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
