"""Advice on the next search, from the trials of this one: sentences with figures, where there is something to say."""

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
"""Completed trials below which nothing is said of how scores depend on hyperparameters."""
MANY_TRIALS = 50
"""Completed trials below which that comes with a caution."""
KINDS = 5
"""Kinds of advice that chance may bring: gap, what it depends on, ends of ranges, what the score depends on, data."""
SIGNIFICANCE = 0.05 / KINDS
"""Significance level of each kind, shared by all its tests (Bonferroni): at 5% anything at all is said by chance."""
WIDE_GAP, NARROW_GAP, NEARLY_ALL = 0.05, 0.01, 0.95
HOLD_BACK = (
    "l1_strength", "l2_strength", "dropout", "attention_dropout", "kept_layers", "trained_layers", "data_fraction",
)  # fmt: skip
"""Hyperparameters that decide how closely a model can fit its training examples."""
BEST = 5
"""Number of best trials, most of which must lie at an end of a range."""
OUTER_PART = 0.1
"""Share of a range, in its own scale, that is its end."""
NATURAL_ENDS = (0, 1)
"""Ends that are mostly not to be moved: no dropout is below 0, no share above 1, no number of epochs below 1."""
PARTS = 4
"""Number of equal parts that trials are divided into by a numeric hyperparameter, to compare scores between them."""
MOST_NAMED = 3


def advice(results: StudyResults) -> tuple[str, ...]:
    """Return what to do about the next search, the most important first."""
    return (*_fit(results), *_ends(results), *_last_third(results), *_importances(results), *_little_data(results))


def _fit(results: StudyResults) -> list[str]:
    """Say whether the best trial over- or underfits, and what the gap goes with."""
    scored = [trial for trial in results.leaderboard if trial.train_score is not None]
    if not scored or not is_share(results.metric) or results.metric == "neg_calibration_error":
        return []
    best = scored[0]
    of_best, of_better = _gap(best), median(map(_gap, scored[: -(-len(scored) // 4)]))
    figures = (
        f"Trial {best.number} scores {best.train_score:.4f} on training rows and {best.score:.4f} on validation, "
        f"{amount(results.metric, of_best)} apart ({100 * of_better:.1f} in the middle of the better quarter of trials)"
    )
    if min(of_best, of_better) >= max(WIDE_GAP, _gap_by_chance(results, best)):
        return [f"{figures}: it overfits.{_what_narrows(scored)}"]
    if max(of_best, of_better) <= NARROW_GAP and (best.train_score or 0.0) < NEARLY_ALL:
        return [f"{figures}: it hardly fits its training rows better, so there is room for more or longer training."]
    return []


def _gap_by_chance(results: StudyResults, trial: TrialResult) -> float:
    """Return the gap that rows alone seldom bring, where scores are shares of rows (binomial)."""
    asked = results.configuration.get("evaluation", {})
    rows = trial.validation.rows if trial.validation else 1
    # In each fold no more training rows are scored than at a rung.
    of_training = min(rows, (asked.get("folds") or 1) * (asked.get("rung_rows") or rows))
    scored = ((trial.train_score or 0.0, of_training), (trial.score or 0.0, rows))
    variance = sum(max(0.0, score * (1 - score)) / count for score, count in scored)
    return float(stats.norm.ppf(1 - SIGNIFICANCE) * variance**0.5)


def _what_narrows(scored: Sequence[TrialResult]) -> str:
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
    """Return the rank correlation (Spearman 1904) of figures with each hyperparameter, where it is significant."""
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
    """Say at which ends of ranges most of the best trials lie, if trials at that end rank higher than the others.

    That the best lie there is not enough: a sampler proposes more values like those that scored high by chance, so of
    scores that are noise four of the best five lie at some end of ten ranges in one search of six.
    """
    if len(results.leaderboard) < ENOUGH_TRIALS or not results.space:
        return []
    space = SearchSpace.from_mapping(results.space, results.name)
    ends = [(parameter, upper) for parameter in space.parameters for upper in (False, True)]
    ranked = _ranked(results)
    tried = [found for parameter, upper in ends if (found := _end(parameter, ranked, upper))]
    return [sentence for sentence, chance in tried if chance * len(tried) < SIGNIFICANCE and sentence]


def _ranked(results: StudyResults) -> list[TrialResult]:
    """Return trials from best to worst; behind those that completed the pruned ones, the earliest pruned last."""
    pruned = [trial for trial in results.trials if trial.state == "PRUNED" and trial.ending == Ending.PRUNED]
    return [*results.leaderboard, *sorted(pruned, key=lambda trial: (-(trial.rung or 0), -(trial.score or 0.0)))]


def _end(parameter: Parameter, ranked: Sequence[TrialResult], upper: bool) -> tuple[str, float] | None:
    """Return a sentence where most of the best lie at an end, and the p-value of those there ranking higher.

    By the test of Mann and Whitney (1947). None where there is no such end, or nothing to compare with.
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
        f"{count} of the best {len(there[:BEST])} trials have {name} at its {end}, of {domain.describe()}, and those "
        "there rank higher than the others: a wider range may hold better ones."
    )
    return sentence if 2 * count > BEST else "", chance


def _place(domain: Domain, value: Any) -> float:
    """Return where a value lies in a range, in its own scale: 0 to 1."""
    assert not isinstance(domain, Constant | Choice), "a range has two ends"
    if domain.high == domain.low:
        return 0.5
    ends_and_value = np.array([domain.low, domain.high, value], dtype=np.float64)
    low, high, at = np.log(ends_and_value) if isinstance(domain, Range) and domain.log else ends_and_value
    return float((at - low) / (high - low))


def _last_third(results: StudyResults) -> list[str]:
    """Say what the last third of the trials brought, compared with the noise of seeds."""
    over = [trial for trial in results.trials if trial.state in ("COMPLETE", "PRUNED")]
    noise = _noise(results)
    before = {trial.number for trial in over[: len(over) - len(over) // 3]}
    first = [trial for trial in results.leaderboard if trial.number in before]
    if len(over) < ENOUGH_TRIALS or noise is None or not first:
        return []
    brought = (results.best.score or 0.0) - (first[0].score or 0.0)
    figures = (
        f"The last third of {len(over)} trials brought {amount(results.metric, brought)}, where {noise[1]} "
        f"{amount(results.metric, noise[0])}"
    )
    if brought <= noise[0]:
        return [f"{figures}: more trials of this kind would hardly find better ones."]
    return [f"{figures}: the search was still finding better ones, and more trials may find more."]


def _noise(results: StudyResults) -> tuple[float, str] | None:
    """Return the noise of seeds, and the words for where it is known from; None where it is not."""
    verdict = verdict_on(results)
    if verdict is not None:
        return verdict.seed_noise, "seeds alone move a score by"
    default = results.default
    if default is None:
        return None
    again = [trial.score or 0.0 for trial in results.leaderboard if trial.configuration == default.configuration]
    return (max(again) - min(again), "two seeds of the default are apart by") if len(again) > 1 else None


def _importances(results: StudyResults) -> list[str]:
    """Say which hyperparameters explain most of how trials rank, each looked at alone."""
    trials = results.leaderboard
    names = dict.fromkeys(name for trial in trials for name in trial.parameters)
    tried = {name: found for name in names if (found := _explained(trials, name)) is not None}
    shares = [(share, name) for name, (share, p) in tried.items() if p * len(tried) < SIGNIFICANCE and share > 0]
    if not shares:
        return []
    highest = sorted(shares, key=lambda pair: -pair[0])[:MOST_NAMED]
    named = ", ".join(f"{name} ({share:.0%})" for share, name in highest)
    rough = "" if len(trials) >= MANY_TRIALS else "; from so few trials these are rough"
    return [
        f"Of how {len(trials)} completed trials rank, most goes with {named}, each looked at alone, in parts of its "
        f"range{rough}."
    ]


def _explained(trials: Sequence[TrialResult], name: str) -> tuple[float, float] | None:
    """Return (share of the variance of ranks that lies between parts of a hyperparameter's values, its p-value).

    By the test of Kruskal and Wallis (1952): (H - k + 1) / (n - k) of k parts of n trials (Tomczak and Tomczak 2014).
    """
    parts = [part for part in _parts(trials, name) if len(part) > 1]
    count = sum(map(len, parts))
    if len(parts) < 2 or count < ENOUGH_TRIALS or len({score for part in parts for score in part}) < 2:
        return None
    found = stats.kruskal(*parts)
    return float((found.statistic - len(parts) + 1) / (count - len(parts))), float(found.pvalue)


def _parts(trials: Sequence[TrialResult], name: str) -> list[list[float]]:
    """Return the scores of trials by the value of a hyperparameter; by the part of its range where it has many."""
    pairs = [(trial.parameters[name], trial.score or 0.0) for trial in trials if name in trial.parameters]
    values = [value for value, _ in pairs]
    if not all(map(is_number, values)) or len(set(values)) <= PARTS:
        return [[score for other, score in pairs if other == value] for value in dict.fromkeys(values)]
    ranked = sorted(pairs)
    edges = [round(place * len(ranked) / PARTS) for place in range(PARTS + 1)]
    return [[score for _, score in ranked[low:high]] for low, high in pairwise(edges)]


def _little_data(results: StudyResults) -> list[str]:
    """Say whether scores rise with the share of the training examples, where that was searched."""
    trials = results.leaderboard
    found = _correlated(trials, ("data_fraction",), [trial.score or 0.0 for trial in trials]).get("data_fraction", 0.0)
    if found <= 0:
        return []
    return [
        f"Over {len(trials)} completed trials scores rise with data_fraction (rank correlation "
        f"{found:+.2f}): more training examples would likely help."
    ]
