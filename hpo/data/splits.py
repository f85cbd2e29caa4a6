"""Training, validation and test: read or made, kept apart, checked, and known again by a fingerprint."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpo.config.study_file import DataConfig
from hpo.data.checks import (
    listed_labels,
    ordered_labels,
    refuse_one_class,
    refuse_rare_classes,
    refuse_unknown_labels,
    refuse_unscored_classes,
)
from hpo.data.sources import Examples, Source, read_examples
from hpo.errors import DataError

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The data of a study: no text stands in two splits, and each label is in training and validation."""

    train: Examples
    validation: Examples
    test: Examples | None
    label_names: tuple[str, ...]
    """In the order of the classes: by number where all are integers, else by name."""
    notes: tuple[str, ...]
    """Sentences for the user: what was found, dropped and made."""
    fingerprint: str
    """SHA-256, hexadecimal, over the rows of all splits in their order."""


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Read the files of `config`, make the splits that it does not name, and check them.

    Args:
        config: which files, columns and fractions.
        seed: decides which training rows become validation and test; the same on every machine.

    Raises:
        DataError: a file cannot be read, or the splits cannot be trained and scored on.
    """
    train = _read(config, config.train, None)
    validation = _read(config, config.validation, train) if config.validation else None
    test = _read(config, config.test, train) if config.test else None
    sources = [source for source in (train, validation, test) if source is not None]
    return split_examples(
        train.examples,
        validation=validation.examples if validation else config.validation_fraction,
        test=test.examples if test else config.test_fraction,
        seed=seed,
        notes=tuple(note for source in sources for note in source.notes),
    )


def split_examples(
    train: Examples,
    *,
    validation: Examples | float,
    test: Examples | float = 0.0,
    seed: int,
    notes: tuple[str, ...] = (),
) -> Splits:
    """Make splits of examples in memory.

    Args:
        train: rows to train on, and to make the other splits from.
        validation: its rows, or the share of `train`, above 0, to make it from.
        test: its rows, or the share of `train` to make it from; 0 for no test split.
        seed: decides which rows are taken.
        notes: what the user should be told before the notes made here.

    Raises:
        DataError: the splits cannot be trained and scored on.
    """
    refuse_one_class(train)
    shares = {"validation": validation, "test": test}
    made = [name for name, share in shares.items() if not isinstance(share, Examples) and share > 0]
    refuse_rare_classes(train, made)
    rest = np.arange(train.rows)
    if not isinstance(test, Examples):
        test, rest = _part(train, rest, test, seed)
    if not isinstance(validation, Examples):
        validation, rest = _part(train, rest, validation, seed + 1)
    kept = train.take(rest.tolist()) if made else train
    made_note = (f"Made {' and '.join(made)} from the training rows.",) if made else ()
    return _checked(kept, validation, test if test.rows else None, (*notes, *made_note))


def label_numbers(labels: Sequence[str], label_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the class number of each label: its place among `label_names`, which hold all of them."""
    number = {name: index for index, name in enumerate(label_names)}
    return np.fromiter((number[label] for label in labels), dtype=np.int64, count=len(labels))


def stratified_part(labels: NDArray[np.int64] | Sequence[int], rows: int, seed: int) -> NDArray[np.int64]:
    """Choose rows so that classes stand among them as they do in all.

    Each class gets its exact share of `rows`, rounded by largest remainder, and at least one row where `rows`
    is enough for that. The same labels, rows and seed give the same choice.

    Args:
        labels: class of each row.
        rows: how many to choose; all where there are no more.
        seed: 0 or more.

    Returns:
        Positions within `labels`, rising; min(rows, len(labels)) of them.
    """
    classes = np.asarray(labels, dtype=np.int64)
    if rows >= classes.size:
        return np.arange(classes.size)
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


def _read(config: DataConfig, path: Path, train: Source | None) -> Source:
    """Read one file; validation and test have the columns that were found in training."""
    columns = train.columns if train else None
    return read_examples(
        path,
        text_column=columns.text if columns else config.text_column,
        text_pair_column=columns.pair if columns else config.text_pair_column,
        label_column=columns.label if columns else config.label_column,
        strict=config.strict,
    )


def _part(train: Examples, available: NDArray[np.int64], share: float, seed: int) -> tuple[Examples, NDArray[np.int64]]:
    """Take a share of all rows out of those `available`; return it, and which rows are left."""
    names = sorted(set(train.labels))
    rows = max(round(train.rows * share), len(names)) if share else 0
    labels = label_numbers(train.labels, names)[available]
    taken = stratified_part(labels, rows, seed)
    return train.take(available[taken].tolist()), np.delete(available, taken)


def _checked(train: Examples, validation: Examples, test: Examples | None, notes: tuple[str, ...]) -> Splits:
    """Keep the splits apart, refuse what cannot be trained or scored, and sum up."""
    train, validation, apart_notes = _kept_apart(train, validation, test)
    scored = {"Validation": validation} | ({"The test split": test} if test else {})
    refuse_one_class(train)
    for name, examples in scored.items():
        refuse_unknown_labels(name, train, examples)
    refuse_unscored_classes(train, validation)
    label_names = ordered_labels(train.labels)
    notes = (*notes, *apart_notes, *_repeated(train), _summary(train, validation, test, label_names))
    return Splits(
        train=train,
        validation=validation,
        test=test,
        label_names=label_names,
        notes=notes,
        fingerprint=_fingerprint(train, validation, test),
    )


def _kept_apart(train: Examples, validation: Examples, test: Examples | None) -> tuple[Examples, Examples, list[str]]:
    """Remove from validation the texts of test, and from training those of either."""
    tested = set(_keys(test)) if test else set()
    seen = tested | set(_keys(validation))
    apart_train, apart_validation = _removed(train, seen), _removed(validation, tested)
    notes = []
    if count := validation.rows - apart_validation.rows:
        notes.append(f"Validation rows removed because their text is in the test split as well: {count:,}.")
    if count := train.rows - apart_train.rows:
        notes.append(f"Training rows removed because their text is in validation or test as well: {count:,}.")
    for name, examples in (("validation", apart_validation), ("training", apart_train)):
        if not examples.rows:
            raise DataError(f"No {name} row is left: each of its texts is in another split as well.")
    return apart_train, apart_validation, notes


def _removed(examples: Examples, keys: set[Key]) -> Examples:
    kept = [row for row, key in enumerate(_keys(examples)) if key not in keys]
    return examples if len(kept) == examples.rows else examples.take(kept)


def _keys(examples: Examples) -> list[Key]:
    """Return what makes rows equal: the text and its pair, whatever their spacing."""
    columns = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    spaced = [[" ".join(text.split()) for text in column] for column in columns]
    return list(zip(*spaced, strict=True))


def _repeated(train: Examples) -> list[str]:
    """Tell of texts that stand in training more than once; they stay."""
    labels: dict[Key, set[str]] = {}
    for key, label in zip(_keys(train), train.labels, strict=True):
        labels.setdefault(key, set()).add(label)
    notes = []
    if count := train.rows - len(labels):
        notes.append(f"Training rows that repeat the text of an earlier one, and were kept: {count:,}.")
    if contradicted := sum(len(given) > 1 for given in labels.values()):
        notes.append(f"Training texts that stand there under more than one label: {contradicted:,}.")
    return notes


def _summary(train: Examples, validation: Examples, test: Examples | None, names: Sequence[str]) -> str:
    tested = f", {test.rows:,} test" if test else ", no test"
    return (
        f"Rows: {train.rows:,} training, {validation.rows:,} validation{tested}; "
        f"{len(names)} labels: {listed_labels(names)}."
    )


def _fingerprint(train: Examples, validation: Examples, test: Examples | None) -> str:
    digest = hashlib.sha256()
    for examples in (train, validation, test):
        rows = None if examples is None else [examples.texts, examples.pairs, examples.labels]
        digest.update(json.dumps(rows).encode())
    return digest.hexdigest()
