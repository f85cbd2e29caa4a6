"""Every error a user can meet, in one tree.

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

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class HpoError(Exception):
    """Anything that hpo says in a sentence instead of a traceback."""

    exit_code: ClassVar[int] = 1


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


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message, the nearest first: `Did you mean 'epochs'? Known: batch_size, epochs.`"""
    choices = sorted(known)
    listed = f"Known: {', '.join(choices)}."
    spelled = {choice.lower(): choice for choice in choices}
    close = get_close_matches(name.lower(), spelled, n=1)
    return f"Did you mean {spelled[close[0]]!r}? {listed}" if close else listed
