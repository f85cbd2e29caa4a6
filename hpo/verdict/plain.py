"""The verdict as plain values: what `--json`, `best.yaml` and notebooks have of it; docs/json.md has every key."""

from typing import Any

from hpo.verdict.findings import Confirmed, Difference, Interval, Verdict

SCHEMA_VERSION = 1
"""Of the keys below and their meaning; raised when one of them changes or goes, not when one is added."""


def verdict_to_plain(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as mappings, lists, numbers and texts."""
    return {
        "schema_version": SCHEMA_VERSION,
        "metric": verdict.metric,
        "rows": verdict.rows,
        "unseen_rows": verdict.unseen,
        "take": verdict.recommended,
        "reason": verdict.reason,
        "winner": verdict.winner,
        "comparisons": [_comparison(one) for one in verdict.differences],
        "confirmed": [_confirmed(one) for one in verdict.confirmed],
        "baselines": [{"name": one.name, "score": one.score, **_ends(one.interval)} for one in verdict.ladder],
        "selection_bias": verdict.bias,
        "seed_standard_deviation": verdict.seed_noise,
        "failed_runs": {str(trial): count for trial, count in verdict.failures.items()},
        "unfinished_runs": verdict.unfinished,
        "sentences": list(verdict.sentences),
    }


def _comparison(one: Difference) -> dict[str, Any]:
    return {
        "trial": one.of,
        "against": one.than,
        "against_trial": one.trial,
        "difference": one.points,
        **_ends(one.interval),
        "decision": one.decision,
    }


def _confirmed(one: Confirmed) -> dict[str, Any]:
    return {
        "trial": one.trial,
        "is_default": one.is_default,
        "score": one.score,
        **_ends(one.interval),
        "scores": list(one.scores),
        "search_score": one.lucky,
        "seconds": one.seconds,
    }


def _ends(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high}
