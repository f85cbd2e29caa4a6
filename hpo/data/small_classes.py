"""Classes of so few rows that a score in which each class counts jumps with a single row."""

from collections.abc import Mapping

from hpo.data.checks import quoted

FEWEST_ROWS = 10
"""Below which a jackknife of macro F1 errs: of a class with 2 of 400 rows it tells twice its standard deviation, or
half of it."""
LEVEL = (
    "accuracy", "micro_f1", "micro_precision", "micro_recall", "weighted_f1", "weighted_fbeta", "weighted_precision",
    "weighted_recall", "neg_log_loss", "neg_calibration_error",
)  # fmt: skip
"""Metrics in which a row of a small class counts hardly more than any other."""
MOST_NAMED = 5


def counts_classes(metric: str) -> bool:
    """Return whether a row of a small class moves a metric more than another row."""
    return metric not in LEVEL


def small_classes(rows: Mapping[str, int], where: str = "the rows that were scored") -> str:
    """Return a warning of classes with too few rows; empty where there is none.

    Args:
        rows: label -> rows of that class; one of a class that has none does not count.
        where: which rows these are.
    """
    few = {label: count for label, count in sorted(rows.items(), key=lambda one: one[1]) if 0 < count < FEWEST_ROWS}
    if not few:
        return ""
    named = ", ".join(f"{quoted(label)} ({count})" for label, count in list(few.items())[:MOST_NAMED])
    more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
    return (
        f"Classes with fewer than {FEWEST_ROWS} of {where}: {named}{more}. A single row moves the score of such a "
        "class much, so scores jump and their intervals are rough."
    )
