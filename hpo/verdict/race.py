"""Which configuration is trained on a fresh seed next: a race in which seeds go to those still in contention.

Sequential halving (Karnin, Koren and Somekh 2013): all finalists run under one seed, then the better half under
the next, and so on until one is left, which goes on alone. The default runs under every seed, as what all are compared
with. Seeds are common to all.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NO_SCORE = -math.inf
"""Of a run that ended without one: its configuration is behind all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Who takes part, and how many runs there may be."""

    finalists: tuple[int, ...]
    """Trials of the search, the best first, without the default."""
    default: int | None
    """The trial of the default configuration; None where it takes no part."""
    runs: int
    """Most runs of those that take part; what others had when they did counts no more."""
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
    """Trial -> scores of its runs that are over, in the order of their seeds, up to the first that is not over."""
    begun: Mapping[int, int]
    """Trial -> runs that were begun, those that are over among them."""


def following(race: Race, course: RaceState) -> int | None:
    """Return the trial to be trained on its next seed; None where there is none now, or none any more.

    A worker that finds nothing to do in this round goes ahead to the next, of those still in contention.
    """
    if sum(course.begun.get(trial, 0) for trial in race.entrants) >= race.runs:
        return None
    open_ones = [trial for trial in in_contention(race, course) if course.begun.get(trial, 0) < race.seeds]
    return min(open_ones, key=lambda trial: course.begun.get(trial, 0), default=None)


def in_contention(race: Race, course: RaceState) -> tuple[int, ...]:
    """Return who still gets seeds: the default, and what is left of the finalists."""
    left, _ = _halved(race, course)
    return race.entrants[: len(race.entrants) - len(race.finalists)] + tuple(left)


def _halved(race: Race, course: RaceState) -> tuple[list[int], int]:
    """Return the finalists that are left, and after how many rounds."""
    left = list(race.finalists)
    rounds = 0
    while len(left) > 1 and all(len(course.ended.get(trial, ())) > rounds for trial in left):
        rounds += 1
        left = ranked(left, course, rounds)[: max(1, len(left) // 2)]
    return left, rounds


def winner_of(race: Race, course: RaceState, scored: Collection[int]) -> tuple[int, int]:
    """Return the finalist that won, and how many of its runs decided that: the first so many.

    Args:
        race: that was run.
        course: how it stands.
        scored: finalists that have a score, at least one.
    """
    left, rounds = _halved(race, course)
    # Where all runs of those that are left have failed, what another had before it fell behind says more.
    sound = [trial for trial in left if trial in scored] or list(scored)
    # Those with fewer runs than others that are left were cut short, or failed under a seed: no recommendation.
    most = max(len(course.ended[trial]) for trial in sound)
    rivals = [trial for trial in sound if len(course.ended[trial]) == most]
    return ranked(rivals, course)[0], most if len(rivals) > 1 else rounds


def ranked(trials: Sequence[int], course: RaceState, rounds: int | None = None) -> list[int]:
    """Return trials from best to worst by the mean of their first `rounds` scores; of equals the earlier first."""
    return sorted(trials, key=lambda trial: -float(np.mean(course.ended[trial][:rounds])))


def most_runs(finalists: int, seeds: int) -> int:
    """Return how many runs a race takes that is run to its end, with the default."""
    runs, left = 0, finalists
    for _ in range(seeds):
        runs += left + 1
        left = max(1, left // 2)
    return runs


SEEDS_OF_THE_LAST = 3
"""That the one which is left, and the default, should at least have."""


def finalists_for(runs: int, most: int, seeds: int) -> int:
    """Return how many finalists so many runs suffice for, at least one: seeds for the last are worth more than rivals.

    Args:
        runs: most runs in all.
        most: finalists that are asked for.
        seeds: most runs of one.
    """
    enough = [count for count in range(1, most + 1) if most_runs(count, min(seeds, SEEDS_OF_THE_LAST)) <= runs]
    return max(enough, default=min(1, most))
