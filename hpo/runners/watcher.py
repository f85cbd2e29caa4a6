"""Who is told of a search as it goes: a live view, a log, a test. It decides nothing."""

from collections.abc import Callable, Sequence
from functools import partial

from hpo.messages import Assignment, Decision, Outcome, Progress, Report, Scores, Standing


class Watcher:
    """Is told of everything and does nothing; override what is to be seen."""

    def note(self, sentence: str) -> None:
        """Something the user should read, such as what was found in the data."""

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """The search begins, or goes on from `standing`, up to `trials` in all; None for as many as its time allows."""

    def assigned(self, assignment: Assignment) -> None:
        """A trial is about to be trained, by a worker that has nothing else to do before it."""

    def progressed(self, progress: Progress) -> None:
        """A trial has come further."""

    def reported(self, report: Report, decision: Decision) -> None:
        """A trial was evaluated and answered."""

    def ended(self, outcome: Outcome) -> None:
        """An attempt is over."""

    def left_out(self, worker: str, reason: str) -> None:
        """A worker gets no more trials; what it failed on is tried elsewhere."""

    def judged(self, sentences: Sequence[str]) -> None:
        """The best were confirmed, and these are the verdict."""

    def tested(self, trial: int, scores: Scores) -> None:
        """The test split was read for `trial`."""


class Watchers(Watcher):
    """Several, each told of everything, in their order."""

    def __init__(self, *watchers: Watcher) -> None:
        for told in (name for name in vars(Watcher) if not name.startswith("_")):
            setattr(self, told, partial(_tell, [getattr(watcher, told) for watcher in watchers]))


def _tell(each: Sequence[Callable[..., None]], *what: object) -> None:
    for hears in each:
        hears(*what)
