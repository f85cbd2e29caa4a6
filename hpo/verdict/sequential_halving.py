"""Sequential halving of a confirmation: its participants, and the next one to train on a fresh seed.

By Karnin, Koren and Somekh (2013): all finalists run under one seed, then the better half under the next, and so on
until one is left, which runs alone. The default runs under every seed, because all are compared with it. All trials use
the same seeds.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpo.config.study_file import ConfirmationConfig
from hpo.messages import Ending
from hpo.store.results import StudyResults, TrialResult

NO_SCORE = -math.inf
"""Score of a run that ended without one, which ranks its configuration last."""
SEEDS_OF_THE_LAST = 3
"""Smallest number of seeds that the last finalist and the default should have."""
LEAST_RUNS = 4
"""Smallest number of runs: two configurations under two seeds, because the noise of seeds is unknown with fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Participants of a race, and its largest numbers of runs."""

    finalists: tuple[int, ...]
    """Trials of the search, the best first, without the default."""
    default: int | None
    """The trial of the default configuration; None if it does not take part."""
    runs: int
    """Largest number of runs of the participants; runs of earlier participants do not count."""
    seeds: int
    """Largest number of runs of one participant."""

    @property
    def entrants(self) -> tuple[int, ...]:
        """All participants, the default first, so that every other one can be compared with it."""
        return (() if self.default is None else (self.default,)) + self.finalists


@dataclass(frozen=True, slots=True)
class RaceState:
    """State of a race."""

    ended: Mapping[int, Sequence[float]]
    """Trial -> scores of its ended runs in the order of their seeds, up to the first run that has not ended."""
    begun: Mapping[int, int]
    """Trial -> number of started runs, including ended ones."""


def next_trial(race: Race, state: RaceState) -> int | None:
    """Return the trial to train on its next seed; None if there is none now, or the race is over.

    If all runs of this round have started, the next round begins with the trials still in contention.
    """
    if sum(state.begun.get(trial, 0) for trial in race.entrants) >= race.runs:
        return None
    open_ones = [trial for trial in in_contention(race, state) if state.begun.get(trial, 0) < race.seeds]
    return min(open_ones, key=lambda trial: state.begun.get(trial, 0), default=None)


def in_contention(race: Race, state: RaceState) -> tuple[int, ...]:
    """Return the trials that still get seeds: the default, and the remaining finalists."""
    left, _ = _halved(race, state)
    return replace(race, finalists=tuple(left)).entrants


def _halved(race: Race, state: RaceState) -> tuple[list[int], int]:
    """Return the remaining finalists, and the number of complete rounds."""
    left = list(race.finalists)
    rounds = 0
    while len(left) > 1 and all(len(state.ended.get(trial, ())) > rounds for trial in left):
        rounds += 1
        left = ranked(left, state, rounds)[: max(1, len(left) // 2)]
    return left, rounds


def winner_of(race: Race, state: RaceState, scored: Collection[int]) -> tuple[int, int]:
    """Return the finalist that won, and the number of its first runs that decided that.

    Args:
        race: the race.
        state: state of the race.
        scored: finalists that have a score, at least one.
    """
    left, rounds = _halved(race, state)
    # If all runs of the remaining finalists failed, an eliminated finalist with a score is better.
    sound = [trial for trial in left if trial in scored] or list(scored)
    # Finalists with fewer runs than other remaining ones were interrupted or failed under a seed, so they cannot win.
    most = max(len(state.ended[trial]) for trial in sound)
    rivals = [trial for trial in sound if len(state.ended[trial]) == most]
    return ranked(rivals, state)[0], most if len(rivals) > 1 else rounds


def ranked(trials: Sequence[int], state: RaceState, rounds: int | None = None) -> list[int]:
    """Return trials from best to worst by the mean of their first `rounds` scores; ties keep their order."""
    return sorted(trials, key=lambda trial: -float(np.mean(state.ended[trial][:rounds])))


def most_runs(finalists: int, seeds: int) -> int:
    """Return the number of runs of a complete race, including those of the default."""
    runs, left = 0, finalists
    for _ in range(seeds):
        runs += left + 1
        left = max(1, left // 2)
    return runs


def finalists_for(runs: int, most: int, seeds: int) -> int:
    """Return the number of finalists for which the runs suffice, at least one.

    Fewer finalists are preferred to fewer than `SEEDS_OF_THE_LAST` seeds for the last one.

    Args:
        runs: largest number of runs of the race.
        most: requested number of finalists.
        seeds: largest number of runs of one trial.
    """
    enough = [count for count in range(1, most + 1) if most_runs(count, min(seeds, SEEDS_OF_THE_LAST)) <= runs]
    return max(enough, default=min(1, most))


def race_of(results: StudyResults, config: ConfirmationConfig, trials: int | None) -> Race | None:
    """Return the race at the end of a search; None if only the default completed, or no confirmation is configured.

    Args:
        results: results of the search.
        config: numbers of finalists and seeds, and the share of the budget.
        trials: trials of the budget; None for a budget of time.
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
    """Return completed trials from best to worst, each configuration once, without the default.

    Trials that differ only in a searched seed are the same configuration, because all get fresh seeds.
    """
    default = [] if results.default is None else [results.default]
    first: dict[str, TrialResult] = {}
    for trial in (*default, *results.leaderboard):
        first.setdefault(json.dumps(dict(trial.configuration) | {"seed": None}, sort_keys=True), trial)
    return [trial for trial in first.values() if trial not in default]
