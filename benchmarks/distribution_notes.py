"""Notes of trials on when they train, and the share of the workers' time that this is."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

LOOKS_EVERY = 0.05
"""Seconds between two looks at the notes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A trial in training. Times are seconds of this machine's monotonic clock, which all its processes share."""

    process: int
    began: float
    ended: float
    """Infinite where that was not noted."""

    def at_most(self, seconds: float) -> "Span":
        """Return it with an end: one whose process died trained no longer than a trial takes."""
        return self if self.ended < inf else replace(self, ended=self.began + seconds)


def note(notes: Path, what: str) -> None:
    """Add that this process's trial now `began` or `ended`; one write to a file opened for appending is never torn."""
    line = f"{os.getpid()} {what} {time.monotonic()}\n".encode()
    handle = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line)
    os.close(handle)


def spans_in(notes: Path) -> list[Span]:
    """Return what was noted so far, in the order in which trials began; of each process at most the last has no end."""
    lines = notes.read_text().split("\n")[:-1] if notes.exists() else []
    began: dict[int, float] = {}
    spans = []
    for process, what, when in map(str.split, lines):
        if what == "began":
            began[int(process)] = float(when)
        else:
            spans.append(Span(process=int(process), began=began.pop(int(process)), ended=float(when)))
    spans += [Span(process=process, began=when, ended=inf) for process, when in began.items()]
    return sorted(spans, key=lambda span: span.began)


def begun(spans: Sequence[Span]) -> int:
    """Return how many processes have begun a trial."""
    return len({span.process for span in spans})


def trained_share(spans: Sequence[Span], workers: int, begins: float, ends: float) -> float:
    """Return the seconds of training over those of so many workers, between two moments."""
    trained = sum(max(0.0, min(ends, span.ended) - max(begins, span.began)) for span in spans)
    return trained / (workers * (ends - begins))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Of one search: how it is to be."""

    folder: Path
    """Empty, of this search alone."""
    cluster: str
    """Address of a Ray cluster that has room for so many workers."""
    workers: int
    """Trials side by side."""
    seconds: float
    """Length of a trial."""
    reports: int
    """Evaluations of a trial."""
    steady: float
    """Seconds that all workers are to train."""
    patience: float
    """Seconds from the call until they should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of it."""

    begun: int
    """Processes that had trained when the steady state began: all, unless they took too long to start."""
    start_up: float
    """Seconds from the call until they had."""
    share: float
    """Share of the workers' time in which trials were trained, from then until the search was told to end."""
    trials: int
    """That ended meanwhile."""
    longest: float
    """Seconds that the longest of those took."""


class Watch:
    """Tells a search to end when its steady state has lasted so long.

    That begins when as many processes have trained as there are workers: with warm workers, when the last of them
    begins its first trial; with a process a trial, when as many trials were begun.
    """

    def __init__(self, asked: Asked) -> None:
        self.over = Event()
        """Set when the search is to end."""
        self.notes = asked.folder / "notes.txt"
        """File in which trials note when they train."""
        self._asked = asked
        self._called = self._begins = self._ends = inf
        self._thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        """Begin, as the search is called."""
        self._called = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Look no more, as the search has ended or failed."""
        self.over.set()
        self._thread.join()

    def _look(self) -> None:
        until = self._called + self._asked.patience
        while begun(spans_in(self.notes)) < self._asked.workers and time.monotonic() < until:
            if self.over.wait(LOOKS_EVERY):
                return
        self._begins = time.monotonic()
        if not self.over.wait(self._asked.steady):
            self._ends = time.monotonic()
            self.over.set()

    def measured(self) -> Measured:
        """Return what came of it."""
        assert self._ends < inf, "the search went on until it was told to end"
        spans = [span.at_most(self._asked.seconds) for span in spans_in(self.notes)]
        within = [span for span in spans if self._begins <= span.ended <= self._ends]
        return Measured(
            begun=begun([span for span in spans if span.began <= self._begins]),
            start_up=self._begins - self._called,
            share=trained_share(spans, self._asked.workers, self._begins, self._ends),
            trials=len(within),
            longest=max((span.ended - span.began for span in within), default=0.0),
        )
