"""Which of the confirmed configurations to take: the arithmetic of the verdict, without its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpo.verdict.comparison import Runs, SeedNoise, difference, seed_noise
from hpo.verdict.findings import Interval
from hpo.verdict.race import Course, Race, in_contention, ranked

LIKELY = 0.9
"""Coverage of the interval that must lie above 0 for the winner to be taken for the default; docs/verdict.md has what
others would give away, and what they would risk. To be called better, all of the 95% interval must."""
MUCH_LESS_TIME = 2 / 3
"""Of the winner's training time: what cannot be told from it and takes at most so much is taken in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What follows from the runs of a race."""

    winner: int
    """The finalist that is left."""
    recommended: int
    """The trial to take."""
    differences: Mapping[int, tuple[float, Interval]]
    """Trial -> by how much the winner scores higher than it; for the default and all other finalists with runs."""
    noise: SeedNoise


def choose(
    race: Race, course: Course, runs: Mapping[int, Runs], seconds: Mapping[int, float], bias: float = 0.0
) -> Choice | None:
    """Return what to take; None where no finalist has a run, or nothing has two, which is to know nothing of seeds.

    The default is taken unless the winner is likely better; a faster finalist is taken for the winner if it cannot be
    told from it, scores no further below than seeds alone move a score, and is likely better than the default too.

    Args:
        race: that was run.
        course: how it stands, by the rows that the race is decided on.
        runs: of each trial, on the rows that the verdict is about.
        seconds: mean training time of a run of each trial.
        bias: by how much the lead of the winner is overrated.
    """
    raced = [trial for trial in race.finalists if trial in runs]
    noise = seed_noise(list(runs.values()))
    if not raced or not noise.degrees:
        return None
    # Where all runs of those that are left have failed, what another had before it fell behind says more.
    left = [trial for trial in in_contention(race, course) if trial in raced] or raced
    # Those with fewer runs than others that are left were cut short, or failed under a seed: no recommendation.
    most = max(len(course.ended[trial]) for trial in left)
    winner = ranked([trial for trial in left if len(course.ended[trial]) == most], course)[0]
    others = [trial for trial in race.entrants if trial in runs and trial != winner]
    differences = {
        trial: difference(runs[winner], runs[trial], noise, bias if trial == race.default else 0.0) for trial in others
    }
    choice = Choice(winner=winner, recommended=winner, differences=differences, noise=noise)
    return _recommending(choice, race.default, runs, seconds, bias, raced)


def _recommending(
    choice: Choice,
    default: int | None,
    runs: Mapping[int, Runs],
    seconds: Mapping[int, float],
    bias: float,
    raced: Sequence[int],
) -> Choice:
    def beats_default(trial: int) -> bool:
        if default is None:
            return True
        _, interval = difference(runs[trial], runs[default], choice.noise, bias, LIKELY)
        return interval.low > 0

    winner = choice.winner
    if default is not None and not beats_default(winner):
        return replace(choice, recommended=default)
    # An interval around a single run holds almost anything, so the score itself is to be near too.
    within = choice.noise.variance**0.5
    like = [
        trial
        for trial in raced
        if trial != winner
        and choice.differences[trial][1].low <= 0
        and choice.differences[trial][0] <= within
        and seconds[trial] <= MUCH_LESS_TIME * seconds[winner]
        and beats_default(trial)
    ]
    return replace(choice, recommended=min(like, key=seconds.__getitem__, default=winner))
