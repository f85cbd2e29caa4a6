"""Sequential halving of a confirmation: which configurations take part, and which is trained on a fresh seed next.

By Karnin, Koren and Somekh (2013): all finalists run under one seed, then the better half under the next, and so on
until one is left, which runs alone. The default, with which all are compared, runs under every
seed. Seeds are common to all.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.config.study_file import ConfirmationConfig
from hpo.messages import Ending
from hpo.store.results import StudyResults, TrialResult

NO_SCORE = -math.inf
"""Of a run that ended without one: its configuration is behind all others."""
SEEDS_OF_THE_LAST = 3
"""Seeds that the last finalist and the default should at least have."""
LEAST_RUNS = 4
"""Two configurations under two seeds: fewer runs tell nothing of the noise of seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Configurations that take part, and how many runs there may be."""

    finalists: tuple[int, ...]
    """Trials of the search, the best first, without the default."""
    default: int | None
    """The trial of the default configuration; None where it takes no part."""
    runs: int
    """Most runs of those that take part; runs of others that took part earlier do not count."""
    seeds: int
    """Most runs of one."""

    @property
    def entrants(self) -> tuple[int, ...]:
        """All that take part; the default first, so that there is always something to compare with."""
        return (() if self.default is None else (self.default,)) + self.finalists


@dataclass(frozen=True, slots=True)
class RaceState:
    """How a race stands."""

    ended: Mapping[int, Sequence[float]]
    """Trial -> scores of its runs that have ended, in the order of their seeds, up to the first that has not."""
    begun: Mapping[int, int]
    """Trial -> number of runs that were begun, ended ones included."""


def next_trial(race: Race, state: RaceState) -> int | None:
    """Return the trial to be trained on its next seed; None where there is none now, or none any more.

    A worker that finds nothing to do in this round begins the next one, with a trial still in contention.
    """
    if sum(state.begun.get(trial, 0) for trial in race.entrants) >= race.runs:
        return None
    open_ones = [trial for trial in in_contention(race, state) if state.begun.get(trial, 0) < race.seeds]
    return min(open_ones, key=lambda trial: state.begun.get(trial, 0), default=None)


def in_contention(race: Race, state: RaceState) -> tuple[int, ...]:
    """Return the trials that still get seeds: the default, and the finalists that are left."""
    left, _ = _halved(race, state)
    return race.entrants[: len(race.entrants) - len(race.finalists)] + tuple(left)


def _halved(race: Race, state: RaceState) -> tuple[list[int], int]:
    """Return the finalists that are left, and after how many rounds."""
    left = list(race.finalists)
    rounds = 0
    while len(left) > 1 and all(len(state.ended.get(trial, ())) > rounds for trial in left):
        rounds += 1
        left = ranked(left, state, rounds)[: max(1, len(left) // 2)]
    return left, rounds


def winner_of(race: Race, state: RaceState, scored: Collection[int]) -> tuple[int, int]:
    """Return the finalist that won, and how many of its runs decided that: the first so many.

    Args:
        race: that was run.
        state: of the race.
        scored: finalists that have a score, at least one.
    """
    left, rounds = _halved(race, state)
    # Where all runs of those that are left have failed, what another had before it fell behind says more.
    sound = [trial for trial in left if trial in scored] or list(scored)
    # Those with fewer runs than others that are left were cut short, or failed under a seed: no recommendation.
    most = max(len(state.ended[trial]) for trial in sound)
    rivals = [trial for trial in sound if len(state.ended[trial]) == most]
    return ranked(rivals, state)[0], most if len(rivals) > 1 else rounds


def ranked(trials: Sequence[int], state: RaceState, rounds: int | None = None) -> list[int]:
    """Return trials from best to worst by the mean of their first `rounds` scores; of equals the earlier first."""
    return sorted(trials, key=lambda trial: -float(np.mean(state.ended[trial][:rounds])))


def most_runs(finalists: int, seeds: int) -> int:
    """Return how many runs a whole race takes, the default's included."""
    runs, left = 0, finalists
    for _ in range(seeds):
        runs += left + 1
        left = max(1, left // 2)
    return runs


def finalists_for(runs: int, most: int, seeds: int) -> int:
    """Return for how many finalists so many runs suffice, at least one: seeds of the last are worth more than rivals.

    Args:
        runs: most runs in all.
        most: finalists that are asked for.
        seeds: most runs of one.
    """
    enough = [count for count in range(1, most + 1) if most_runs(count, min(seeds, SEEDS_OF_THE_LAST)) <= runs]
    return max(enough, default=min(1, most))


def race_of(results: StudyResults, config: ConfirmationConfig, trials: int | None) -> Race | None:
    """Return the race that a search ends with; None where nothing but the default completed, or none is asked for.

    Args:
        results: of the search.
        config: how many finalists and seeds, and the share of the budget.
        trials: of the budget; None where it is one of time.
    """
    default = results.default
    whole = most_runs(config.finalists, config.seeds)
    runs = min(whole, config.runs or (whole if trials is None else max(LEAST_RUNS, int(config.share * trials))))
    rivals = distinct(results)[: finalists_for(runs, config.finalists, config.seeds)]
    if not rivals:
        return None
    return Race(
        finalists=tuple(trial.number for trial in rivals),
        default=default.number if default is not None and _can_be_trained(default) else None,
        runs=min(runs, most_runs(len(rivals), config.seeds)),
        seeds=config.seeds,
    )


def _can_be_trained(trial: TrialResult) -> bool:
    """Return true for a trial that has completed, or that was only paused or pruned on the way."""
    return bool(trial.configuration) and trial.ending in (Ending.COMPLETED, Ending.PAUSED, Ending.PRUNED)


def distinct(results: StudyResults) -> list[TrialResult]:
    """Return completed trials from best to worst: each configuration once, without the default's.

    Trials that differ in the seed alone, where the space names it, are one configuration: all get fresh seeds.
    """
    default = [] if results.default is None else [results.default]
    first: dict[str, TrialResult] = {}
    for trial in (*default, *results.leaderboard):
        first.setdefault(json.dumps(dict(trial.configuration) | {"seed": None}, sort_keys=True), trial)
    return [trial for trial in first.values() if trial not in default]
