"""Recommendation of a configuration: the statistics of the verdict, without its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpo.verdict.comparison import COVERAGE, Runs, SeedNoise, difference, seed_noise
from hpo.verdict.findings import Interval
from hpo.verdict.selection_bias import ScoreNoise, deviation_over_rows, simulated_selection_bias
from hpo.verdict.sequential_halving import NO_SCORE, Race, RaceState, winner_of

LIKELY = 0.9
"""Coverage of the interval that must lie above 0 for the winner to be taken in the place of the default:
docs/verdict.md has what others gain and risk. To be called better, all of the 95% interval must lie there."""
MUCH_LESS_TIME = 2 / 3
"""Share of the winner's training time up to which a configuration that is not distinguishable from it is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchScores:
    """Scores by which a search chose the finalists."""

    scores: tuple[float, ...] = ()
    """Of all trials that could have been chosen, the pruned ones among them."""
    unseen: bool = True
    """Whether the verdict is on rows that the search never saw."""
    rows: float = 1.0
    """Number of rows that the search chose by, over that of the rows that the verdict is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What follows from the runs of a race."""

    winner: int
    """The finalist that is left."""
    recommended: int
    """The trial to take."""
    runs: Mapping[int, Runs]
    """Trial -> the runs that count: of the winner not those that decided the race, where it has others."""
    left_out: int
    """Number of the winner's runs that do not count."""
    selection_bias: Mapping[int, float]
    """Trial -> the estimated bias of its mean score, in the unit of the metric."""
    noise: SeedNoise

    def lead(self, trial: int, against: int, coverage: float = COVERAGE) -> tuple[float, Interval]:
        """Return by how much one trial scores higher than another, and the interval of that."""
        bias = self.selection_bias[trial] - self.selection_bias[against]
        return difference(self.runs[trial], self.runs[against], self.noise, bias, coverage)


def recommend(
    race: Race, state: RaceState, runs: Mapping[int, Runs], seconds: Mapping[int, float], search: SearchScores
) -> Recommendation | None:
    """Return what to take; None where no finalist has a run, or none has two, so that the noise of seeds is unknown.

    The default is taken unless the winner is likely better. A faster finalist is taken in the place of the winner if
    it is not distinguishable from it, scores less by at most the noise of seeds, and is likely better than the default
    too.

    Args:
        race: that was run.
        state: of the race, on the rows that it is decided by.
        runs: of each trial, on the rows that the verdict is about, in the order of `state`.
        seconds: mean training time of a run of each trial.
        search: scores that the finalists were chosen by.
    """
    raced = [trial for trial in race.finalists if trial in runs]
    if not raced or not seed_noise(list(runs.values())).degrees:
        return None
    winner, rounds = winner_of(race, state, raced)
    decided = sum(score != NO_SCORE for score in state.ended[winner][:rounds])
    counted, left_out = _without_deciding_runs(runs, winner, decided)
    noise = seed_noise(list(counted.values()))
    bias = simulated_selection_bias(
        search.scores, _noise_of_search(list(runs.values()), noise, search), len(raced), rounds,
        unseen=search.unseen, left_out=left_out == decided,
    )  # fmt: skip
    biases = dict.fromkeys(raced, bias.others) | {winner: bias.winner}
    found = Recommendation(
        winner=winner,
        recommended=winner,
        runs={trial: counted[trial] for trial in race.entrants if trial in runs},
        left_out=left_out,
        selection_bias={trial: biases.get(trial, 0.0) for trial in runs},
        noise=noise,
    )
    return replace(found, recommended=_recommended(found, race.default, seconds, raced))


def _without_deciding_runs(runs: Mapping[int, Runs], winner: int, decided: int) -> tuple[Mapping[int, Runs], int]:
    """Return the runs that count, and how many of the winner's do not; all count where too few would be left.

    Runs that decided the race are biased, and would make the noise of seeds look smaller too: high scores of one
    configuration lie near to each other.
    """
    if decided < len(runs[winner].scores):
        others = {**runs, winner: runs[winner].after(decided)}
        if seed_noise(list(others.values())).degrees:
            return others, decided
    return runs, 0


def _noise_of_search(runs: Sequence[Runs], noise: SeedNoise, search: SearchScores) -> ScoreNoise:
    """Return the noise of a score on the rows that the search chose by."""
    shrunk = search.rows**-0.5
    return ScoreNoise(
        rows=shrunk * deviation_over_rows(runs, noise),
        passing=shrunk * (noise.variance - noise.lasting) ** 0.5,
        lasting=noise.lasting**0.5,
    )


def _recommended(found: Recommendation, default: int | None, seconds: Mapping[int, float], raced: Sequence[int]) -> int:
    def beats_default(trial: int) -> bool:
        return default is None or found.lead(trial, default, LIKELY)[1].low > 0

    def is_as_good(trial: int) -> bool:
        lead, interval = found.lead(found.winner, trial)
        # The interval around a single run holds almost anything, so the score itself must be near too.
        return interval.low <= 0 and lead <= found.noise.variance**0.5 and beats_default(trial)

    if default is not None and not beats_default(found.winner):
        return default
    much_less = MUCH_LESS_TIME * seconds[found.winner]
    faster = [trial for trial in raced if trial != found.winner and seconds[trial] <= much_less]
    return min(filter(is_as_good, faster), key=seconds.__getitem__, default=found.winner)
