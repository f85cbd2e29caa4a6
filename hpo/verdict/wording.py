"""The verdict in words: each sentence with its figure, the most important first."""

import math
from collections import Counter

from hpo.metrics.registry import limits_of
from hpo.metrics.spread import with_spread
from hpo.store.results import StudyResults, TrialResult
from hpo.verdict.findings import Confirmed, Difference, Interval, Verdict
from hpo.verdict.small_classes import FEWEST_ROWS, small_classes

FEW_SEEDS = 3
MORE_RUNS = 12
"""As many as give the last two of three finalists five seeds each."""
NO_TEST_SPLIT = (
    "There is no test split, so it cannot be said how the trial to take does on texts by which nothing was chosen; a "
    "new study has one with data.test or data.test_fraction."
)
SHOWN_AS = {"f1": "F1", "macro_f1": "macro F1", "micro_f1": "micro F1", "weighted_f1": "weighted F1"}


def sentences(verdict: Verdict) -> tuple[str, ...]:
    """Return the verdict in words; that of `verdict` itself is not looked at."""
    words = _Words(verdict)
    said = (
        words.against_default(),
        words.to_take(),
        words.confirmed(),
        words.worth_it(),
        words.unfinished(),
        words.failures(),
        words.rows(),
        words.epochs(),
        words.small_classes(),
        words.test() if verdict.has_test_split else NO_TEST_SPLIT,
        words.seeds(),
    )
    return tuple(sentence for sentence in said if sentence)


class _Words:
    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._confirmed = {one.trial: one for one in verdict.confirmed}
        self._differences = {one.trial: one for one in verdict.differences if one.trial is not None}
        self._default = next((one for one in verdict.confirmed if one.is_default), None)

    @property
    def _winner(self) -> str:
        return f"Trial {self._verdict.winner}"

    @property
    def _rank(self) -> str:
        """What the winner of the race is, which the search need not have scored highest."""
        lucky = self._confirmed[self._verdict.winner].lucky
        if lucky < self._verdict.best_of_search:
            return "the best finalist on fresh seeds"
        behind = self._default is not None and self._default.lucky >= lucky
        return "the best but for the default" if behind else "the best of the search"

    def against_default(self) -> str:
        """Say whether the winner is better than the default."""
        found = self._verdict.against_default
        if found is None:
            return f"{self._winner} won; the default was not confirmed, so it cannot be said whether it is better."
        by = self._by(found)
        if found.decision == "better":
            return f"{self._winner} beats the default by {by}."
        if found.decision == "worse":
            return f"The default beats {self._winner.lower()}, {self._rank}, by {self._by(found, -1)}."
        if self._verdict.recommended != found.trial:
            return f"{self._winner} is likely better than the default, by {by}, but not beyond doubt."
        return f"{self._winner}, {self._rank}, is not distinguishable from the default: the difference is {by}."

    def to_take(self) -> str:
        """Say what to take, and why where that is not the winner."""
        verdict = self._verdict
        if self._default is not None and verdict.recommended == self._default.trial:
            return f"Take the default, trial {verdict.recommended}."
        if verdict.recommended == verdict.winner:
            alike = [
                one.trial for one in self._finalists() if self._differences[one.trial].decision == "not distinguishable"
            ]
            told = f", though it is not distinguishable from {_listed(alike)}" if alike else ""
            return f"Take trial {verdict.winner}{told}."
        taken, winner = self._confirmed[verdict.recommended], self._confirmed[verdict.winner]
        share = taken.seconds / winner.seconds
        return (
            f"{self._winner} is not distinguishable from trial {taken.trial}, which trains in {share:.0%} of the time: "
            f"take trial {taken.trial}."
        )

    def confirmed(self) -> str:
        """Hold the confirmed score against the lucky one."""
        one = self._confirmed[self._verdict.recommended]
        selection_bias = one.lucky - one.score
        less = "less" if selection_bias >= 0 else "more"
        held = f"{self._amount(abs(selection_bias))} {less} than the {one.lucky:.4f} that it had in the search"
        if f"{one.score:.4f}" == f"{one.lucky:.4f}":
            held = "as in the search"
        seeds = counted(len(one.scores), "fresh seed")
        runs = "the run that" if one.left_out == 1 else f"the {one.left_out} runs that"
        apart = f"; {runs} decided between the finalists {'is' if one.left_out == 1 else 'are'} left out"
        return (
            f"Trained again on {seeds} trial {one.trial} scores {one.score:.4f} {_shown(one.interval)}, {held}"
            f"{apart if one.left_out else ''}."
        )

    def worth_it(self) -> str:
        """Hold what is to be taken against the best baseline."""
        if not self._verdict.ladder:
            return ""
        best = max(self._verdict.ladder, key=lambda rung: rung.score)
        taken = self._verdict.recommended
        found = next(one for one in self._verdict.differences if (one.of, one.than) == (taken, best.name))
        name = "the default" if self._default is not None and self._default.trial == taken else f"trial {taken}"
        if found.interval.low > 0:
            return f"Fine-tuning was worth it: {name} beats {best.name} by {self._by(found)}."
        return (
            f"Fine-tuning may not have been worth it: {name} cannot be shown to beat {best.name} "
            f"({best.score:.4f}); the difference is {self._by(found)}."
        )

    def unfinished(self) -> str:
        """Say that runs are not over: they train now, or were cut short."""
        count = self._verdict.unfinished
        runs = "1 run of the confirmation has" if count == 1 else f"{count} runs of the confirmation have"
        return f"{runs} begun and not ended." if count else ""

    def failures(self) -> str:
        """Say which configurations could not always be trained again: the scores are of the runs that were."""
        failed = self._verdict.failures
        if not failed:
            return ""
        runs = Counter({trial: len(one.scores) for trial, one in self._confirmed.items()}) + Counter(failed)
        told = "; ".join(f"{count} of {runs[trial]} of trial {trial}" for trial, count in sorted(failed.items()))
        return (
            f"Runs that diverged, were out of memory, failed or were given up, and count in no score: {told}. Such a "
            "configuration may do so again."
        )

    def rows(self) -> str:
        """Say which rows all this is about, and what was taken off for luck."""
        verdict = self._verdict
        which = "validation rows that the search never saw" if verdict.unseen else "rows that the search chose by"
        said = f"All of this is on {'' if verdict.unseen else 'the '}{verdict.rows:,} {which}"
        amount = self._amount(verdict.bias)
        if amount == self._amount(0.0):
            return f"{said}." if verdict.unseen else f"{said}; by simulation nothing is to be taken off for their luck."
        if verdict.unseen:
            return (
                f"{said}. The winner has no runs but those that decided the race; by simulation {amount} of what they "
                "score are the luck of having won it, and were taken off."
            )
        return (
            f"{said}. By simulation {amount} of what the winner scores on them are their luck, and were taken off: "
            "from its score, its interval and its lead."
        )

    def epochs(self) -> str:
        """Say what nothing was taken off for: each run is scored at the epoch that is best on these rows."""
        if self._verdict.unseen or not self._verdict.best_epochs:
            return ""
        return (
            "Each run, the default's too, is scored at its best epoch on these rows, so scores and leads over "
            "baselines are a little too high."
        )

    def test(self) -> str:
        """Say that the test split was first read for another trial than the one to take."""
        tested, taken = self._verdict.tested, self._verdict.recommended
        if not tested or tested[0] == taken:
            return ""
        return (
            f"The test split was first read for trial {tested[0]}, not for trial {taken}, which is now the one to "
            f"take: what trial {taken} scores on it is a second look, and may be too high."
        )

    def small_classes(self) -> str:
        """Name the classes with too few rows, where the metric counts them."""
        # What no row is of moves no score here.
        rows = {label: count for label, count in self._verdict.class_rows.items() if count}
        named = small_classes(rows, self._verdict.metric)
        if not named:
            return ""
        return (
            f"Classes with fewer than {FEWEST_ROWS} of the rows that were scored: {named}. A single row moves the "
            "score of such a class much, so scores jump and their intervals are rough."
        )

    def seeds(self) -> str:
        """Say how far seeds are apart, and where they are few."""
        compared = self._compared()
        fewest = min(compared, key=lambda one: len(one.scores))
        seeds = len(fewest.scores)
        noise = f"Seeds alone move a score by {self._amount(self._verdict.seed_noise)} (standard deviation)"
        if seeds >= FEW_SEEDS:
            return f"{noise}."
        more = f"hpo confirm confirmation.runs={MORE_RUNS} says more"
        alike = all(len(one.scores) == seeds for one in compared)
        few = f"{counted(seeds, 'seed')} of {'each' if alike else f'trial {fewest.trial}'}"
        return f"{noise}; from {few} that is rough: {more}."

    def _finalists(self) -> list[Confirmed]:
        return [one for one in self._verdict.confirmed if not one.is_default and one.trial != self._verdict.winner]

    def _compared(self) -> list[Confirmed]:
        compared = [self._confirmed[self._verdict.winner]]
        return compared if self._default is None else [*compared, self._default]

    def _amount(self, value: float) -> str:
        return amount(self._verdict.metric, value)

    def _by(self, found: Difference, sign: int = 1) -> str:
        """Return a difference, or its negative, with its interval."""
        ends = sorted((sign * found.interval.low, sign * found.interval.high))
        scale, digits = (100, 1) if is_share(self._verdict.metric) else (1, 4)
        low, high = (f"{scale * end:.{digits}f}" for end in ends)
        return f"{self._amount(sign * found.points)} [{low}, {high}]"


def spread_in_words(results: StudyResults, trial: TrialResult, verdict: Verdict | None = None) -> str:
    """Return the score of a trial in the search, with one standard deviation over rows and, once known, seeds."""
    beta = results.configuration.get("task", {}).get("beta")
    return with_spread(trial.score, trial.validation, beta, 0.0 if verdict is None else verdict.seed_noise)


def amount(metric: str, value: float) -> str:
    """Return a difference of scores in words."""
    name = SHOWN_AS.get(metric, metric.replace("_", " "))
    return f"{100 * value:.1f} {name} points" if is_share(metric) else f"{value:.4f} of {name}"


def counted(count: int, noun: str) -> str:
    """Return a number of things: `1 trial`, `2 trials`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def is_share(metric: str) -> bool:
    """Return whether a metric is shown in points of a hundred."""
    return all(map(math.isfinite, limits_of(metric)))


def _shown(interval: Interval) -> str:
    return f"[{interval.low:.4f}, {interval.high:.4f}]"


def _listed(trials: list[int]) -> str:
    *first, last = (f"trial {trial}" for trial in trials)
    return f"{', '.join(first)} and {last}" if first else last
