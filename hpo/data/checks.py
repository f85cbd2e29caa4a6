"""Checks of labels: which cannot be trained or scored on, and how a sentence names them."""

import re
from collections.abc import Collection, Iterable

from hpo.data.groups import group_numbers
from hpo.data.sources import Examples
from hpo.data.target_types import TargetType
from hpo.errors import DataError

INTEGER = re.compile(r"-?[0-9]{1,18}")

TRAIN_ROWS_PER_CLASS = 2
LEAVE_OUT = "add rows, or have data.rare_labels=drop leave such labels out, or merge make them one label, 'other'"
"""What to do about labels that are too rare."""
SHOWN_LABELS = 10
SHOWN_CHARACTERS = 60


def refuse_one_class(train: Examples, kind: TargetType) -> None:
    """Refuse training rows that all have the same in their label column."""
    names = set(train.labels)
    if len(names) < 2:
        raise DataError(f"All {train.rows:,} training rows have the label {listed_labels(names)}; {kind.needs}.")


def refuse_rare_classes(train: Examples, kind: TargetType, least: int, purpose: str, remedy: str = "") -> None:
    """Refuse classes of fewer than `least` training rows; a sentence says what these are for and what else may help."""
    counts = kind.label_counts(train.labels)
    rare = {label: count for label, count in counts.items() if count < least}
    if not rare:
        return
    fewest = min(rare, key=lambda label: (rare[label], label))
    told = f"{listed_labels(rare)} ({rare[fewest]:,} of {listed_labels([fewest])}"
    if len(rare) > len(counts) / 2:
        told += f"; the label column holds {len(counts):,} values in {train.rows:,} rows: is it the right one?"
    raise DataError(
        f"Every label needs at least {least} training rows{purpose}, but there are fewer of {told}); {remedy}"
        f"{LEAVE_OUT}."
    )


def refuse_undividable_groups(train: Examples, kind: TargetType, made: Collection[str]) -> None:
    """Refuse groups of which training and the splits made from it cannot each have one, or one of every label."""
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
    """Refuse a split, called `name` in the sentence, that has labels which training does not have."""
    known, counts = kind.label_counts(train.labels), kind.label_counts(examples.labels)
    if unknown := counts.keys() - known:
        rows = sum(counts[label] for label in unknown)
        raise DataError(
            f"{name} has labels that training does not have: {listed_labels(unknown)} (rows: {rows:,}); "
            f"training has {listed_labels(known)}."
        )


def refuse_unscored_classes(train: Examples, validation: Examples, kind: TargetType) -> None:
    """Refuse classes that, once the splits are kept apart, are left without enough training or validation rows."""
    apart = " once those are removed whose text or group is in another split"
    refuse_rare_classes(train, kind, TRAIN_ROWS_PER_CLASS, apart)
    if unscored := kind.label_counts(train.labels).keys() - kind.label_counts(validation.labels).keys():
        raise DataError(
            f"Validation has no row of {listed_labels(unscored)}, so training on that label could not be "
            "scored; add such rows, or leave the label out."
        )


def ordered_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return each label once: by number where all are integers, else by name."""
    once = sorted(set(names))
    return tuple(sorted(once, key=int) if all(INTEGER.fullmatch(name) for name in once) else once)


def quoted(label: str) -> str:
    """Return a label cut where it is long, and quoted so that no terminal obeys what is in it."""
    return repr(label[:SHOWN_CHARACTERS])


def listed_labels(names: Iterable[str]) -> str:
    """Name a few labels, each as `quoted`."""
    ordered = ordered_labels(names)
    shown = [quoted(name) for name in ordered[:SHOWN_LABELS]]
    more = len(ordered) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
