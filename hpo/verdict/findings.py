"""Verdict on a search, as values and as JSON: confirmed configurations, comparisons, and the recommended trial."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Decision = Literal["better", "worse", "not distinguishable"]
Reason = Literal[
    "better than the default",
    "likely better than the default",
    "the default was not confirmed",
    "faster, and not distinguishable from the winner",
    "not distinguishable from the default",
    "worse than the default",
]
SCHEMA_VERSION = 1
"""Version of the JSON's keys and their meaning; raised when one changes or is removed, not when one is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95% confidence interval, over examples and seeds."""

    low: float
    high: float

    def within(self, low: float, high: float) -> "Interval":
        """Return the interval cut to the range of the estimated quantity."""
        return Interval(low=max(low, self.low), high=min(high, self.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A configuration that was trained again on fresh seeds."""

    trial: int
    """Number of the trial in the search."""
    is_default: bool
    scores: tuple[float, ...]
    """Scores on the rows of the confirmation, one for each seed that counts."""
    left_out: int = 0
    """Number of runs that do not count, because they decided that this configuration won the race."""
    score: float
    """Confirmed score: the mean of `scores` minus its estimated selection bias (`Verdict.selection_bias`)."""
    interval: Interval
    search_score: float | None
    """Score in the search, which is too high on average because finalists are chosen by it.

    None if the search did not train it to its end, as may happen to the default.
    """
    seconds: float
    """Mean training time of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineScore:
    """Score of a baseline on the rows of the confirmation."""

    name: str
    """`majority class`, `TF-IDF and logistic regression`, `frozen features and logistic regression`."""
    score: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Comparison of a confirmed trial with another one, or with a baseline."""

    trial: int
    against: str
    """`the default`, `trial 3`, or the name of a baseline."""
    against_trial: int | None
    """Number of the other trial; None for a baseline."""
    difference: float
    """Confirmed score of `trial` minus the other score, in the unit of the metric."""
    interval: Interval

    @property
    def decision(self) -> Decision:
        """`better` or `worse` if the whole interval is above or below 0; else `not distinguishable`."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "not distinguishable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Result of the confirmation of a search."""

    metric: str
    rows: int
    """Number of rows of the confirmation."""
    unseen: bool
    """True if the search never saw these rows."""
    selection_bias: float
    """Selection bias of the winner's mean score, estimated by simulation and subtracted. It has two sources: the search
    chose by these rows, or the race was decided by the only runs of the winner; else 0."""
    seed_noise: float
    """Standard deviation of the score over seeds, pooled over the confirmed configurations."""
    confirmed: tuple[Confirmed, ...]
    """Confirmed configurations from best to worst."""
    baselines: tuple[BaselineScore, ...]
    differences: tuple[Difference, ...]
    """The winner against the default and every other confirmed configuration, then against each baseline; last, if
    another trial is recommended, that one against each baseline."""
    best_of_search: float
    """Highest search score of any configuration other than the default."""
    winner: int
    """The finalist that won the race over fresh seeds; the default may still be better."""
    recommended: int
    """Trial to take: the winner, a trial that is not distinguishable from it and trains much faster, or the default."""
    sentences: tuple[str, ...]
    """The verdict in words, the most important first."""
    failures: Mapping[int, int] = field(default_factory=dict)
    """Trial -> number of its runs without a score, because they diverged or failed; only trials that have any."""
    unfinished: int = 0
    """Number of runs that have begun but not ended."""
    has_test_split: bool = True
    """True if the study has a test split, by which nothing was chosen."""
    tested: tuple[int, ...] = ()
    """Trials that were evaluated on the test split, in order."""
    class_rows: Mapping[str, int] = field(default_factory=dict)
    """Label -> number of rows of that class."""
    best_epochs: bool = True
    """True if a run is scored at the best of several epochs."""

    @property
    def default(self) -> Confirmed | None:
        """The default configuration; None if it was not confirmed."""
        return next((one for one in self.confirmed if one.is_default), None)

    @property
    def against_default(self) -> Difference | None:
        """The winner against the default; None if that was not confirmed."""
        return next((one for one in self.differences if self.default and one.against_trial == self.default.trial), None)

    @property
    def by_trial(self) -> dict[int, Confirmed]:
        """Trial of the search -> its confirmed configuration."""
        return {one.trial: one for one in self.confirmed}

    @property
    def reason(self) -> Reason:
        """Reason to take `recommended`."""
        found = self.against_default
        if found is not None and self.recommended == found.against_trial:
            return "worse than the default" if found.decision == "worse" else "not distinguishable from the default"
        if self.recommended != self.winner:
            return "faster, and not distinguishable from the winner"
        if found is None:
            return "the default was not confirmed"
        return "better than the default" if found.decision == "better" else "likely better than the default"


def verdict_to_plain(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as mappings, lists, numbers and strings."""
    return {
        "schema_version": SCHEMA_VERSION,
        "metric": verdict.metric,
        "rows": verdict.rows,
        "unseen_rows": verdict.unseen,
        "take": verdict.recommended,
        "reason": verdict.reason,
        "winner": verdict.winner,
        "comparisons": [
            _plain(one, "trial", "against", "against_trial", "difference", "decision") for one in verdict.differences
        ],
        "confirmed": [
            _plain(one, "trial", "is_default", "score", "search_score", "seconds") | {"scores": list(one.scores)}
            for one in verdict.confirmed
        ],
        "baselines": [_plain(one, "name", "score") for one in verdict.baselines],
        "selection_bias": verdict.selection_bias,
        "seed_standard_deviation": verdict.seed_noise,
        "failed_runs": {str(trial): count for trial, count in verdict.failures.items()},
        "unfinished_runs": verdict.unfinished,
        "sentences": list(verdict.sentences),
    }


def _plain(one: BaselineScore | Confirmed | Difference, *fields: str) -> dict[str, Any]:
    """Return fields of a value and the ends of its interval."""
    return {name: getattr(one, name) for name in fields} | {"low": one.interval.low, "high": one.interval.high}
