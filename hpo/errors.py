"""Error classes: every error a user can meet, in one tree.

    HpoError                      any error that is printed as a sentence instead of a traceback
    ├── ConfigurationError        an invalid study file, override or hyperparameter (exit 2)
    │   └── SpaceError            an invalid search space
    ├── DataError                 the user's texts and labels cannot be trained on (exit 2)
    ├── ModelError                the model cannot be loaded or used (exit 2)
    ├── StoreError                the study store cannot be opened, read or written (exit 3)
    │   ├── StoreUnavailableError the store does not answer now: a server that restarts, a full disk (exit 3)
    │   └── StudyMismatchError    the stored study was made from another space, data set or model (exit 2)
    ├── TrainingError             training fails with any configuration (exit 1)
    ├── StudyLedError             another process leads this study now (exit 4)
    └── NoResultError             a request needs a completed trial, and there is none (exit 5)

Each message is one sentence with the rule, the value, the choices and the remedy. Errors in the user's input are also
`ValueError`s, so that users of the library may catch them as such.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

LONGEST_REASON = 300


class HpoError(Exception):
    """Base of all errors that are printed as a sentence instead of a traceback; holds one mistake or several."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *mistakes: str) -> None:
        super().__init__(mistakes[0] if len(mistakes) == 1 else _listed(mistakes))
        self.mistakes = mistakes


class ConfigurationError(HpoError, ValueError):
    """An invalid study file, override or hyperparameter."""

    exit_code = 2


class SpaceError(ConfigurationError):
    """An invalid search space."""


class DataError(HpoError, ValueError):
    """The user's texts and labels cannot be trained on."""

    exit_code = 2


class ModelError(HpoError, ValueError):
    """The model cannot be loaded or used."""

    exit_code = 2


class TrainingError(HpoError):
    """Training fails: the one requested trial, or several in a row."""


class StoreError(HpoError):
    """The study store cannot be opened, read or written."""

    exit_code = 3


class StoreUnavailableError(StoreError):
    """The store does not answer now, but may later: a server that restarts, a full disk, a lock."""


class StudyMismatchError(StoreError, ValueError):
    """The stored study was made from another space, data set or model."""

    exit_code = 2


class StudyLedError(HpoError):
    """Another process leads this study now."""

    exit_code = 4


class NoResultError(HpoError):
    """A request needs a completed trial, and there is none."""

    exit_code = 5


def _listed(mistakes: Sequence[str]) -> str:
    """Return several mistakes as a list, with a source that all begin with written once."""
    source = mistakes[0][: mistakes[0].find(": ") + 2]
    source = source if all(mistake.startswith(source) for mistake in mistakes) else ""
    lines = "".join(f"\n  - {mistake.removeprefix(source)}" for mistake in mistakes)
    return f"{source or 'There are '}{len(mistakes)} mistakes{lines}"


class Mistakes:
    """Mistakes in one file, command or model, collected so that one error reports all of them."""

    def __init__(self) -> None:
        self._errors: list[HpoError] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep an `HpoError` that the block raises until `refuse`."""
        try:
            yield
        except HpoError as error:
            self._errors.append(error)

    def hold(self, kind: type[HpoError]) -> bool:
        """Return true if there is a mistake of a kind."""
        return any(isinstance(error, kind) for error in self._errors)

    def refuse(self) -> None:
        """Raise one error with all mistakes, if there are any."""
        mistakes = list(dict.fromkeys(mistake for error in self._errors for mistake in error.mistakes))
        if len(mistakes) == 1:
            raise self._errors[0]
        if mistakes:
            kinds = {type(error) for error in self._errors}
            kind = kinds.pop() if len(kinds) == 1 else ConfigurationError
            raise kind(*mistakes)


def error_line(error: Exception) -> str:
    """Return an error as one line of at most `LONGEST_REASON` characters, with its class unless it is an `HpoError`."""
    text = str(error) if isinstance(error, HpoError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:LONGEST_REASON]


def without_credentials(text: str) -> str:
    """Return a text with user name and password removed from any URL in it, also from the query."""
    return re.sub(r"(?<=password=)[^&\s]*", "***", re.sub(r"(?<=://)[^/\s]*@", "***@", text))


def nearest(name: str, known: Iterable[str], also: Iterable[str] = ()) -> str:
    """Return the end of a message on an unknown name: `Did you mean 'epochs'? Known: batch_size, epochs.`

    Args:
        name: the given name.
        known: names that are valid there.
        also: further names that may be suggested, such as keys of other sections; they are not listed.
    """
    choices = sorted(known)
    listed = f"Known: {', '.join(choices)}."
    meant = misspelt(name, choices) or misspelt(name, also)
    return f"Did you mean {' or '.join(map(repr, meant))}? {listed}" if meant else listed


def misspelt(name: str, known: Iterable[str]) -> list[str]:
    """Return the nearest of `known` of which `name` is a likely misspelling, or the last part of a dotted key.

    A word of at least eight letters may differ in two letters, a shorter one in one. In a word of at most three
    letters, two letters may be swapped, or one added or missing. Digits must be equal: `l1` is not `l2`.
    """
    off = {choice: _off(name, choice) for choice in known}
    near = {choice: most for choice, most in off.items() if most is not None}
    return sorted(choice for choice, most in near.items() if most == min(near.values()))


def _off(name: str, choice: str) -> int | None:
    """Return the number of letters in which two names differ; None if they differ in too many."""
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
    """Return the edit distance: letters changed, added, removed or swapped with the next (Damerau 1964)."""
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
