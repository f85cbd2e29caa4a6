"""JSON of a verdict, as `--json`, `best.yaml` and notebooks have it; docs/json.md has every key."""

from typing import Any

from hpo.verdict.findings import BaselineScore, Confirmed, Difference, Verdict

SCHEMA_VERSION = 1
"""Of the keys below and their meaning; raised when one of them changes or goes, not when one is added."""


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
    """Return fields of a value, and the ends of its interval."""
    return {name: getattr(one, name) for name in fields} | {"low": one.interval.low, "high": one.interval.high}
