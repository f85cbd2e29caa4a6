"""Checks of labels: which cannot be trained or scored on, and how a sentence names them."""

import re
from collections.abc import Iterable, Sequence

from hpo.data.groups import group_numbers
from hpo.data.sources import Examples
from hpo.data.targets import Targets
from hpo.errors import DataError

INTEGER = re.compile(r"-?[0-9]{1,18}")

TRAIN_ROWS_PER_CLASS = 2
LEAVE_OUT = "add rows, or have data.rare_labels=drop leave such labels out, or merge make them one label, 'other'"
"""What to do about labels that are too rare."""
SHOWN_LABELS = 10
SHOWN_CHARACTERS = 60


def refuse_one_class(train: Examples, targets: Targets) -> None:
    """Refuse training rows that all have the same in their label column."""
    names = set(train.labels)
    if len(names) < 2:
        raise DataError(f"All {train.rows:,} training rows have the label {listed_labels(names)}; {targets.needs}.")


def refuse_rare_classes(train: Examples, targets: Targets, made: Sequence[str]) -> None:
    """Refuse classes that cannot give two rows to training and one to each split made from it."""
    least = TRAIN_ROWS_PER_CLASS + len(made)
    counts = train.counted(targets.labels_of)
    rare = [label for label, count in counts.items() if count < least]
    if not rare:
        return
    many = (
        f" (the label column holds {len(counts):,} different values in {train.rows:,} rows: is it the right one?)"
        if len(rare) > len(counts) / 2
        else ""
    )
    purpose = f", one of them for each of {' and '.join(made)}" if made else ""
    raise DataError(
        f"Every label needs at least {least} training rows{purpose}, but there are fewer of "
        f"{listed_labels(rare)}{many}; {LEAVE_OUT}."
    )


def refuse_undividable_groups(train: Examples, targets: Targets, made: Sequence[str]) -> None:
    """Refuse groups of which training and the splits made from it cannot each have one, or one of every label."""
    if train.groups is None or not made:
        return
    splits = " and ".join(made)
    least = 1 + len(made)
    numbers = group_numbers(train.groups).tolist()
    groups = dict(zip(numbers, train.groups, strict=True))
    if len(groups) == 1:
        raise DataError(
            f"All {train.rows:,} training rows are of the group {listed_labels(groups.values())}, so {splits} cannot "
            "be made from them; name another data.group_column, or give a source of its own."
        )
    if len(groups) < least:
        raise DataError(
            f"The training rows are of {len(groups)} groups ({listed_labels(groups.values())}), but {least} are needed "
            f"to make {splits} from them; add groups, or give a source of its own."
        )
    held: dict[str, set[int]] = {}
    for cell, number in zip(train.labels, numbers, strict=True):
        for label in targets.labels_of(cell):
            held.setdefault(label, set()).add(number)
    for label, inside in held.items():
        if len(inside) < least:
            raise DataError(
                f"The label {listed_labels([label])} is in {len(inside)} of the groups only "
                f"({listed_labels(groups[number] for number in inside)}), so it cannot be in training and in {splits}; "
                "add such texts of other groups, or leave the label out."
            )


def refuse_unknown_labels(name: str, train: Examples, examples: Examples, targets: Targets) -> None:
    """Refuse a split, called `name` in the sentence, that has labels which training does not have."""
    known = train.counted(targets.labels_of)
    counts = examples.counted(targets.labels_of)
    if unknown := counts.keys() - known:
        rows = sum(counts[label] for label in unknown)
        raise DataError(
            f"{name} has labels that training does not have: {listed_labels(unknown)} (rows: {rows:,}); "
            f"training has {listed_labels(known)}."
        )


def refuse_unscored_classes(train: Examples, validation: Examples, targets: Targets) -> None:
    """Refuse classes that, once the splits are kept apart, are left without enough training or validation rows."""
    counts = train.counted(targets.labels_of)
    rare = [label for label, count in counts.items() if count < TRAIN_ROWS_PER_CLASS]
    if rare:
        raise DataError(
            f"Only one training row is left of {listed_labels(rare)}, but every label needs {TRAIN_ROWS_PER_CLASS}; "
            "add rows, or leave such labels out."
        )
    unscored = counts.keys() - validation.counted(targets.labels_of).keys()
    if unscored:
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
