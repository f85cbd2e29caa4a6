"""The command line, run in this process: what a command left behind, and what a test calls it by."""

from collections.abc import Callable
from typing import NamedTuple


class Answer(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Hpo = Callable[..., Answer]
"""Of the fixture `hpo`: takes the words after `hpo`."""
