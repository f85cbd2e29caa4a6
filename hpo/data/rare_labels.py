"""Labels of too few rows to be trained and scored on, where they are not to be refused: dropped, or made one label."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from hpo.data.checks import listed_labels
from hpo.data.sources import Examples
from hpo.errors import DataError

OTHER = "other"
"""What labels are merged into; a label of that name that the texts have takes them in."""


def without_rare(splits: Mapping[str, Examples], least: int, how: str) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Take labels of fewer than `least` training rows out of all splits, and say so.

    Args:
        splits: by name, `training` among them.
        least: rows that a label needs.
        how: `refuse` leaves all as it is; `drop` leaves the rows out; `merge` gives them the label `OTHER`, whose rows
            are dropped where they are too few together.

    Raises:
        DataError: a split is left without a row.
    """
    rare = set() if how == "refuse" else _rare(splits["training"], least)
    if not rare:
        return dict(splits), ()
    if how == "drop":
        return _dropped(splits, rare, f"Labels of fewer than {least} training rows were dropped")
    merged = {name: _merged(examples, rare) for name, examples in splits.items()}
    told = f"Labels of fewer than {least} training rows were merged into {OTHER!r}: {_counted(splits, rare)}."
    if OTHER in _rare(merged["training"], least):
        merged, dropped = _dropped(merged, {OTHER}, f"Together they are fewer than {least} too, and were dropped")
        return merged, (told, *dropped)
    return merged, (told,)


def _rare(train: Examples, least: int) -> set[str]:
    return {label for label, count in Counter(train.labels).items() if count < least}


def _merged(examples: Examples, rare: set[str]) -> Examples:
    return replace(examples, labels=tuple(OTHER if label in rare else label for label in examples.labels))


def _dropped(splits: Mapping[str, Examples], rare: set[str], told: str) -> tuple[dict[str, Examples], tuple[str, ...]]:
    kept = {
        name: examples.take([row for row, label in enumerate(examples.labels) if label not in rare])
        for name, examples in splits.items()
    }
    if empty := [name for name, examples in kept.items() if not examples.rows]:
        raise DataError(
            f"No {empty[0]} row is left without {listed_labels(rare)}, which data.rare_labels is to take out; add rows "
            "of other labels."
        )
    return kept, (f"{told}: {_counted(splits, rare)}.",)


def _counted(splits: Mapping[str, Examples], rare: set[str]) -> str:
    """Name the labels, and how many rows of each split have them."""
    rows = (f"{sum(label in rare for label in examples.labels):,} {name}" for name, examples in splits.items())
    return f"{listed_labels(rare)} (rows: {', '.join(rows)})"
