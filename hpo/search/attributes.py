"""User attributes of a trial, which Optuna's dashboard shows beside its value: named the same everywhere."""

from typing import Any

from hpo.messages import Ending, Outcome, Report

UNTRAINABLE = frozenset({Ending.DIVERGED, Ending.INFEASIBLE})
"""Endings that say the configuration itself cannot be trained: pruned, with `CONSTRAINT` violated."""
CONSTRAINT = "trainable"
VIOLATED = 1.0


def outcome_attributes(outcome: Outcome) -> dict[str, Any]:
    """Return what an attempt cost, why it ended, and every score of its best full evaluation."""
    attributes: dict[str, Any] = {"seconds": round(outcome.seconds, 3), "peak_memory_bytes": outcome.peak_memory_bytes}
    if outcome.resumed_examples:
        attributes["resumed_examples"] = outcome.resumed_examples
    if outcome.changes:
        attributes["not_bit_equal"] = list(outcome.changes)
    if outcome.micro_batch_size is not None:
        attributes["rows_at_once"] = outcome.micro_batch_size
    if outcome.reason:
        attributes["reason"] = outcome.reason
    return attributes | (_scores(outcome.best) if outcome.best else {})


def _scores(best: Report) -> dict[str, Any]:
    attributes: dict[str, Any] = {f"validation_{name}": value for name, value in best.validation.values.items()}
    attributes["best_epoch"] = best.epoch
    if best.train is not None:
        attributes[f"train_{best.train.metric}"] = best.train.objective
    return attributes
