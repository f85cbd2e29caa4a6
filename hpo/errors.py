"""Error classes: every error a user can meet, in one tree.

    HpoError                      anything hpo says in a sentence instead of a traceback
    ├── ConfigurationError        a study file, an override or a hyperparameter that cannot be (exit 2)
    │   └── SpaceError            a search space that cannot be
    ├── DataError                 the user's texts and labels cannot be trained on (exit 2)
    ├── ModelError                the model cannot be loaded or used (exit 2)
    ├── StoreError                the study store cannot be opened, read or written (exit 3)
    │   ├── StoreUnavailableError it may answer again: a server that restarts, a full disk (exit 3)
    │   └── StudyMismatchError    the stored study was made from another space, data set or model (exit 2)
    ├── TrainingError             training fails whatever the configuration (exit 1)
    ├── StudyLedError             another process leads this study right now (exit 4)
    └── NoResultError             what was asked for needs a completed trial and there is none (exit 5)

Each message is one sentence a tired person understands: the rule, the value, the choices, what to do.
Bad input is also a `ValueError`, so that library users may catch it as one.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

LONGEST_REASON = 300


class HpoError(Exception):
    """Anything that hpo says in a sentence instead of a traceback: one mistake, or several told at once."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *mistakes: str) -> None:
        super().__init__(mistakes[0] if len(mistakes) == 1 else _listed(mistakes))
        self.mistakes = mistakes


class ConfigurationError(HpoError, ValueError):
    """A study file, an override or a hyperparameter that cannot be."""

    exit_code = 2


class SpaceError(ConfigurationError):
    """A search space that cannot be."""


class DataError(HpoError, ValueError):
    """The user's texts and labels cannot be trained on."""

    exit_code = 2


class ModelError(HpoError, ValueError):
    """The model cannot be loaded or used."""

    exit_code = 2


class TrainingError(HpoError):
    """Training fails: the one trial that was asked for, or several in a row."""


class StoreError(HpoError):
    """The study store cannot be opened, read or written."""

    exit_code = 3


class StoreUnavailableError(StoreError):
    """The store does not answer now and may answer again: a server that restarts, a full disk, a lock."""


class StudyMismatchError(StoreError, ValueError):
    """The stored study was made from another space, data set or model."""

    exit_code = 2


class StudyLedError(HpoError):
    """Another process leads this study right now."""

    exit_code = 4


class NoResultError(HpoError):
    """What was asked for needs a completed trial and there is none."""

    exit_code = 5


def _listed(mistakes: Sequence[str]) -> str:
    """Return several mistakes below each other, the source that all begin with said once."""
    source = mistakes[0][: mistakes[0].find(": ") + 2]
    source = source if all(mistake.startswith(source) for mistake in mistakes) else ""
    lines = "".join(f"\n  - {mistake.removeprefix(source)}" for mistake in mistakes)
    return f"{source or 'There are '}{len(mistakes)} mistakes{lines}"


class Mistakes:
    """The mistakes of one file, command or model, gathered so that all are told at once."""

    def __init__(self) -> None:
        self._errors: list[ConfigurationError | ModelError] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep a ConfigurationError or a ModelError of the block until `refuse`."""
        try:
            yield
        except (ConfigurationError, ModelError) as error:
            self._errors.append(error)

    def refuse(self) -> None:
        """Raise one error that tells all mistakes, if there are any."""
        mistakes = list(dict.fromkeys(mistake for error in self._errors for mistake in error.mistakes))
        if len(mistakes) == 1:
            raise self._errors[0]
        if mistakes:
            kinds = {type(error) for error in self._errors}
            kind = kinds.pop() if len(kinds) == 1 else ConfigurationError
            raise kind(*mistakes)


def error_line(error: Exception) -> str:
    """Return an error in one line of at most `LONGEST_REASON` letters, with its kind where it is none of ours."""
    text = str(error) if isinstance(error, HpoError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:LONGEST_REASON]


def without_credentials(text: str) -> str:
    """Return what a user typed with no name and password in a URL that it may hold, at its front or in its query."""
    return re.sub(r"(?<=password=)[^&\s]*", "***", re.sub(r"(?<=://)[^/\s]*@", "***@", text))


def nearest(name: str, known: Iterable[str], also: Iterable[str] = ()) -> str:
    """Return the end of a message, a certain misspelling first: `Did you mean 'epochs'? Known: batch_size, epochs.`

    Args:
        name: what was given.
        known: what it could have been there.
        also: what else may be suggested, though not listed: keys of other places.
    """
    choices = sorted(known)
    listed = f"Known: {', '.join(choices)}."
    meant = misspelt(name, choices) or misspelt(name, also)
    return f"Did you mean {' or '.join(map(repr, meant))}? {listed}" if meant else listed


def misspelt(name: str, known: Iterable[str]) -> list[str]:
    """Return what of `known` the name certainly is, misspelt or without the keys above it; several if equally near.

    A word of eight letters or more may be two letters off, a shorter one a single letter, one of three letters or less
    two swapped letters or one letter more or less. Digits count: `l1` is not `l2`.
    """
    off = {choice: _off(name, choice) for choice in known}
    near = {choice: most for choice, most in off.items() if most is not None}
    return sorted(choice for choice, most in near.items() if most == min(near.values()))


def _off(name: str, choice: str) -> int | None:
    """Return by how many letters two names differ; None where they are two names."""
    one, other = (re.split(r"[^a-z0-9]+", text.lower()) for text in (name, choice))
    if "." in choice and "." not in name:
        other = re.split(r"[^a-z0-9]+", choice.lower().rpartition(".")[2])
    if len(one) != len(other):
        one, other = ["".join(one)], ["".join(other)]
        return 1 if min(len(one[0]), len(other[0])) > 4 and _letters_off(one[0], other[0]) in (0, 1) else None
    words = [_word_off(left, right) for left, right in zip(one, other, strict=True)]
    return None if None in words else sum(word for word in words if word is not None)


def _word_off(one: str, other: str) -> int | None:
    if re.sub(r"\D", "", one) != re.sub(r"\D", "", other):
        return None
    shorter, off = min(len(one), len(other)), _letters_off(one, other)
    if shorter <= 3 and off:
        swapped = off == 1 and sorted(one) == sorted(other)
        return off if swapped or (shorter > 1 and abs(len(one) - len(other)) == off == 1) else None
    return off if off <= (2 if shorter >= 8 else 1) else None


def _letters_off(one: str, other: str) -> int:
    """Return how many letters are to be changed, added, dropped or swapped with the next (Damerau 1964)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        last, row, earlier = row, [i], before
        for j, opposite in enumerate(other, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != opposite)))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == opposite:
                row[j] = min(row[j], earlier[j - 2] + 1)
        before = last
    return row[-1]
