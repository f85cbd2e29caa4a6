"""Labels of too few rows to be trained and scored on, where they are not to be refused: dropped, or made one label."""

from collections.abc import Mapping
from dataclasses import replace

from hpo.data.checks import listed_labels
from hpo.data.label_sets import replaced
from hpo.data.sources import Examples
from hpo.data.targets import ONE_LABEL, Targets
from hpo.errors import DataError

OTHER = "other"
"""What labels are merged into; a label of that name that the texts have takes them in."""


def without_rare(
    splits: Mapping[str, Examples], least: int, how: str, targets: Targets = ONE_LABEL
) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Take labels of fewer than `least` training rows out of all splits, and say so.

    Args:
        splits: by name, `training` among them.
        least: rows that a label needs.
        how: `refuse` leaves all as it is; `drop` leaves the rows out; `merge` gives them the label `OTHER`, whose rows
            are dropped where they are too few together. Rows that have sets of labels stay, without these labels.
        targets: how the task takes the label column.

    Raises:
        DataError: a split is left without a row.
    """
    rare = _rare(splits["training"], least, targets)
    if how == "refuse" or not rare:
        return dict(splits), ()
    if how == "drop":
        return _dropped(splits, rare, f"Labels of fewer than {least} training rows were dropped", targets)
    merged = {name: _merged(examples, rare, targets) for name, examples in splits.items()}
    told = (
        f"Labels of fewer than {least} training rows were merged into {OTHER!r}: {_rows_having(splits, rare, targets)}."
    )
    if OTHER in _rare(merged["training"], least, targets):
        told_again = f"Together they are fewer than {least} too, and were dropped"
        merged, dropped = _dropped(merged, {OTHER}, told_again, targets)
        return merged, (told, *dropped)
    return merged, (told,)


def _rare(train: Examples, least: int, targets: Targets) -> set[str]:
    return {label for label, count in train.counted(targets.labels_of).items() if count < least}


def _merged(examples: Examples, rare: set[str], targets: Targets) -> Examples:
    if targets.of_sets:
        return replace(examples, labels=tuple(replaced(cell, rare, [OTHER]) for cell in examples.labels))
    return replace(examples, labels=tuple(OTHER if label in rare else label for label in examples.labels))


def _dropped(
    splits: Mapping[str, Examples], rare: set[str], told: str, targets: Targets
) -> tuple[dict[str, Examples], tuple[str, ...]]:
    told = f"{told}: {_rows_having(splits, rare, targets)}."
    if targets.of_sets:
        left = {
            n: replace(one, labels=tuple(replaced(cell, rare, ()) for cell in one.labels)) for n, one in splits.items()
        }
        return left, (told,)
    kept = {
        name: examples.take([row for row, label in enumerate(examples.labels) if label not in rare])
        for name, examples in splits.items()
    }
    if empty := [name for name, examples in kept.items() if not examples.rows]:
        raise DataError(
            f"No {empty[0]} row is left without {listed_labels(rare)}, which data.rare_labels is to take out; add rows "
            "of other labels."
        )
    return kept, (told,)


def _rows_having(splits: Mapping[str, Examples], rare: set[str], targets: Targets) -> str:
    """Name the labels, and how many rows of each split have them."""
    having = {n: sum(not rare.isdisjoint(targets.labels_of(cell)) for cell in one.labels) for n, one in splits.items()}
    rows = (f"{count:,} {name}" for name, count in having.items())
    return f"{listed_labels(rare)} (rows: {', '.join(rows)})"
