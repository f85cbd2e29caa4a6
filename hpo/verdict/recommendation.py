"""Which of the confirmed configurations to take: the arithmetic of the verdict, without its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpo.verdict.comparison import COVERAGE, Runs, SeedNoise, difference, seed_noise
from hpo.verdict.findings import Interval
from hpo.verdict.race import NO_SCORE, Race, RaceState, winner_of
from hpo.verdict.selection_bias import Noise, deviation_over_rows, luck_of_choice

LIKELY = 0.9
"""Coverage of the interval that must lie above 0 for the winner to be taken for the default; docs/verdict.md has what
others would give away, and what they would risk. To be called better, all of the 95% interval must."""
MUCH_LESS_TIME = 2 / 3
"""Of the winner's training time: what is not distinguishable from it and takes at most so much is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """How the finalists were found."""

    scores: tuple[float, ...] = ()
    """Of all trials that were in question, those that were given up among them."""
    unseen: bool = True
    """Whether the rows that the verdict is about took no part."""
    rows: float = 1.0
    """How many rows the search chose by, for each that the verdict is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What follows from the runs of a race."""

    winner: int
    """The finalist that is left."""
    recommended: int
    """The trial to take."""
    runs: Mapping[int, Runs]
    """Trial -> those that count: of the winner not those that decided the race, where it has others."""
    left_out: int
    """How many of the winner's do not."""
    selection_bias: Mapping[int, float]
    """Trial -> by how much the mean of its runs is likely too high, in the objective's unit."""
    noise: SeedNoise

    @property
    def differences(self) -> dict[int, tuple[float, Interval]]:
        """Trial -> by how much the winner scores higher than it; for the default and all other finalists with runs."""
        return {trial: self.lead(self.winner, trial) for trial in self.runs if trial != self.winner}

    def lead(self, of: int, than: int, coverage: float = COVERAGE) -> tuple[float, Interval]:
        """Return by how much one scores higher than another, and the interval of it."""
        bias = self.selection_bias[of] - self.selection_bias[than]
        return difference(self.runs[of], self.runs[than], self.noise, bias, coverage)


def choose(
    race: Race, course: RaceState, runs: Mapping[int, Runs], seconds: Mapping[int, float], searched: Searched
) -> Recommendation | None:
    """Return what to take; None where no finalist has a run, or nothing has two, which is to know nothing of seeds.

    The default is taken unless the winner is likely better; a faster finalist is taken for the winner if it cannot be
    told from it, scores no further below than seeds alone move a score, and is likely better than the default too.

    Args:
        race: that was run.
        course: how it stands, by the rows that the race is decided on.
        runs: of each trial, on the rows that the verdict is about, in the order of `course`.
        seconds: mean training time of a run of each trial.
        searched: how the finalists were found.
    """
    raced = [trial for trial in race.finalists if trial in runs]
    if not raced or not seed_noise(list(runs.values())).degrees:
        return None
    winner, rounds = winner_of(race, course, raced)
    decided = sum(score != NO_SCORE for score in course.ended[winner][:rounds])
    counted, left_out = _without(runs, winner, decided)
    noise = seed_noise(list(counted.values()))
    noises = _noises(list(runs.values()), noise, searched)
    selection_bias = luck_of_choice(
        searched.scores, noises, len(raced), rounds, unseen=searched.unseen, left_out=left_out == decided
    )
    of_trial = dict.fromkeys(raced, selection_bias.others) | {winner: selection_bias.winner}
    choice = Recommendation(
        winner=winner,
        recommended=winner,
        runs={trial: counted[trial] for trial in race.entrants if trial in runs},
        left_out=left_out,
        selection_bias={trial: of_trial.get(trial, 0.0) for trial in runs},
        noise=noise,
    )
    return _recommending(choice, race.default, seconds, raced)


def _without(runs: Mapping[int, Runs], winner: int, decided: int) -> tuple[Mapping[int, Runs], int]:
    """Return the runs that count, and how many of the winner's do not; all do where else too little is known.

    Those that decided the race say nothing of the noise of seeds either: they are high, so runs that are high by luck
    are near to them, and the lead would seem the surer for it.
    """
    if decided < len(runs[winner].scores):
        others = {**runs, winner: runs[winner].after(decided)}
        if seed_noise(list(others.values())).degrees:
            return others, decided
    return runs, 0


def _noises(runs: Sequence[Runs], noise: SeedNoise, searched: Searched) -> Noise:
    """Return what moves a score on the rows that the search chose by."""
    shrunk = searched.rows**-0.5
    return Noise(
        rows=shrunk * deviation_over_rows(runs, noise),
        passing=shrunk * (noise.variance - noise.lasting) ** 0.5,
        lasting=noise.lasting**0.5,
    )


def _recommending(
    choice: Recommendation, default: int | None, seconds: Mapping[int, float], raced: Sequence[int]
) -> Recommendation:
    def beats_default(trial: int) -> bool:
        return default is None or choice.lead(trial, default, LIKELY)[1].low > 0

    winner, differences = choice.winner, choice.differences
    if default is not None and not beats_default(winner):
        return replace(choice, recommended=default)
    # An interval around a single run holds almost anything, so the score itself is to be near too.
    within = choice.noise.variance**0.5
    like = [
        trial
        for trial in raced
        if trial != winner
        and differences[trial][1].low <= 0
        and differences[trial][0] <= within
        and seconds[trial] <= MUCH_LESS_TIME * seconds[winner]
        and beats_default(trial)
    ]
    return replace(choice, recommended=min(like, key=seconds.__getitem__, default=winner))
