"""Data splits: training, validation and test, read or made, checked, with a fingerprint; cross-validation folds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hpo.config.study_file import DataConfig, StudyConfig
from hpo.data.columns import Columns
from hpo.data.groups import group_numbers, remove_overlap, repetition_notes, text_keys, tied_rows
from hpo.data.label_checks import (
    TRAIN_ROWS_PER_CLASS,
    refuse_one_class,
    refuse_rare_classes,
    refuse_undividable_groups,
    refuse_unknown_labels,
    refuse_unscored_classes,
    without_rare,
)
from hpo.data.labels import SINGLE_LABEL, TARGET_TYPES, TargetType, listed_labels, ordered_labels
from hpo.data.sources import Examples, read_examples
from hpo.data.stratify import Strata, class_count, divide_groups, iterative_stratification, stratified_sample
from hpo.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Positions within the training rows, ascending."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def make_folds(train: Examples, folds: int, seed: int, kind: TargetType = SINGLE_LABEL) -> tuple[Fold, ...]:
    """Make stratified folds; rows of one group, and rows of one text, are in the same fold.

    Args:
        train: rows with at least two different targets.
        folds: number of folds, 2 or more.
        seed: decides which rows are in which fold.
        kind: the type of the label column.

    Returns:
        The folds; each row is in the validation of one, and in the training of the others.

    Raises:
        DataError: a fold could not be trained or scored on.
    """
    purpose, remedy = ", one of them for each of evaluation.folds", "lower evaluation.folds, "
    refuse_rare_classes(train, kind, folds, purpose, remedy)
    units = tied_rows(train)
    if (count := int(units.max()) + 1) < folds:
        raise DataError(
            f"evaluation.folds is {folds}, but rows that stay together (of one group, or of one text) leave only "
            f"{count:,} parts to make folds of; lower evaluation.folds, or add examples of other groups."
        )
    part = _parts(kind.strata(train.labels), units, folds, seed)
    made = tuple(Fold(train=np.flatnonzero(part != i), validation=np.flatnonzero(part == i)) for i in range(folds))
    for number, fold in enumerate(made, 1):
        _refuse_unfit_fold(train, fold, number, kind)
    return made


def _parts(strata: Strata, units: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each row."""
    if units.max() + 1 < units.size:
        return divide_groups(strata, units, [1 / folds] * folds, seed)
    if strata.ndim > 1:
        sizes = [len(part) for part in np.array_split(np.arange(units.size), folds)]
        return iterative_stratification(strata, sizes, seed)
    # Imported here because every worker process imports this module, and none makes folds.
    from sklearn.model_selection import StratifiedKFold

    parts = np.empty(units.size, dtype=np.int64)
    for fold, (_, rows) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=seed).split(units, strata)):
        parts[rows] = fold
    return parts


def _refuse_unfit_fold(train: Examples, fold: Fold, number: int, kind: TargetType) -> None:
    """Refuse a fold that cannot be scored (all its rows have one label) or trained (it has all rows of a label)."""
    trained, scored = (train.take(rows.tolist()).labels for rows in (fold.train, fold.validation))
    if len(set(scored)) < 2:
        raise DataError(
            f"Fold {number} has {len(scored):,} rows, all of the {kind.word} {listed_labels(set(scored))}, so it could "
            "not be scored on; lower evaluation.folds, or add examples of other groups."
        )
    counts = kind.label_counts(scored)
    if untrained := counts.keys() - kind.label_counts(trained).keys():
        rows = sum(counts[label] for label in untrained)
        raise DataError(
            f"Fold {number} has every row of {listed_labels(untrained)} (rows: {rows:,}), as rows of one group or text "
            "stay together, so nothing of it is left to train on; add such examples of other groups, or leave the "
            "label out."
        )


LEAST_ROWS_OF_A_SIDE = 200
"""Least rows of validation on each side (for the search, and kept for the confirmation); with fewer, none are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Splits of a study: no text and no group is in two of them, and each label is in training and validation."""

    train: Examples
    validation: Examples
    """Validation rows; with folds, the training rows themselves."""
    test: Examples | None
    confirmation: Examples | None = None
    """Validation rows kept for the confirmation, on which no trial of the search is scored; None if there are too few.
    """
    folds: tuple[Fold, ...] = ()
    """Cross-validation folds of the training rows; empty if there is a validation split."""
    label_names: tuple[str, ...]
    """Labels in the order of the classes: as numbers if all are integers, else by name."""
    notes: tuple[str, ...]
    """Sentences for the user: columns found, rows dropped, splits made."""
    warnings: tuple[str, ...] = ()
    """Those of `notes` on rows of the sources that were repaired or dropped."""
    fingerprint: str
    """SHA-256, hexadecimal, over the rows of all splits in order, and the folds."""
    columns: Columns | None = None
    """Columns of the training rows; None if they were not read from a source."""


def splits_of(config: StudyConfig) -> Splits:
    """Read the splits of a study; raises as `load_splits` does."""
    confirmation = config.confirmation
    kept = confirmation.validation_share if confirmation.finalists else 0.0
    kind = TARGET_TYPES[config.task.name]
    return load_splits(config.data, config.seed, kind, folds=config.evaluation.folds, kept=kept)


def load_splits(
    config: DataConfig,
    seed: int,
    kind: TargetType = SINGLE_LABEL,
    *,
    folds: int | None = None,
    kept: float = 0.0,
) -> Splits:
    """Read the sources of `config`, make the splits that it does not name, and check them.

    Args:
        config: sources, columns and fractions.
        seed: decides which training rows become validation and test; the same on every machine.
        kind: the type of the label column.
        folds: number of folds to make of the training rows instead of a validation split; None for such a split.
        kept: share of validation that is kept for the confirmation, if enough rows remain on each side.

    Raises:
        DataError: a source cannot be read, or the splits cannot be trained and scored on.
    """
    assert not (folds and config.validation), "a study has folds or a validation source"
    read = partial(read_examples, config=config, of_sets=kind.of_sets)
    train = read(config.train, "train")
    validation = read(config.validation, "validation", known=train.columns) if config.validation else None
    test = read(config.test, "test", known=train.columns) if config.test else None
    sources = [source for source in (train, validation, test) if source is not None]
    splits = split_examples(
        train.examples,
        validation=validation.examples if validation else config.validation_fraction,
        test=test.examples if test else config.test_fraction,
        seed=seed,
        folds=folds,
        kept=kept,
        notes=tuple(note for source in sources for note in source.notes),
        rare_labels=config.rare_labels,
        kind=kind,
    )
    warnings = tuple(warning for source in sources for warning in source.warnings)
    return replace(splits, columns=train.columns, warnings=warnings)


def split_examples(
    train: Examples,
    *,
    validation: Examples | float,
    test: Examples | float = 0.0,
    seed: int,
    folds: int | None = None,
    kept: float = 0.0,
    notes: tuple[str, ...] = (),
    rare_labels: str = "refuse",
    kind: TargetType = SINGLE_LABEL,
) -> Splits:
    """Make splits of examples in memory.

    Args:
        train: rows to train on, and to make the other splits from.
        validation: its rows, or the share of `train`, above 0, to make it from; ignored with folds.
        test: its rows, or the share of `train` to make it from; 0 for no test split.
        seed: decides which rows are taken.
        folds: number of folds to make of the rest of `train`, instead of validation.
        kept: share of validation that is kept for the confirmation, if enough rows remain on each side.
        notes: sentences for the user that precede the notes made here.
        rare_labels: treatment of labels with too few rows, as in `hpo.data.label_checks`.
        kind: the type of the label column.

    Raises:
        DataError: the splits cannot be trained and scored on.
    """
    asked = {"test": test} if folds else {"validation": validation, "test": test}
    shares = {name: part for name, part in asked.items() if not isinstance(part, Examples) and part > 0}
    parts = {"training": train, **{name: part for name, part in asked.items() if isinstance(part, Examples)}}
    kind.refuse({name: part.labels for name, part in parts.items()})
    parts, of_rare = without_rare(parts, max(TRAIN_ROWS_PER_CLASS, folds or 0) + len(shares), rare_labels, kind)
    train, notes, made = parts["training"], (*notes, *of_rare), " and ".join(shares)
    refuse_one_class("training", train, kind)
    purpose = f", one of them for each of {made}" if made else ""
    refuse_rare_classes(train, kind, TRAIN_ROWS_PER_CLASS + len(shares), purpose)
    refuse_undividable_groups(train, kind, shares)
    if shares:
        divided = _divided(train, kind.strata(train.labels), shares, seed)
        parts |= {name: train.take(rows.tolist()) for name, rows in divided.items()}
        notes = (*notes, f"Made {made} from the training rows{', no group divided' if train.groups else ''}.")
    return _checked(parts, kind, notes, seed, folds, kept)


def _divided(train: Examples, strata: Strata, shares: Mapping[str, float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each split that is made as a share of all rows, and those that remain for training."""
    if train.groups:
        rest = 1 - sum(shares.values())
        part = divide_groups(strata, group_numbers(train.groups), [rest, *shares.values()], seed)
        return {name: np.flatnonzero(part == number) for number, name in enumerate(("training", *shares))}
    rows: dict[str, NDArray[np.int64]] = {"training": np.arange(train.rows)}
    for name, own_seed in (("test", seed), ("validation", seed + 1)):
        if name in shares:
            available = rows["training"]
            wanted = max(round(train.rows * shares[name]), class_count(strata))
            taken = stratified_sample(strata[available], wanted, own_seed)
            rows |= {name: available[taken], "training": np.delete(available, taken)}
    return rows


def _without_overlap(parts: Mapping[str, Examples]) -> tuple[dict[str, Examples], list[str]]:
    """Remove validation rows that are also in the test split, and training rows that are in either, with notes."""
    apart: dict[str, Examples] = {}
    notes: list[str] = []
    for name in ("test", "validation", "training"):
        if name in parts:
            where = "validation or test" if "validation" in apart else "the test split"
            apart[name], removed = remove_overlap(name, parts[name], list(apart.values()), where)
            notes += removed
    return apart, notes


def _checked(
    parts: Mapping[str, Examples], kind: TargetType, notes: Sequence[str], seed: int, folds: int | None, kept: float
) -> Splits:
    """Keep the splits apart, refuse what cannot be trained or scored, and build the result."""
    parts, removed = _without_overlap(parts)
    notes = [*notes, *removed]
    train, validation, test = parts["training"], parts.get("validation"), parts.get("test")
    refuse_one_class("training", train, kind)
    for name, part in (("Validation", validation), ("The test split", test)):
        if part:
            refuse_unknown_labels(name, train, part, kind)
    made: tuple[Fold, ...] = ()
    confirmation = None
    if validation:
        refuse_unscored_classes(train, validation, kind)
        whole = validation.rows
        validation, confirmation = _parted(validation, kind.strata(validation.labels), kept, seed)
        rows = f"Rows: {train.rows:,} training, {validation.rows:,} validation"
        if confirmation:
            rows += f", {confirmation.rows:,} kept for the confirmation"
            if count := whole - validation.rows - confirmation.rows:
                notes.append(f"Validation rows left out because their text is kept for the confirmation: {count:,}.")
    else:
        assert folds, "without folds there is validation"
        made, rows = make_folds(train, folds, seed, kind), f"{train.rows:,} rows in {folds} folds"
    if kind.of_sets and all(len(kind.labels_of(cell)) < 2 for cell in train.labels):
        notes.append("No training row has several labels; if cells list them, give their data.label_separator.")
    notes += repetition_notes(train, kind.word)
    names = ordered_labels(kind.label_counts(train.labels))
    held = f"{len(names)} labels: {listed_labels(names)}" if names else _range_of(train.labels)
    return Splits(
        train=train,
        validation=validation or train,
        test=test,
        confirmation=confirmation,
        folds=made,
        label_names=names,
        notes=(*notes, f"{rows}, {f'{test.rows:,}' if test else 'no'} test; {held}."),
        fingerprint=_fingerprint([train, validation, test, *([confirmation] if confirmation else [])], made),
    )


def _parted(validation: Examples, strata: Strata, share: float, seed: int) -> tuple[Examples, Examples | None]:
    """Return the rows for the search and the rows kept from it; none are kept if either would be too few.

    If one copy of a text is kept, the search sees none of its copies.
    """
    if round(validation.rows * min(share, 1 - share)) < LEAST_ROWS_OF_A_SIDE:
        return validation, None
    if validation.groups:
        unseen = divide_groups(strata, group_numbers(validation.groups), [1 - share, share], seed) == 1
    else:
        unseen = np.zeros(validation.rows, dtype=bool)
        unseen[stratified_sample(strata, round(validation.rows * share), seed + 2)] = True
    keys = text_keys(validation)
    kept = {keys[row] for row in np.flatnonzero(unseen)}
    seen = np.array([key not in kept for key in keys])
    for side in (seen, unseen):
        if side.sum() < LEAST_ROWS_OF_A_SIDE or class_count(strata[side]) < class_count(strata):
            return validation, None
    return validation.take(np.flatnonzero(seen).tolist()), validation.take(np.flatnonzero(unseen).tolist())


def _range_of(numbers: Sequence[str]) -> str:
    return f"numbers from {min(numbers, key=float)} to {max(numbers, key=float)}"


def _fingerprint(splits: Sequence[Examples | None], folds: tuple[Fold, ...]) -> str:
    digest = hashlib.sha256()
    for examples in splits:
        rows = None if examples is None else [examples.texts, examples.pairs, examples.labels]
        if rows and examples and examples.groups:
            rows.append(examples.groups)
        digest.update(json.dumps(rows).encode())
    if folds:
        digest.update(json.dumps([fold.validation.tolist() for fold in folds]).encode())
    return digest.hexdigest()
