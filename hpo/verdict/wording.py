"""Sentences of a verdict: each with its figure, the most important first."""

import math
from collections import Counter
from collections.abc import Mapping

from hpo.data.labels import quoted
from hpo.metrics.classification import METRICS
from hpo.metrics.jackknife import with_standard_error
from hpo.metrics.registry import limits_of
from hpo.store.results import StudyResults, TrialResult
from hpo.verdict.findings import Difference, Interval, Verdict

FEWEST_ROWS = 10
"""Rows of a class below which the jackknife of macro F1 is rough: for a class with 2 of 400 rows, it gives twice the
standard deviation, or half of it."""
MOST_NAMED = 5
FEW_SEEDS = 3
MORE_SEEDS = "hpo confirm confirmation.runs=12"
"""Command for more seeds: with 12 runs the last of three finalists and the default have five each."""
NO_TEST_SPLIT = (
    "There is no test split, so the recommended trial has no score on examples that played no part in choosing it; "
    "give a new study data.test or data.test_fraction."
)
SHOWN_AS = {"f1": "F1", "macro_f1": "macro F1", "micro_f1": "micro F1", "weighted_f1": "weighted F1"}


def small_classes(rows: Mapping[str, int], metric: str, positive: str | None = None) -> str:
    """Return the classes with too few rows, each with its number of rows; empty if the metric depends on none of them.

    Args:
        rows: label -> rows of that class.
        metric: one of `METRICS`, or the user's own, which may depend on every class.
        positive: the positive class, if it is known.
    """
    known = METRICS.get(metric)
    counted = list(rows)
    if known is not None and known.of_rows:
        counted = []
    elif known is not None and known.of_positive_class and positive is not None:
        counted = [positive]
    few = sorted((label for label in counted if rows[label] < FEWEST_ROWS), key=rows.__getitem__)
    more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
    return ", ".join(f"{quoted(label)} ({rows[label]})" for label in few[:MOST_NAMED]) + more


def sentences(verdict: Verdict) -> tuple[str, ...]:
    """Return the sentences of the verdict; `verdict.sentences` is not read."""
    parts = (
        _against_default, _to_take, _confirmed, _worth_it, _unfinished, _failures, _rows, _epochs, _small_classes,
        _test_split, _seeds,
    )  # fmt: skip
    return tuple(sentence for part in parts if (sentence := part(verdict)))


def _against_default(verdict: Verdict) -> str:
    """Say whether the winner is better than the default."""
    winner, found = f"trial {verdict.winner}", verdict.against_default
    if found is None:
        return f"{winner.capitalize()} won; the default was not confirmed, so it is unknown whether {winner} is better."
    by = _by(verdict, found)
    if found.decision == "better":
        return f"{winner.capitalize()} beats the default by {by}."
    known = f"{winner}, {_rank_in_search(verdict)},"
    if found.decision == "worse":
        return f"The default beats {known} by {_by(verdict, found, -1)}."
    if verdict.recommended != found.against_trial:
        return f"{winner.capitalize()} is likely better than the default, by {by}; the 95% interval includes 0."
    if _is_undecided(verdict):
        few = _few_seeds(verdict)
        return f"Undecided: {few} {'is' if few.startswith('1 ') else 'are'} too few; {MORE_SEEDS} trains more."
    return f"{known.capitalize()} is not distinguishable from the default: the difference is {by}."


def _rank_in_search(verdict: Verdict) -> str:
    """Describe the winner by its rank in the search, in which it may not have had the highest score."""
    score = verdict.by_trial[verdict.winner].search_score
    if score is None or score < verdict.best_of_search:
        return "the best finalist on fresh seeds"
    of_default = None if verdict.default is None else verdict.default.search_score
    behind = of_default is not None and of_default >= score
    return "the best of the search except the default" if behind else "the best of the search"


def _to_take(verdict: Verdict) -> str:
    """Recommend a trial, with the reason if it is not the winner."""
    taken, winner = verdict.by_trial[verdict.recommended], verdict.by_trial[verdict.winner]
    if _is_undecided(verdict):
        assert verdict.against_default is not None, "only a comparison is undecided"
        return (
            f"Until then, take the default, trial {taken.trial}: trial {winner.trial}, {_rank_in_search(verdict)}, is "
            f"not distinguishable from it, with a difference of {_by(verdict, verdict.against_default)}."
        )
    if taken.is_default:
        return f"Take the default, trial {taken.trial}."
    if taken is not winner:
        return (
            f"Trial {winner.trial} is not distinguishable from trial {taken.trial}, which trains in "
            f"{taken.seconds / winner.seconds:.0%} of the time: take trial {taken.trial}."
        )
    decided = {one.against_trial: one.decision for one in verdict.differences}
    finalists = (one.trial for one in verdict.confirmed if not one.is_default and one is not winner)
    alike = [f"trial {trial}" for trial in finalists if decided[trial] == "not distinguishable"]
    *first, last = alike or [""]
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"Take trial {taken.trial}{f', though it is not distinguishable from {listed}' if alike else ''}."


def _confirmed(verdict: Verdict) -> str:
    """Compare the confirmed score with that of the search."""
    one = verdict.by_trial[verdict.recommended]
    runs = "run that decided between the finalists is"
    if one.left_out > 1:
        runs = f"{one.left_out} runs that decided between the finalists are"
    apart = f"; the {runs} left out" if one.left_out else ""
    interval = f"[{one.interval.low:.4f}, {one.interval.high:.4f}]"
    seeds = counted(len(one.scores), "fresh seed")
    if one.search_score is None:
        unfinished = f"Trial {one.trial}, which the search did not train to its end,"
        return f"{unfinished} scores {one.score:.4f} {interval} on {seeds}{apart}."
    change = amount(verdict.metric, abs(one.search_score - one.score))
    less = "less" if one.search_score >= one.score else "more"
    held = f"{change} {less} than its {one.search_score:.4f} in the search"
    if f"{one.score:.4f}" == f"{one.search_score:.4f}":
        held = "the same as in the search"
    return f"Trained again on {seeds} trial {one.trial} scores {one.score:.4f} {interval}, {held}{apart}."


def _worth_it(verdict: Verdict) -> str:
    """Compare the recommended trial with the best baseline."""
    if not verdict.baselines:
        return ""
    best = max(verdict.baselines, key=lambda one: one.score)
    taken = verdict.by_trial[verdict.recommended]
    found = next(one for one in verdict.differences if (one.trial, one.against) == (taken.trial, best.name))
    name, by = "the default" if taken.is_default else f"trial {taken.trial}", _by(verdict, found)
    if found.interval.low > 0:
        return f"Fine-tuning was worth it: {name} beats {best.name} by {by}."
    return (
        f"Fine-tuning may not have been worth it: {name} cannot be shown to beat {best.name} ({best.score:.4f}); the "
        f"difference is {by}."
    )


def _unfinished(verdict: Verdict) -> str:
    """Count unfinished runs: they are training now, or were interrupted."""
    count = verdict.unfinished
    runs = "1 run of the confirmation has" if count == 1 else f"{count} runs of the confirmation have"
    return f"{runs} started but not finished." if count else ""


def _failures(verdict: Verdict) -> str:
    """Name the configurations of which some runs failed; scores are means of the others."""
    if not verdict.failures:
        return ""
    runs = Counter({one.trial: len(one.scores) for one in verdict.confirmed}) + Counter(verdict.failures)
    lost = "; ".join(f"{count} of {runs[trial]} of trial {trial}" for trial, count in sorted(verdict.failures.items()))
    return (
        f"Runs that diverged, ran out of memory, failed or were pruned, which no score includes: {lost}. The same may "
        "happen again with these configurations."
    )


def _rows(verdict: Verdict) -> str:
    """Name the rows that were scored, and the selection bias that was subtracted."""
    which = "validation rows that the search never saw" if verdict.unseen else "rows that the search chose by"
    start = f"These scores are on {'' if verdict.unseen else 'the '}{verdict.rows:,} {which}"
    bias = amount(verdict.metric, verdict.selection_bias)
    if bias == amount(verdict.metric, 0.0):
        return f"{start}." if verdict.unseen else f"{start}; by simulation their selection bias is negligible."
    if verdict.unseen:
        return (
            f"{start}. The winner has no runs but those that decided the race; by simulation {bias} of their mean are "
            "selection bias, and were subtracted."
        )
    return (
        f"{start}. By simulation {bias} of the winner's mean are selection bias, and were subtracted from its score, "
        "its interval and its lead."
    )


def _epochs(verdict: Verdict) -> str:
    """Say which bias was not subtracted: each run is scored at its best epoch on these rows."""
    if verdict.unseen or not verdict.best_epochs:
        return ""
    return (
        "Each run, the default's too, is scored at its best epoch on these rows, so scores and leads over baselines "
        "are a little too high."
    )


def _small_classes(verdict: Verdict) -> str:
    """Name the classes with too few rows, if the metric depends on them."""
    # A class without rows has no effect on scores here.
    named = small_classes({label: count for label, count in verdict.class_rows.items() if count}, verdict.metric)
    if not named:
        return ""
    return (
        f"Classes with fewer than {FEWEST_ROWS} of the scored rows: {named}. A single row changes the score of such a "
        "class a lot, so its scores vary much and their intervals are rough."
    )


def _test_split(verdict: Verdict) -> str:
    """Say that there is no test split, or that it was first read for another trial than the recommended one."""
    tested, taken = verdict.tested, verdict.recommended
    if not verdict.has_test_split:
        return NO_TEST_SPLIT
    if not tested or tested[0] == taken:
        return ""
    return (
        f"The test split was first read for trial {tested[0]}, not for trial {taken}, which is recommended now: the "
        f"test score of trial {taken} is not the first one, and may be too high."
    )


def _seeds(verdict: Verdict) -> str:
    """Return the noise of seeds, with a caution if there are few seeds."""
    noise = f"Seeds alone move a score by {amount(verdict.metric, verdict.seed_noise)} (standard deviation)"
    few = _few_seeds(verdict)
    if not few:
        return f"{noise}."
    if _is_undecided(verdict):
        return f"{noise}, by a rough estimate from {few}."
    return f"{noise}; with only {few} this is rough: {MORE_SEEDS} trains more."


def _few_seeds(verdict: Verdict) -> str:
    """Return the number of seeds in words if the winner or the default has few; else an empty string."""
    compared = [verdict.by_trial[verdict.winner], *([verdict.default] if verdict.default else [])]
    fewest = min(compared, key=lambda one: len(one.scores))
    seeds = len(fewest.scores)
    if seeds >= FEW_SEEDS:
        return ""
    alike = all(len(one.scores) == seeds for one in compared)
    return f"{counted(seeds, 'seed')} of {'each' if alike else f'trial {fewest.trial}'}"


def _is_undecided(verdict: Verdict) -> bool:
    """Return true if the default is recommended only because few seeds tell nothing apart."""
    return verdict.reason == "not distinguishable from the default" and bool(_few_seeds(verdict))


def _by(verdict: Verdict, found: Difference, sign: int = 1) -> str:
    """Return a difference times `sign`, with its interval."""
    low, high = sorted((sign * found.interval.low, sign * found.interval.high))
    interval = in_points(verdict.metric, Interval(low=low, high=high))
    return f"{amount(verdict.metric, sign * found.difference)} {interval}"


def spread_in_words(results: StudyResults, trial: TrialResult, verdict: Verdict | None = None) -> str:
    """Return the score of a trial in the search, with one standard deviation over rows and, once known, seeds."""
    beta = results.configuration.get("task", {}).get("beta")
    return with_standard_error(trial.score, trial.validation, beta, 0.0 if verdict is None else verdict.seed_noise)


def in_points(metric: str, interval: Interval) -> str:
    """Return an interval of score differences, such as `[-0.9, 2.1]`, in points if the metric is a share."""
    scale, digits = (100, 1) if is_share(metric) else (1, 4)
    return f"[{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"


def amount(metric: str, value: float) -> str:
    """Return a difference of scores in words."""
    name = SHOWN_AS.get(metric, metric.replace("_", " "))
    return f"{100 * value:.1f} {name} points" if is_share(metric) else f"{value:.4f} of {name}"


def counted(count: int, noun: str) -> str:
    """Return a number of things: `1 trial`, `2 trials`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def is_share(metric: str) -> bool:
    """Return true if a metric has finite limits, so that differences are shown in points (hundredths)."""
    return all(map(math.isfinite, limits_of(metric)))
