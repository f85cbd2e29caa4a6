"""Training, validation and test: read or made, kept apart, checked, and known again by a fingerprint."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hpo.config.study_file import DataConfig, StudyConfig
from hpo.data.apart import kept_apart, repetitions, text_keys
from hpo.data.checks import (
    TRAIN_ROWS_PER_CLASS,
    listed_labels,
    ordered_labels,
    refuse_one_class,
    refuse_rare_classes,
    refuse_undividable_groups,
    refuse_unknown_labels,
    refuse_unscored_classes,
)
from hpo.data.columns import Columns
from hpo.data.folds import Fold, make_folds
from hpo.data.groups import apportioned, group_numbers
from hpo.data.rare_labels import without_rare
from hpo.data.sources import Examples, read_examples
from hpo.data.stratify import iterative_parts
from hpo.data.targets import ONE_LABEL, TARGETS, Strata, Targets, classes_among

LEAST_ROWS_OF_A_SIDE = 200
"""Rows of validation that must remain for the search, and as many that it never sees, or none are kept from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The data of a study: no text and no group stands in two splits, each label is in training and validation."""

    train: Examples
    validation: Examples
    """With folds, the training rows themselves."""
    test: Examples | None
    confirmation: Examples | None = None
    """Rows of validation that no trial of a search is scored on, kept for what confirms the best of them; None where
    there are too few."""
    folds: tuple[Fold, ...] = ()
    """Parts of the training rows that are trained and scored on in turn; none where there is a validation split."""
    label_names: tuple[str, ...]
    """In the order of the classes: by number where all are integers, else by name."""
    notes: tuple[str, ...]
    """Sentences for the user: what was found, dropped and made."""
    fingerprint: str
    """SHA-256, hexadecimal, over the rows of all splits in their order, and the folds."""
    columns: Columns | None = None
    """Where the training rows were found; None where they were not read from a source."""


def splits_of(config: StudyConfig) -> Splits:
    """Read the data of a study; raises as `load_splits` does."""
    confirmation = config.confirmation
    kept = confirmation.validation_share if confirmation.finalists else 0.0
    targets = TARGETS[config.task.name]
    return load_splits(config.data, config.seed, targets, folds=config.evaluation.folds, kept=kept)


def load_splits(
    config: DataConfig, seed: int, targets: Targets = ONE_LABEL, *, folds: int | None = None, kept: float = 0.0
) -> Splits:
    """Read the sources of `config`, make the splits that it does not name, and check them.

    Args:
        config: which sources, columns and fractions.
        seed: decides which training rows become validation and test; the same on every machine.
        targets: how the task takes the label column.
        folds: how many folds to make of the training rows in place of a validation split; None for such a split.
        kept: share of validation that is kept for the confirmation, where enough rows remain on each side.

    Raises:
        DataError: a source cannot be read, or the splits cannot be trained and scored on.
    """
    assert not (folds and config.validation), "a study has folds or a validation source"
    read = partial(read_examples, config=config, of_sets=targets.of_sets)
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
        targets=targets,
    )
    return replace(splits, columns=train.columns)


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
    targets: Targets = ONE_LABEL,
) -> Splits:
    """Make splits of examples in memory.

    Args:
        train: rows to train on, and to make the other splits from.
        validation: its rows, or the share of `train`, above 0, to make it from; not read where there are folds.
        test: its rows, or the share of `train` to make it from; 0 for no test split.
        seed: decides which rows are taken.
        folds: how many folds to make of what is left of `train`, in place of validation.
        kept: share of validation that is kept for the confirmation, where enough rows remain on each side.
        notes: what the user should be told before the notes made here.
        rare_labels: what becomes of labels with too few rows, as `hpo.data.rare_labels` takes it.
        targets: how the task takes the label column.

    Raises:
        DataError: the splits cannot be trained and scored on.
    """
    asked = {"test": test} if folds else {"validation": validation, "test": test}
    shares = {name: part for name, part in asked.items() if not isinstance(part, Examples) and part > 0}
    parts = {name: part for name, part in asked.items() if isinstance(part, Examples)}
    targets.refuse({"training": train.labels, **{name: part.labels for name, part in parts.items()}})
    least = max(TRAIN_ROWS_PER_CLASS, folds or 0) + len(shares)
    parts, of_rare = without_rare({"training": train, **parts}, least, rare_labels, targets)
    train, notes = parts.pop("training"), (*notes, *of_rare)
    refuse_one_class(train, targets)
    refuse_rare_classes(train, targets, list(shares))
    refuse_undividable_groups(train, targets, list(shares))
    if shares:
        divided = _divided(train, targets.strata(train.labels), shares, seed)
        parts |= {name: train.take(rows.tolist()) for name, rows in divided.items()}
        whole = ", no group divided" if train.groups else ""
        notes = (*notes, f"Made {' and '.join(shares)} from the training rows{whole}.")
    parts = {"train": train, **parts}
    if folds:
        return _folded(parts, targets, notes, folds, seed)
    return _checked(parts, targets, notes, kept, seed)


def label_numbers(labels: Sequence[str], label_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the class number of each label: its place among `label_names`, which hold all of them."""
    number = {name: index for index, name in enumerate(label_names)}
    return np.fromiter((number[label] for label in labels), dtype=np.int64, count=len(labels))


def stratified_part(strata: Strata | Sequence[int], rows: int, seed: int) -> NDArray[np.int64]:
    """Choose rows so that classes stand among them as they do in all.

    Each class gets its exact share of `rows`, rounded by largest remainder, and at least one row where `rows`
    is enough for that; where rows may be of several, as near to it as `iterative_parts` comes. The same strata, rows
    and seed give the same choice.

    Args:
        strata: of each row.
        rows: how many to choose; all where there are no more.
        seed: 0 or more.

    Returns:
        Positions within `strata`, rising; min(rows, len(strata)) of them.
    """
    classes = np.asarray(strata, dtype=np.int64)
    if rows >= len(classes):
        return np.arange(len(classes))
    if classes.ndim > 1:
        return np.flatnonzero(iterative_parts(classes, [rows, len(classes) - rows], seed) == 0)
    _, members, counts = np.unique(classes, return_inverse=True, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = [
        generator.permutation(np.flatnonzero(members == member))[:quota]
        for member, quota in enumerate(_quotas(counts, rows))
    ]
    rising: NDArray[np.int64] = np.sort(np.concatenate(chosen))
    return rising


def _quotas(counts: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Share `rows`, fewer than `counts` in all, among classes of these sizes."""
    exact = counts * rows / counts.sum()
    least = 1 if rows >= counts.size else 0
    quotas: NDArray[np.int64] = np.maximum(np.floor(exact).astype(np.int64), least)
    for _ in range(rows - int(quotas.sum())):
        quotas[np.argmax(np.where(quotas < counts, exact - quotas, -np.inf))] += 1
    for _ in range(int(quotas.sum()) - rows):
        quotas[np.argmax(np.where(quotas > least, quotas - exact, -np.inf))] -= 1
    return quotas


def _divided(train: Examples, strata: Strata, shares: Mapping[str, float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each split that is made as a share of all rows, and those that are left under `train`."""
    if train.groups:
        rest = 1 - sum(shares.values())
        part = apportioned(strata, group_numbers(train.groups), [rest, *shares.values()], seed)
        return {name: np.flatnonzero(part == number) for number, name in enumerate(("train", *shares))}
    rows: dict[str, NDArray[np.int64]] = {"train": np.arange(train.rows)}
    for name, own_seed in (("test", seed), ("validation", seed + 1)):
        if name in shares:
            available = rows["train"]
            wanted = max(round(train.rows * shares[name]), classes_among(strata))
            taken = stratified_part(strata[available], wanted, own_seed)
            rows |= {name: available[taken], "train": np.delete(available, taken)}
    return rows


def _checked(parts: Mapping[str, Examples], targets: Targets, notes: tuple[str, ...], kept: float, seed: int) -> Splits:
    """Keep the splits apart, refuse what cannot be trained or scored, and sum up."""
    train, validation, test = parts["train"], parts["validation"], parts.get("test")
    validation, validation_notes = kept_apart("validation", validation, [test] if test else [], "the test split")
    later = [validation, test] if test else [validation]
    train, train_notes = kept_apart("training", train, later, "validation or test")
    refuse_one_class(train, targets)
    refuse_unknown_labels("Validation", train, validation, targets)
    if test:
        refuse_unknown_labels("The test split", train, test, targets)
    refuse_unscored_classes(train, validation, targets)
    whole = validation.rows
    validation, confirmation = _parted(validation, targets.strata(validation.labels), kept, seed)
    rows = f"Rows: {train.rows:,} training, {validation.rows:,} validation"
    notes = (*notes, *validation_notes, *train_notes)
    if confirmation is not None:
        rows += f", {confirmation.rows:,} kept for the confirmation"
        if left_out := whole - validation.rows - confirmation.rows:
            notes = (*notes, f"Validation rows left out because their text is kept for the confirmation: {left_out:,}.")
    return _summed_up(train, validation, test, targets, (), notes, rows, confirmation)


def _parted(validation: Examples, strata: Strata, share: float, seed: int) -> tuple[Examples, Examples | None]:
    """Return the rows that a search is scored on, and those that it never sees: none where either would be too few.

    Of a text that is there several times the search sees none where one of them is kept from it.
    """
    if round(validation.rows * min(share, 1 - share)) < LEAST_ROWS_OF_A_SIDE:
        return validation, None
    if validation.groups:
        unseen = apportioned(strata, group_numbers(validation.groups), [1 - share, share], seed) == 1
    else:
        unseen = np.zeros(validation.rows, dtype=bool)
        unseen[stratified_part(strata, round(validation.rows * share), seed + 2)] = True
    keys = text_keys(validation)
    kept = {keys[row] for row in np.flatnonzero(unseen)}
    seen = np.array([key not in kept for key in keys])
    for side in (seen, unseen):
        if side.sum() < LEAST_ROWS_OF_A_SIDE or classes_among(strata[side]) < classes_among(strata):
            return validation, None
    return validation.take(np.flatnonzero(seen).tolist()), validation.take(np.flatnonzero(unseen).tolist())


def _folded(parts: Mapping[str, Examples], targets: Targets, notes: tuple[str, ...], folds: int, seed: int) -> Splits:
    """Keep training apart from test, and make folds of it."""
    train, test = parts["train"], parts.get("test")
    train, apart_notes = kept_apart("training", train, [test] if test else [], "the test split")
    refuse_one_class(train, targets)
    if test:
        refuse_unknown_labels("The test split", train, test, targets)
    made = make_folds(train, folds, seed, targets)
    rows = f"{train.rows:,} rows in {folds} folds"
    return _summed_up(train, train, test, targets, made, (*notes, *apart_notes), rows)


def _summed_up(
    train: Examples,
    validation: Examples,
    test: Examples | None,
    targets: Targets,
    folds: tuple[Fold, ...],
    notes: tuple[str, ...],
    rows: str,
    confirmation: Examples | None = None,
) -> Splits:
    names = ordered_labels(train.counted(targets.labels_of))
    tested = f"{test.rows:,} test" if test else "no test"
    held = f"{len(names)} labels: {listed_labels(names)}" if names else _extent_of(train.labels)
    summary = f"{rows}, {tested}; {held}."
    told = [train, None if folds else validation, test, *([confirmation] if confirmation else [])]
    return Splits(
        train=train,
        validation=validation,
        test=test,
        confirmation=confirmation,
        folds=folds,
        label_names=names,
        notes=(*notes, *repetitions(train), summary),
        fingerprint=_fingerprint(told, folds),
    )


def _extent_of(numbers: Sequence[str]) -> str:
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
