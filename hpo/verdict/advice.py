"""Advice on the next search: sentences from significant findings among the trials of this one."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
from scipy import stats

from hpo.messages import Ending
from hpo.space.domains import Choice, Constant, Domain, Range, as_yaml, is_number
from hpo.space.parameters import Parameter
from hpo.space.search_space import SearchSpace
from hpo.store.results import StudyResults, TrialResult
from hpo.verdict.judgement import verdict_on
from hpo.verdict.wording import amount, is_share

ENOUGH_TRIALS = 12
"""Compared trials below which there is no advice on hyperparameters."""
MANY_TRIALS = 50
"""Compared trials below which such advice has a caution."""
KINDS = 5
"""Kinds of tested advice: the gap, what the gap depends on, ends of ranges, what the score depends on, data."""
SIGNIFICANCE = 0.05 / KINDS
"""Significance level of each kind, divided among its tests (Bonferroni), so that all advice together has 5%."""
WIDE_GAP, NARROW_GAP, NEARLY_ALL = 0.05, 0.01, 0.95
HOLD_BACK = (
    "l1_strength", "l2_strength", "dropout", "attention_dropout", "kept_layers", "trained_layers", "data_fraction",
)  # fmt: skip
"""Hyperparameters that decide how closely a model can fit its training examples."""
BEST = 5
"""Number of best trials of which more than half must lie at an end of a range."""
OUTER_PART = 0.1
"""Share of a range, on its own scale, that counts as its end."""
NATURAL_ENDS = (0, 1)
"""Ends that cannot be extended: no dropout below 0, no share above 1, no number of epochs below 1."""
PARTS = 4
"""Number of equal groups into which trials are sorted by a numeric hyperparameter, to compare their scores."""
MOST_NAMED = 3


def advice(results: StudyResults) -> tuple[str, ...]:
    """Return advice on the next search, the most important first."""
    return (*_fit(results), *_ends(results), *_last_third(results), *_importances(results), *_little_data(results))


def _fit(results: StudyResults) -> list[str]:
    """Say whether the best trial over- or underfits, and which hyperparameters the gap correlates with."""
    scored = [trial for trial in results.leaderboard if trial.train_score is not None]
    if not scored or not is_share(results.metric) or results.metric == "neg_calibration_error":
        return []
    best = scored[0]
    of_best, of_better = _gap(best), median(map(_gap, scored[: -(-len(scored) // 4)]))
    figures = (
        f"Trial {best.number} scores {best.train_score:.4f} on training rows and {best.score:.4f} on validation, "
        f"{amount(results.metric, of_best)} apart (median of the best quarter of trials: {100 * of_better:.1f})"
    )
    if min(of_best, of_better) >= max(WIDE_GAP, _gap_by_chance(results, best)):
        return [f"{figures}: it overfits.{_what_narrows(scored)}"]
    if max(of_best, of_better) <= NARROW_GAP and (best.train_score or 0.0) < NEARLY_ALL:
        return [f"{figures}: it underfits, so training more weights or training longer may help."]
    return []


def _gap_by_chance(results: StudyResults, trial: TrialResult) -> float:
    """Return the gap that the choice of rows alone exceeds with probability `SIGNIFICANCE` (binomial)."""
    asked = results.configuration.get("evaluation", {})
    rows = trial.validation.rows if trial.validation else 1
    # Each fold scores at most as many training rows as a rung.
    of_training = min(rows, (asked.get("folds") or 1) * (asked.get("rung_rows") or rows))
    scored = ((trial.train_score or 0.0, of_training), (trial.score or 0.0, rows))
    variance = sum(max(0.0, score * (1 - score)) / count for score, count in scored)
    return float(stats.norm.ppf(1 - SIGNIFICANCE) * variance**0.5)


def _what_narrows(scored: Sequence[TrialResult]) -> str:
    """Return a sentence on the hyperparameters that correlate with the gap; empty if none does."""
    found = _correlated(scored, HOLD_BACK, [_gap(trial) for trial in scored])
    if not found:
        return ""
    named = ", ".join(
        f"{'smaller' if along < 0 else 'larger'} with more {name} ({along:+.2f})" for name, along in found.items()
    )
    return f" Over {len(scored)} completed trials the gap is {named}, by rank correlation."


def _gap(trial: TrialResult) -> float:
    return (trial.train_score or 0.0) - (trial.score or 0.0)


def _correlated(trials: Sequence[TrialResult], names: Sequence[str], figures: Sequence[float]) -> dict[str, float]:
    """Return the significant rank correlations (Spearman 1904) of `figures` with hyperparameters."""
    tried: dict[str, tuple[float, float]] = {}
    for name in names:
        pairs = [
            (value, figure)
            for trial, figure in zip(trials, figures, strict=True)
            if is_number(value := trial.configuration.get(name))
        ]
        if len(pairs) >= ENOUGH_TRIALS and all(len(set(side)) > 1 for side in zip(*pairs, strict=True)):
            found = stats.spearmanr(*zip(*pairs, strict=True))
            tried[name] = float(found.statistic), float(found.pvalue)
    return {name: along for name, (along, chance) in tried.items() if chance * len(tried) < SIGNIFICANCE}


def _ends(results: StudyResults) -> list[str]:
    """Name the ends of ranges at which most of the best trials lie, if trials at that end rank higher than the others.

    Without the rank test there would be false advice: a sampler proposes more values like those that scored high by
    chance, so with pure noise four of the best five lie at some end of ten ranges in one search of six.
    """
    ranked = _ranked(results)
    if len(_compared(results)) < ENOUGH_TRIALS or not results.space:
        return []
    space = SearchSpace.from_mapping(results.space, results.name)
    ends = [(parameter, upper) for parameter in space.parameters for upper in (False, True)]
    tried = [found for parameter, upper in ends if (found := _end(parameter, ranked, upper))]
    return [sentence for sentence, chance in tried if chance * len(tried) < SIGNIFICANCE and sentence]


def _ranked(results: StudyResults) -> list[TrialResult]:
    """Return trials from best to worst: completed ones, then pruned ones, the earliest pruned last."""
    ended = (Ending.PRUNED, Ending.PAUSED)  # The second is that of a trial that was paused and then pruned.
    pruned = [trial for trial in results.trials if trial.state == "PRUNED" and trial.ending in ended]
    return [*results.leaderboard, *sorted(pruned, key=_standing, reverse=True)]


def _standing(trial: TrialResult) -> tuple[float, float]:
    """Return what trials are ranked by: how far they came, and their score there."""
    reached = sum(rung <= (trial.rung or 0) for rung in trial.rungs) if trial.rungs else trial.rung or 0
    return math.inf if trial.state == "COMPLETE" else reached, trial.score or 0.0


def _compared(results: StudyResults) -> list[TrialResult]:
    """Return the trials by which hyperparameters are compared: the completed ones; with `promotion` pruned ones too.

    Rungs of `promotion` are at the same shares of all trials, so how far a trial came does not depend on its length.
    """
    ranked = _ranked(results)
    return ranked if any(trial.rungs for trial in ranked) else list(results.leaderboard)


def _ranks(trials: Sequence[TrialResult]) -> list[float]:
    """Return the rank of each trial, the best with the highest, and equal ones with the same."""
    standings = [_standing(trial) for trial in trials]
    places = {standing: float(place) for place, standing in enumerate(sorted(set(standings)))}
    return [places[standing] for standing in standings]


def _end(parameter: Parameter, ranked: Sequence[TrialResult], upper: bool) -> tuple[str, float] | None:
    """Return (a sentence if most of the best trials lie at an end, the p-value that trials there rank higher).

    The test is that of Mann and Whitney (1947). None if there is no such end, or no trial on one of the two sides.
    """
    domain = parameter.domain
    if isinstance(domain, Constant | Choice) or (domain.high if upper else domain.low) in NATURAL_ENDS:
        return None
    name = parameter.sampled_name
    values = [trial.parameters[name] for trial in ranked if name in trial.parameters]
    places = np.array([_place(domain, value) for value in values])
    there = (1 - places if upper else places) <= OUTER_PART
    if there.all() or not there.any():
        return None
    place = np.arange(len(there))
    chance = float(stats.mannwhitneyu(place[there], place[~there], alternative="less").pvalue)
    count = int(there[:BEST].sum())
    end = f"{'upper' if upper else 'lower'} end, {as_yaml(domain.high if upper else domain.low)}"
    sentence = (
        f"{count} of the best {len(there[:BEST])} trials have {name} at its {end}, of {domain.describe()}, and trials "
        "there rank higher than the others: a wider range may contain better values."
    )
    return sentence if 2 * count > BEST else "", chance


def _place(domain: Domain, value: Any) -> float:
    """Return the position of a value in a range, on its own scale, from 0 to 1."""
    assert not isinstance(domain, Constant | Choice), "a range has two ends"
    if domain.high == domain.low:
        return 0.5
    ends_and_value = np.array([domain.low, domain.high, value], dtype=np.float64)
    low, high, at = np.log(ends_and_value) if isinstance(domain, Range) and domain.log else ends_and_value
    return float((at - low) / (high - low))


def _last_third(results: StudyResults) -> list[str]:
    """Compare the gain of the last third of the trials with the noise of seeds."""
    over = [trial for trial in results.trials if trial.state in ("COMPLETE", "PRUNED")]
    noise = _noise(results)
    before = {trial.number for trial in over[: len(over) - len(over) // 3]}
    first = [trial for trial in results.leaderboard if trial.number in before]
    if len(over) < ENOUGH_TRIALS or noise is None or not first:
        return []
    brought = (results.best.score or 0.0) - (first[0].score or 0.0)
    figures = (
        f"The last third of {len(over)} trials gained {amount(results.metric, brought)}, where {noise[1]} "
        f"{amount(results.metric, noise[0])}"
    )
    if brought <= noise[0]:
        return [f"{figures}: more trials of this search would hardly find better ones."]
    return [f"{figures}: the search was still finding better ones, and more trials may find more."]


def _noise(results: StudyResults) -> tuple[float, str] | None:
    """Return the noise of seeds and the phrase that says how it was measured; None if it is unknown."""
    verdict = verdict_on(results)
    if verdict is not None:
        return verdict.seed_noise, "seeds alone move a score by"
    default = results.default
    if default is None:
        return None
    again = [trial.score or 0.0 for trial in results.leaderboard if trial.configuration == default.configuration]
    return (max(again) - min(again), "two seeds of the default differ by") if len(again) > 1 else None


def _importances(results: StudyResults) -> list[str]:
    """Name the hyperparameters that explain most of the ranks of trials, each by itself."""
    trials = _compared(results)
    names = dict.fromkeys(name for trial in trials for name in trial.parameters)
    tried = {name: found for name in names if (found := _explained(trials, name)) is not None}
    shares = [(share, name) for name, (share, p) in tried.items() if p * len(tried) < SIGNIFICANCE and share > 0]
    if not shares:
        return []
    highest = sorted(shares, key=lambda pair: -pair[0])[:MOST_NAMED]
    named = ", ".join(f"{name} ({share:.0%})" for share, name in highest)
    rough = "" if len(trials) >= MANY_TRIALS else "; with so few trials this is rough"
    return [
        f"Share of the variance of the ranks of {len(trials)} trials that each hyperparameter explains by "
        f"itself: {named}{rough}."
    ]


def _explained(trials: Sequence[TrialResult], name: str) -> tuple[float, float] | None:
    """Return (share of the variance of ranks that lies between parts of a hyperparameter's values, its p-value).

    By the test of Kruskal and Wallis (1952): (H - k + 1) / (n - k) of k parts of n trials (Tomczak and Tomczak 2014).
    """
    parts = [part for part in _parts(trials, name) if len(part) > 1]
    count = sum(map(len, parts))
    if len(parts) < 2 or count < ENOUGH_TRIALS or len({rank for part in parts for rank in part}) < 2:
        return None
    found = stats.kruskal(*parts)
    return float((found.statistic - len(parts) + 1) / (count - len(parts))), float(found.pvalue)


def _parts(trials: Sequence[TrialResult], name: str) -> list[list[float]]:
    """Return the ranks of trials grouped by a hyperparameter: by value, or by quarters of many numeric values."""
    ranked = zip(trials, _ranks(trials), strict=True)
    pairs = [(trial.parameters[name], rank) for trial, rank in ranked if name in trial.parameters]
    values = [value for value, _ in pairs]
    if not all(map(is_number, values)) or len(set(values)) <= PARTS:
        return [[rank for other, rank in pairs if other == value] for value in dict.fromkeys(values)]
    along = sorted(pairs)
    edges = [round(place * len(along) / PARTS) for place in range(PARTS + 1)]
    return [[rank for _, rank in along[low:high]] for low, high in pairwise(edges)]


def _little_data(results: StudyResults) -> list[str]:
    """Say whether scores rise with `data_fraction`, if it was searched."""
    trials = _compared(results)
    found = _correlated(trials, ("data_fraction",), _ranks(trials)).get("data_fraction", 0.0)
    if found <= 0:
        return []
    return [
        f"Over {len(trials)} trials scores rise with data_fraction (rank correlation "
        f"{found:+.2f}): more training examples would likely help."
    ]
