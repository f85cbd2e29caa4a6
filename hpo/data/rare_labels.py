"""Rare labels: labels of too few rows to be trained and scored on are refused, dropped, or merged into one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from hpo.data.checks import listed_labels
from hpo.data.sources import Examples
from hpo.data.target_types import TargetType
from hpo.errors import DataError

OTHER = "other"
"""What labels are merged into; a label of that name that the examples have takes them in."""


def without_rare(
    splits: Mapping[str, Examples], least: int, how: str, kind: TargetType
) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Take labels of fewer than `least` training rows out of all splits, and return notes on it.

    Args:
        splits: by name, `training` among them.
        least: rows that a label needs.
        how: `refuse` leaves all as it is; `drop` leaves the rows out; `merge` gives them the label `OTHER`, whose rows
            are dropped where they are too few together. Rows that have sets of labels stay, without these labels.
        kind: the type of the label column.

    Raises:
        DataError: a split is left without a row.
    """
    left, notes = dict(splits), []
    rare = set() if how == "refuse" else _rare(left["training"], least, kind)
    few = f"Labels of fewer than {least} training rows"
    if rare and how == "merge":
        notes.append(f"{few} were merged into {OTHER!r}: {_rows_having(left, rare, kind)}.")
        left = _replaced(left, rare, (OTHER,), kind)
        rare, few = {OTHER} & _rare(left["training"], least, kind), f"Together they are fewer than {least} too, and"
    if rare:
        notes.append(f"{few} were dropped: {_rows_having(left, rare, kind)}.")
        left = _replaced(left, rare, (), kind)
    return left, tuple(notes)


def _rare(train: Examples, least: int, kind: TargetType) -> set[str]:
    return {label for label, count in kind.label_counts(train.labels).items() if count < least}


def _replaced(
    splits: Mapping[str, Examples], rare: Collection[str], others: Sequence[str], kind: TargetType
) -> dict[str, Examples]:
    """Return the splits with `others` in place of rare labels, and without the rows that have no label then."""
    left = {}
    for name, examples in splits.items():
        cells = [kind.replaced(cell, rare, others) for cell in examples.labels]
        kept = [row for row, cell in enumerate(cells) if cell]
        if not kept:
            raise DataError(
                f"No {name} row is left without {listed_labels(rare)}, which data.rare_labels is to take out; add rows "
                "of other labels."
            )
        left[name] = replace(examples.take(kept), labels=tuple(cells[row] for row in kept))
    return left


def _rows_having(splits: Mapping[str, Examples], rare: set[str], kind: TargetType) -> str:
    """Name the labels, and how many rows of each split have them."""
    rows = (
        f"{sum(not rare.isdisjoint(kind.labels_of(cell)) for cell in examples.labels):,} {name}"
        for name, examples in splits.items()
    )
    return f"{listed_labels(rare)} (rows: {', '.join(rows)})"
