"""The verdict on a search, as values: what was confirmed, how it compares, and what to take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Decision = Literal["better", "worse", "not distinguishable"]
Reason = Literal[
    "better than the default",
    "likely better than the default",
    "the default was not confirmed",
    "faster, and not distinguishable from the winner",
    "not distinguishable from the default",
    "worse than the default",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95% interval, over examples and seeds."""

    low: float
    high: float

    def within(self, low: float, high: float) -> "Interval":
        """Return the part of it in which what it is about can be."""
        return Interval(low=max(low, self.low), high=min(high, self.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """One configuration, trained again on fresh seeds."""

    trial: int
    """Of the search."""
    is_default: bool
    scores: tuple[float, ...]
    """The objective of each seed that counts, on the rows of the confirmation."""
    left_out: int = 0
    """Runs that do not count, as they decided that this one won the race."""
    score: float
    """The confirmed score: their mean, less what of it is likely luck (`Verdict.bias`)."""
    interval: Interval
    lucky: float
    """What it scored in the search, where it was chosen for that."""
    seconds: float
    """Mean training time of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step of the ladder of baselines."""

    name: str
    """`majority class`, `TF-IDF and logistic regression`, `frozen features and logistic regression`."""
    score: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """By how much a trial scores higher than something else."""

    of: int
    """Trial that is compared: the winner; against baselines also what is to be taken."""
    than: str
    """`the default`, `trial 9`, or the name of a baseline."""
    trial: int | None
    """None for a baseline."""
    points: float
    """Confirmed score of that trial less the other, in the objective's own unit."""
    interval: Interval

    @property
    def decision(self) -> Decision:
        """Whether the trial is better or worse: all of the interval is above or below 0."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "not distinguishable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the confirmation of a search has shown."""

    metric: str
    rows: int
    """Rows it was scored on."""
    unseen: bool
    """Whether the search never saw these rows."""
    bias: float
    """How much of what the winner's runs score is likely luck, by simulation, and was taken off: that of the rows that
    it was chosen by, and that of the runs that decided the race where it has no others; 0 where there is neither."""
    seed_noise: float
    """Standard deviation of the objective over seeds, pooled over the confirmed configurations."""
    confirmed: tuple[Confirmed, ...]
    """From best to worst."""
    ladder: tuple[Rung, ...]
    differences: tuple[Difference, ...]
    """Winner against the default, every other configuration that was confirmed, and each baseline, in that order; then
    what is to be taken against each baseline, where that is another trial."""
    best_of_search: float
    """Highest score that the search gave to any configuration but the default."""
    winner: int
    """The finalist that won the race over fresh seeds; the default may still be better."""
    recommended: int
    """Trial to take: the winner, one not distinguishable from it that trains in much less time, or the default."""
    sentences: tuple[str, ...]
    """The verdict in words, the most important first."""
    failures: Mapping[int, int] = field(default_factory=dict)
    """Trial -> how many of its runs have no score, having diverged or failed; without those that have all."""
    unfinished: int = 0
    """Runs that have begun and are not over."""
    has_test_split: bool = True
    """Whether there are rows that nothing was chosen by."""
    tested: tuple[int, ...] = ()
    """Trials for which the test split was read, in their order."""
    class_rows: Mapping[str, int] = field(default_factory=dict)
    """Label -> how many of the rows are of that class."""
    best_epochs: bool = True
    """Whether a run is scored at the best of several epochs."""

    @property
    def against_default(self) -> Difference | None:
        """The winner against the default; None where that was not confirmed."""
        default = next((one.trial for one in self.confirmed if one.is_default), None)
        return next((one for one in self.differences if one.trial is not None and one.trial == default), None)

    @property
    def reason(self) -> Reason:
        """Why that trial is to be taken: how the winner compares with the default, or with what is taken for it."""
        found = self.against_default
        if found is not None and self.recommended == found.trial:
            return "worse than the default" if found.decision == "worse" else "not distinguishable from the default"
        if self.recommended != self.winner:
            return "faster, and not distinguishable from the winner"
        if found is None:
            return "the default was not confirmed"
        return "better than the default" if found.decision == "better" else "likely better than the default"
