"""Label checks: refuse what cannot be trained or scored; refuse, drop or merge rare labels."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from hpo.data.groups import group_numbers
from hpo.data.labels import TargetType, listed_labels
from hpo.data.sources import Examples
from hpo.errors import DataError

TRAIN_ROWS_PER_CLASS = 2
LEAVE_OUT = "add rows, or have data.rare_labels=drop leave such labels out, or merge make them one label, 'other'"
"""Treatments of labels that are too rare."""
MOST_OF_FEW = 10
"""Most labels of which a file of few rows is taken for too small, and not its label column for the wrong one."""
OTHER = "other"
"""Label into which rare labels are merged; an existing label of that name is included."""


def refuse_one_class(name: str, examples: Examples, kind: TargetType) -> None:
    """Refuse the split `name` if all its rows have the same labels, or the same number."""
    cells = set(examples.labels)
    if len(cells) < 2:
        held = listed_labels(kind.label_counts([*cells]) if kind.of_sets else cells)
        only = f"the {kind.word} {held}" if held else f"no {kind.word}"
        raise DataError(f"All {examples.rows:,} {name} rows have {only}; {kind.needs}.")


def refuse_rare_classes(train: Examples, kind: TargetType, least: int, purpose: str, remedy: str = "") -> None:
    """Refuse classes with fewer than `least` training rows, with their purpose and the remedies in the message."""
    counts = kind.label_counts(train.labels)
    rare = {label: count for label, count in counts.items() if count < least}
    if not rare:
        return
    need = f"label needs at least {least} training rows{purpose}"
    if len(counts) <= MOST_OF_FEW and train.rows < least * len(counts):
        raise DataError(
            f"{train.rows:,} training rows are too few for {len(counts)} labels: every {need}; {remedy}add rows."
        )
    doubt = ""
    if len(counts) > MOST_OF_FEW and len(rare) > len(counts) / 2:
        doubt = (
            f"The label column holds {len(counts):,} values in {train.rows:,} rows: is it the right one, or is another "
            "data.label_column meant? "
        )
    fewest = min(rare, key=lambda label: (rare[label], label))
    shortage = f"{listed_labels(rare)} ({rare[fewest]:,} of {listed_labels([fewest])})"
    raise DataError(f"{doubt}Every {need}, but there are fewer of {shortage}; {remedy}{LEAVE_OUT}.")


def refuse_undividable_groups(train: Examples, kind: TargetType, made: Collection[str]) -> None:
    """Refuse groups that cannot be divided so that training and each split made from it has one, or has every label."""
    if train.groups is None or not made:
        return
    splits = " and ".join(made)
    least = 1 + len(made)
    numbers = group_numbers(train.groups).tolist()
    groups = dict(zip(numbers, train.groups, strict=True))
    if len(groups) < least:
        raise DataError(
            f"To make {splits} from them the training rows need at least {least} groups, but they have {len(groups)} "
            f"({listed_labels(groups.values())}); add groups, name another data.group_column, or give a source of its "
            "own."
        )
    held: dict[str, set[int]] = {}
    for cell, number in zip(train.labels, numbers, strict=True):
        for label in kind.labels_of(cell):
            held.setdefault(label, set()).add(number)
    for label, inside in held.items():
        if len(inside) < least:
            raise DataError(
                f"The label {listed_labels([label])} is in {len(inside)} of the groups only "
                f"({listed_labels(groups[number] for number in inside)}), so it cannot be in training and in {splits}; "
                "add such examples of other groups, or leave the label out."
            )


def refuse_unknown_labels(name: str, train: Examples, examples: Examples, kind: TargetType) -> None:
    """Refuse a split, called `name` in the message, with labels that training does not have."""
    known, counts = kind.label_counts(train.labels), kind.label_counts(examples.labels)
    if unknown := counts.keys() - known:
        rows = sum(counts[label] for label in unknown)
        raise DataError(
            f"{name} has labels that training does not have: {listed_labels(unknown)} (rows: {rows:,}); "
            f"training has {listed_labels(known)}."
        )


def refuse_unscored_classes(train: Examples, validation: Examples, kind: TargetType) -> None:
    """Refuse classes that have too few training or validation rows after shared rows were removed."""
    apart = " once those are removed whose text or group is in another split"
    refuse_rare_classes(train, kind, TRAIN_ROWS_PER_CLASS, apart)
    if unscored := kind.label_counts(train.labels).keys() - kind.label_counts(validation.labels).keys():
        raise DataError(
            f"Validation has no row of {listed_labels(unscored)}, so training on that label could not be "
            "scored; add such rows, or leave the label out."
        )
    refuse_one_class("validation", validation, kind)


def without_rare(
    splits: Mapping[str, Examples], least: int, how: str, kind: TargetType
) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Treat labels that have fewer than `least` training rows in all splits, and return notes on it.

    Args:
        splits: by name, including `training`.
        least: rows that a label needs.
        how: `refuse` changes nothing; `drop` drops the rows; `merge` gives them the label `OTHER`, whose rows are
            dropped if they are too few together. Rows with sets of labels stay, without these labels.
        kind: the type of the label column.

    Raises:
        DataError: a split has no row left.
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
    """Return the splits with rare labels replaced by `others`, without the rows that have no label left."""
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
