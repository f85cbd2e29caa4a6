"""Simulated searches with known true scores, through hpo's own race and recommendation.

A run of configuration j under a seed answers row i correctly where

    a_j + S + D_i + U_ji + V_i > 0,

all normal: D is how hard the row is, the same for all; U how the row suits the configuration, under all of its seeds;
V how it suits this run; S how good the seed is on all rows (a probit model with crossed random effects). Labels are
balanced and errors as frequent in either, so binary F1 over all rows that could be is the accuracy, for which a_j is
solved. A search scores each of 40 configurations by one seed, the default among them, on the rows it chooses by. Its
best three and the default are trained again as the race asks, 10 runs in all, one after the other. The verdict is about
rows that were kept, or, where validation is small, about those that the search chose by, with the bias taken off.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

sys.path[:0] = [str(Path(__file__).parents[1])]

from hpo.metrics.jackknife import leave_out_groups, scale  # noqa: E402
from hpo.verdict.comparison import Runs  # noqa: E402
from hpo.verdict.judgement import SearchScores, recommend  # noqa: E402
from hpo.verdict.sequential_halving import Race, RaceState, finalists_for, next_trial  # noqa: E402

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

TRIALS, SHARE, FINALISTS, SEEDS = 40, 0.25, 3, 5
DEFAULT = 0
OF_ROW, OF_CONFIGURATION, OF_RUN = 3.0, 0.75, 1.0
"""Standard deviations of D, U and V; only their ratios matter."""
SEED_NOISES = (0.0, 0.0025, 0.005, 0.01, 0.03)
"""Standard deviation of F1 over seeds, on all rows that could be."""
REALISTIC = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a search chooses by, and what its verdict is about."""

    name: str
    searched: int
    kept: int
    """Rows that the search never sees; 0 where the verdict is about those that it chose by."""


UNSEEN = Rows(name="2,000 kept of 6,000", searched=4000, kept=2000)
FEW_UNSEEN = Rows(name="667 kept of 2,000", searched=1333, kept=667)
SAME = Rows(name="the same 400", searched=400, kept=0)


def all_equal(_random: np.random.Generator) -> Floats:
    return np.full(TRIALS, 0.88)


def default_best(random: np.random.Generator) -> Floats:
    truth = 0.88 - np.abs(random.normal(0, 0.02, TRIALS))
    truth[DEFAULT] = 0.88
    return truth


def one_better(random: np.random.Generator) -> Floats:
    truth = default_best(random)
    truth[1] = 0.90
    return truth


def mixture(random: np.random.Generator) -> Floats:
    truth = 0.865 - np.abs(random.normal(0, 0.025, TRIALS)) + random.normal(0, 0.012, TRIALS)
    truth[DEFAULT] = 0.86
    return truth


def half_broken(random: np.random.Generator) -> Floats:
    truth = np.where(random.random(TRIALS) < 0.5, random.uniform(0.5, 0.8, TRIALS), 0.88)
    truth[DEFAULT] = 0.88
    return truth


TRUTHS: Mapping[str, Callable[[np.random.Generator], Floats]] = {
    "all equal": all_equal,
    "default best": default_best,
    "one better": one_better,
    "mixture": mixture,
    "half broken": half_broken,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one search and its verdict came to; scores as shares."""

    true: float
    """By how much the winner is better than the default."""
    points: float
    low: float
    high: float
    gain: float
    """By how much what is handed over is."""
    attainable: float
    confirmed: float
    """By how much the confirmed score of the winner is too high."""
    searched: float
    """By how much the best score of the search is."""
    bias: float
    """Selection bias of the rows that was taken off."""
    of_rows: float
    """Selection bias that there was."""
    runs: int
    seeds_differ: float
    """Share of the rows that two runs of one configuration answer differently."""
    configurations_differ: float


class World:
    """All that is drawn once for a search: its rows, and how they suit its configurations."""

    def __init__(
        self, random: np.random.Generator, truth: Floats, seed_noise: float, rows: Rows, of_run: float = OF_RUN
    ) -> None:
        self.random, self.truth, self.rows, self._of_run = random, truth, rows, of_run
        self.labels = random.random(rows.searched + rows.kept) < 0.5
        self.judged = slice(rows.searched, None) if rows.kept else slice(0, None)
        kept = rows.kept or rows.searched
        self.groups = leave_out_groups(np.arange(kept), 0)
        self._hard = self._normal(len(self.labels)) * OF_ROW
        without_seed = OF_ROW**2 + OF_CONFIGURATION**2 + of_run**2
        density = np.exp(-(ndtri(truth) ** 2) / 2) / (2 * np.pi) ** 0.5
        self._of_seed = seed_noise / density * without_seed**0.5
        self._middle = ndtri(truth) * (without_seed + self._of_seed**2) ** 0.5
        self._suits: dict[int, NDArray[np.float32]] = {}

    def _normal(self, size: int) -> NDArray[np.float32]:
        return self.random.standard_normal(size, dtype=np.float32)

    def suits(self, configuration: int) -> NDArray[np.float32]:
        """Return how each row suits a configuration; drawn once."""
        if configuration not in self._suits:
            self._suits[configuration] = self._normal(len(self.labels)) * np.float32(OF_CONFIGURATION)
        return self._suits[configuration]

    def run(self, configuration: int) -> Flags:
        """Return which rows a run of a configuration under a fresh seed answers correctly."""
        level = self._middle[configuration] + self._of_seed[configuration] * self.random.standard_normal()
        noise = self._normal(len(self.labels)) * np.float32(self._of_run)
        correct: Flags = self._hard + self.suits(configuration) + noise > -level
        return correct

    def searched(self) -> Floats:
        """Return what the search scored."""
        part = slice(0, self.rows.searched)
        return np.array([f1(self.run(one)[part], self.labels[part]) for one in range(TRIALS)])


def f1(correct: Flags, labels: Flags) -> float:
    hits, wrong = np.count_nonzero(correct & labels), np.count_nonzero(~correct)
    return 2 * hits / (2 * hits + wrong)


def deviations(correct: Flags, labels: Flags, groups: NDArray[np.int64]) -> Floats:
    """Return what `hpo.metrics.jackknife.deviations` does for F1, from counts."""
    hits, wrong = (np.bincount(groups, weights=counted) for counted in (correct & labels, ~correct))
    hits, wrong = hits.sum() - hits, wrong.sum() - wrong
    return scale(2 * hits / (2 * hits + wrong))


def raced(world: World, scores: Floats) -> tuple[Race, RaceState, dict[int, list[Flags]]]:
    """Train the best again as the race asks."""
    runs = int(SHARE * TRIALS)
    rivals = [one for one in np.argsort(-scores, kind="stable").tolist() if one != DEFAULT]
    finalists = tuple(rivals[: finalists_for(runs, FINALISTS, SEEDS)])
    race = Race(finalists=finalists, default=DEFAULT, runs=runs, seeds=SEEDS)
    answers: dict[int, list[Flags]] = {}
    state = RaceState(ended={}, begun={})
    part = slice(0, world.rows.searched)
    while (next_one := next_trial(race, state)) is not None:
        answers.setdefault(next_one, []).append(world.run(next_one))
        ended = {
            one: [f1(correct[part], world.labels[part]) for correct in several] for one, several in answers.items()
        }
        state = RaceState(ended=ended, begun={one: len(several) for one, several in ended.items()})
    return race, state, answers


def search(name: str, noise: float, rows: Rows, seed: int, of_run: float = OF_RUN) -> Found:
    """Simulate a search and its verdict; with `of_run` 0 all that seeds do lasts, whichever the rows."""
    random = np.random.default_rng([seed, 7])
    truth = TRUTHS[name](random)
    world = World(random, truth, noise, rows, of_run)
    scores = world.searched()
    race, state, answers = raced(world, scores)
    labels = world.labels[world.judged]
    runs = {one: _runs([correct[world.judged] for correct in of], labels, world.groups) for one, of in answers.items()}
    by_search = SearchScores(scores=tuple(scores.tolist()), unseen=bool(rows.kept), rows=rows.searched / len(labels))
    choice = recommend(race, state, runs, dict.fromkeys(runs, 1.0), by_search)
    assert choice is not None
    points, interval = choice.lead(choice.winner, DEFAULT)
    winner, first, second = choice.winner, answers[DEFAULT][0], answers[DEFAULT][1]
    bias = choice.selection_bias[winner]
    return Found(
        true=truth[winner] - truth[DEFAULT],
        points=points,
        low=interval.low,
        high=interval.high,
        gain=truth[choice.recommended] - truth[DEFAULT],
        attainable=truth.max() - truth[DEFAULT],
        confirmed=choice.runs[winner].mean - bias - truth[winner],
        searched=scores.max() - truth[scores.argmax()],
        bias=bias,
        of_rows=points + bias - (truth[winner] - truth[DEFAULT]),
        runs=sum(state.begun.values()),
        seeds_differ=float(np.mean(first != second)),
        configurations_differ=float(np.mean(first != answers[race.finalists[0]][0])),
    )


def _runs(answers: Sequence[Flags], labels: Flags, groups: NDArray[np.int64]) -> Runs:
    return Runs(
        np.array([f1(correct, labels) for correct in answers]),
        np.array([deviations(correct, labels, groups) for correct in answers]),
        of_a_unit=1 / len(labels),
    )
