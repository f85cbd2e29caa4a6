"""Time to a good configuration on real trials: hpo against Optuna, Ray Tune and FLAML around transformers' Trainer.

    B0  Optuna's TPE around the Trainer as tutorials show it
    B1  the same done well: dynamic padding, bf16 if it is faster, the model read once
    B2  B1 with Optuna's successive halving at half epochs
    B3  Ray Tune with OptunaSearch and ASHA around the Trainer of B2
    B4  FLAML's BlendSearch around the Trainer of B1, if flaml is installed

All search the same space over MiniLM on three data sets (`ladder_data.py`), and start with the same default. `record`
trains a bank of real trials and measures the pace of each way to train (`ladder_bank.py`). `replay` searches over the
bank on a virtual clock, as `curves.py` does over published tables. B2 has the time of `B2_TRIALS` average trials, T.
Printed is the time, over T, until a method first hands over a configuration worth as much as B2's at T, and how much
more its configuration is worth at T / 2: geometric and plain means, with 95% intervals over seeds alone. hpo and Ray
hand over the leading trial even if it is unfinished. hpo's pauses take time (`PAUSE_SECONDS`); the start of a search
takes none, and each share of a trial takes that share of its time. `live` runs B2 for real, and hpo in half of the
time, and compares both configurations on rows that no search saw. `quick` records a small bank and replays a few seeds,
in less than 25 minutes.

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
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

import ladder_data
import numpy as np
import optuna
import transformers
from curve_peers import Handed, Peer, RayRule, search
from curve_responses import Responses, ResponseSource
from intervals import interval
from ladder_bank import (
    FIXED,
    HALVING,
    OURS,
    RAY,
    SPACE,
    TRAINERS,
    TUTORIAL,
    WELL,
    Bank,
    bank_of,
    own_trial,
    record,
    study,
)
from ladder_trainer import TrainerLoop
from optuna.pruners import SuccessiveHalvingPruner

import hpo
from hpo.messages import Action, Assignment, Decision
from hpo.runners.replay import simulated_search
from hpo.runners.replay.curves import Curve, Point
from hpo.runners.replay.worker_pool import ReplayWorkerPool
from hpo.space.space_file import space_of

B2_TRIALS = 16
QUICK_TRIALS, QUICK_SEEDS = 16, 5
NEVER = 2.0
"""Time over T at which a search ends, and which counts if it has not reached its target by then."""
LIVE_SEEDS, LIVE_SEED = 3, 1000
"""Seeds of each configuration that a live search hands over, and the seed of the study that they come from."""
GOAL, UPPER_GOAL = 0.5, 1.0
"""Goals for hpo's time over T, and for the upper end of its interval."""
DEFAULT_GOAL = 0.7
"""Goal for hpo's seconds of the default over B2's."""
PAUSE_SECONDS, RESUME_SECONDS = 0.7, 0.7
"""Seconds of writing and of reading a checkpoint of MiniLM: medians of searches of `hpo demo`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of search: hpo, unless it is a `peer` or FLAML."""

    name: str
    pace: str
    """Way to train, which decides how long its trials take."""
    peer: Peer | None = None
    overrides: tuple[str, ...] = ()
    """Overrides of hpo's shipped settings."""
    is_flaml: bool = False


HPO, B2 = "hpo", "B2 Optuna, halving"
METHODS = {
    one.name: one
    for one in (
        Method(name="B0 Optuna, tutorial", pace=TUTORIAL, peer=Peer(name="TPE")),
        Method(name="B1 Optuna, done well", pace=WELL, peer=Peer(name="TPE")),
        Method(name=B2, pace=HALVING, peer=Peer(name="halving", pruner=SuccessiveHalvingPruner)),
        Method(name="B3 Ray Tune, ASHA", pace=RAY, peer=Peer(name="ASHA", rule=RayRule)),
        Method(name="B4 FLAML, BlendSearch", pace=WELL, is_flaml=True),
        Method(name=HPO, pace=OURS),
        Method(name="hpo at B2's pace", pace=HALVING),
        Method(name="hpo, no pruner", pace=OURS, overrides=("search.pruner=none",)),
        Method(name="hpo, asynchronous median", pace=OURS, overrides=("search.pruner=asynchronous_median",)),
        Method(name="hpo, random sampler", pace=OURS, overrides=("search.sampler=random",)),
        Method(name="hpo, portfolio", pace=OURS, overrides=("search.portfolio=true",)),
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


def handed_over(task: Task, seconds: float | None = None) -> list[Handed]:
    """Return what a method hands over in the course of a search of `seconds`; None for `NEVER` times T."""
    bank, method = recorded(task.folder, task.data), METHODS[task.method]
    seconds = seconds or NEVER * time_of_b2(bank)
    responses, space = paced(bank.responses, bank.paces[method.pace]), space_of(dict(SPACE))
    if method.peer:
        return search(method.peer, responses, space, seed=task.seed, workers=1, seconds=seconds)
    if method.is_flaml:
        return searched_by_flaml(responses, task.seed, seconds)
    config = study(
        task.data, task.folder, seed=task.seed, budget={"time": f"{seconds:.0f}s"}, overrides=method.overrides
    )
    with patch.object(simulated_search, "ReplayWorkerPool", PausingPool):
        found = simulated_search.simulate(
            config, PartlyScored(responses, config.evaluation.part_rows), metric="macro_f1"
        )
    return [Handed(one.found_at, one.true_score) for one in found.incumbents]


class PausingPool(ReplayWorkerPool):
    """A replayed worker that needs time to pause and to resume a trial; the clock waits for it, as it is alone."""

    def give(self, worker: str, assignment: Assignment) -> None:
        """Begin an assignment, after the time of reading its checkpoint if it was paused."""
        if assignment.trial in self._paused:
            self._clock.advance_to(self._clock() + RESUME_SECONDS)
        super().give(worker, assignment)

    def apply(self, worker: str, decision: Decision) -> None:
        """Apply a decision, and let the time of writing a checkpoint pass if it pauses the trial."""
        super().apply(worker, decision)
        if decision.action is Action.PAUSE and decision.trial in self._paused:
            self._clock.advance_to(self._clock() + PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class PartlyScored(ResponseSource):
    """Recorded curves, with the additional noise of evaluations on a part of validation."""

    rows: int
    """Rows of that part."""

    def curve(self, assignment: Assignment) -> Curve:
        """Return a curve, with the sampling noise of an accuracy added at partial evaluations."""
        curve = ResponseSource.curve(self, assignment)
        random = np.random.default_rng(assignment.seed)
        full = {one.rung for one in assignment.milestones if one.full}
        more = 1 / self.rows - 1 / ladder_data.VALIDATION

        def scored(point: Point) -> Point:
            if point.rung in full:
                return point
            deviation = math.sqrt(max(0.0, point.score * (1 - point.score) * more))
            return replace(point, score=point.score + deviation * random.standard_normal())

        return replace(curve, points=tuple(map(scored, curve.points)))


def time_of_b2(bank: Bank) -> float:
    """Return T: the seconds of `B2_TRIALS` average trials at the pace of B2."""
    return B2_TRIALS * bank.responses.table.average_seconds * bank.paces[HALVING]


def paced(responses: Responses, pace: float) -> Responses:
    """Return responses whose trials take `pace` times as long."""
    return replace(responses, fit={**responses.fit, "pass_seconds": pace * responses.fit["pass_seconds"]})


def searched_by_flaml(responses: Responses, seed: int, seconds: float) -> list[Handed]:
    """Return what FLAML hands over, with the fewest epochs as its low-cost start, as its manual advises."""
    from flaml import BlendSearch, tune

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
        seconds_taken = trained.ends * trained.seconds
        spent += seconds_taken
        score = trained.score(1.0)
        if score > best and spent <= seconds:
            best = score
            handed.append(Handed(spent, responses.worth({**FIXED, **values})))
        return {"score": score, "seconds": seconds_taken}

    default = {name: value for name, value in space_of(dict(SPACE)).default_values().items() if name not in FIXED}
    algorithm = BlendSearch(
        metric="score", mode="max", space=domains, points_to_evaluate=[default], seed=seed, cost_attr="seconds",
        cost_budget=seconds, low_cost_partial_config={"epochs": SPACE["epochs"]["min"]},
    )  # fmt: skip
    tune.run(evaluate, search_alg=algorithm, num_samples=-1, verbose=0)
    return handed


@cache
def recorded(folder: Path, data: str) -> Bank:
    """Return the bank of a data set, read once in a process."""
    return bank_of(data, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A search compared with that of B2 with the same seed."""

    time: float
    """Time over T until its configuration is first worth as much as B2's at T; at most `NEVER`."""
    more: float
    """Worth of its configuration at T / 2, minus that of B2's at T."""


def compared(handed: Sequence[Handed], of_b2: Sequence[Handed], whole: float) -> Comparison:
    """Compare a search with that of B2, which ends after `whole` seconds."""
    target = worth_at(of_b2, whole)
    reached = min((one.moment / whole for one in handed if one.worth >= target), default=NEVER)
    return Comparison(time=min(NEVER, reached), more=worth_at(handed, whole / 2) - target)


def worth_at(handed: Sequence[Handed], moment: float) -> float:
    """Return the worth of what is handed over at a moment, or of the first if that comes later."""
    return next((one.worth for one in reversed(handed) if one.moment <= moment), handed[0].worth)


def replay(options: argparse.Namespace) -> int:
    """Print the comparison of all methods with B2; return the number of goals missed."""
    tasks = [
        Task(folder=options.folder, data=data, method=method, seed=seed)
        for data in options.data for method in METHODS for seed in range(options.seeds)
    ]  # fmt: skip
    with ProcessPoolExecutor(options.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        handed = dict(zip(tasks, pool.map(handed_over, tasks), strict=True))
    missed = sum(described(options.folder, data) for data in options.data)
    found = {
        task: compared(handed[task], handed[replace(task, method=B2)], time_of_b2(recorded(task.folder, task.data)))
        for task in tasks
    }
    header = "".join(f"{data:>11}" for data in options.data)
    print(f"\n{'time over T':<28}{header}{'mean':>7}  worth more at T / 2")
    for method in METHODS:
        by_data = [
            [found[task] for task in tasks if (task.method, task.data) == (method, data)] for data in options.data
        ]
        by_seed = list(zip(*by_data, strict=True))
        logs = [fmean(math.log(one.time) for one in of_seed) for of_seed in by_seed]
        more = [fmean(one.more for one in of_seed) for of_seed in by_seed]
        cells = "".join(f"{math.exp(fmean(math.log(one.time) for one in some)):>11.2f}" for some in by_data)
        low, ratio, high = (math.exp(one) for one in interval(logs))
        below, mean, above = interval(more)
        print(f"{method:<28}{cells}{ratio:>7.2f} [{low:.2f}, {high:.2f}]  {mean:+.3f} [{below:+.3f}, {above:+.3f}]")
        if method == HPO:
            missed += (ratio > GOAL) + (high >= UPPER_GOAL)
    print(f"{'BAD' if missed else 'good'}: {missed} goals missed")
    return missed


def described(folder: Path, data: str) -> int:
    """Print the noise and the paces of a data set; return the number of goals missed."""
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


def live(options: argparse.Namespace) -> None:
    """Run B2 for T and hpo for T / 2, and compare what their configurations are worth on rows that neither saw.

    Both configurations are trained again, on `LIVE_SEEDS` fresh seeds each.
    """
    seconds = 60.0 * options.minutes
    for data in options.data:
        unseen = str(ladder_data.write(data, options.folder)["unseen"])
        sources = study(data, options.folder).data.model_dump() | {"validation": unseen}
        worth = own_trial(
            data, options.folder, seeds=LIVE_SEEDS, data=sources, evaluation={"full_reports": 1}, seed=LIVE_SEED
        )
        more = []
        for seed in range(options.seeds):
            theirs = worth(live_b2(options.folder, data, seed, seconds))
            ours = worth(live_hpo(options.folder, data, seed, seconds / 2))
            more.append(ours - theirs)
            print(
                f"{data}, seed {seed}: B2 after {seconds:.0f} s {theirs:.3f}, hpo after {seconds / 2:.0f} s {ours:.3f}",
                flush=True,
            )
        if len(more) > 1:
            low, mean, high = interval(more)
            print(f"{data}: hpo in half of the time {mean:+.3f} [{low:+.3f}, {high:+.3f}]", flush=True)


def live_b2(folder: Path, data: str, seed: int, seconds: float) -> Mapping[str, Any]:
    """Run B2; return the configuration with the best score of those that were completed in time."""
    began, found = time.perf_counter(), []
    loop, space = TrainerLoop(ladder_data.write(data, folder), **TRAINERS[HALVING]), space_of(dict(SPACE))
    loop.open()

    def objective(trial: optuna.Trial) -> float:
        pruned, values = False, {**space.suggest(trial), **FIXED}

        def heard(number: int, score: float) -> bool:
            nonlocal pruned
            trial.report(score, number)
            pruned = trial.should_prune()
            return pruned

        score = loop.train(values, seed=trial.number, heard=heard)
        if pruned:
            raise optuna.TrialPruned
        # The Trainer trains the last trial to its end, after the time is up.
        if time.perf_counter() - began <= seconds:
            found.append((score, trial.number, values))
        return score

    search = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=SuccessiveHalvingPruner()
    )  # fmt: skip
    search.enqueue_trial(space.sampled(space.default_values()))
    search.optimize(objective, timeout=seconds)
    return max(found)[2] if found else space.default_values()


def live_hpo(folder: Path, data: str, seed: int, seconds: float) -> Mapping[str, Any]:
    """Run hpo; return the configuration that it hands over."""
    with tempfile.TemporaryDirectory() as store:
        url = f"sqlite:///{Path(store) / 'hpo.db'}"
        budget = {"time": f"{seconds:.0f}s"}
        return hpo.run(study(data, folder, seed=seed, budget=budget, store={"url": url})).best.configuration


def main() -> int:
    """Run the command; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "replay", "live", "quick"))
    parser.add_argument("folder", type=Path, help="folder of the bank")
    parser.add_argument("--data", nargs="+", choices=ladder_data.DATA_SETS, default=list(ladder_data.DATA_SETS))
    parser.add_argument("--trials", type=int, default=48, help="record: configurations of each data set")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each method")
    parser.add_argument("--minutes", type=float, default=4.0, help="live: of B2")
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
            few = {"turns": 1, "others": 1} if options.what == "quick" else {}
            record(data, options.folder, options.trials, **few)
    if options.what in ("replay", "quick"):
        return 1 if replay(options) else 0
    if options.what == "live":
        live(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
