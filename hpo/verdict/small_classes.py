"""Small classes: labels of so few rows that a score in which each class counts jumps with a single row."""

from collections.abc import Mapping

from hpo.data.checks import quoted
from hpo.metrics.classification import METRICS

FEWEST_ROWS = 10
"""Below which a jackknife of macro F1 errs: of a class with 2 of 400 rows it tells twice its standard deviation, or
half of it."""
MOST_NAMED = 5


def small_classes(rows: Mapping[str, int], metric: str, positive: str | None = None) -> str:
    """Return the classes with too few rows, each with their number; empty where there is none that the metric counts.

    Args:
        rows: label -> rows of that class.
        metric: one of `METRICS`, or the user's own, of which each class may count.
        positive: the class of which a score of the positive class is, where it is known.
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
