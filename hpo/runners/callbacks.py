"""Callbacks of a search: the interface through which a live view, a log or a test receives its events."""

from collections.abc import Callable, Sequence
from functools import partial

from hpo.messages import Assignment, Decision, Outcome, Progress, Report, Scores, Standing


class SearchCallback:
    """Receives every event and does nothing; override the events of interest."""

    def note(self, sentence: str) -> None:
        """A note for the user, such as a finding in the data."""

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """The search begins at `standing`, up to `trials` in total; None for as many as its time allows."""

    def assigned(self, assignment: Assignment) -> None:
        """A worker begins to train a trial."""

    def progressed(self, progress: Progress) -> None:
        """A trial has made progress."""

    def reported(self, report: Report, decision: Decision) -> None:
        """A trial was evaluated and the coordinator has decided."""

    def ended(self, outcome: Outcome) -> None:
        """An attempt has ended."""

    def pruned_while_paused(self, trials: Sequence[int]) -> None:
        """Trials that waited were pruned, because others outrank them, or because the search is over."""

    def left_out(self, worker: str, reason: str) -> None:
        """A worker gets no more trials; those that failed on it are retried elsewhere."""

    def judged(self, sentences: Sequence[str]) -> None:
        """The best trials were confirmed; these are the sentences of the verdict."""

    def tested(self, trial: int, scores: Scores) -> None:
        """A trial was scored on the test split."""


class SearchCallbacks(SearchCallback):
    """Several callbacks that receive every event, in order."""

    def __init__(self, *callbacks: SearchCallback) -> None:
        for event in (name for name in vars(SearchCallback) if not name.startswith("_")):
            setattr(self, event, partial(_call_all, [getattr(callback, event) for callback in callbacks]))


def _call_all(functions: Sequence[Callable[..., None]], *arguments: object) -> None:
    for function in functions:
        function(*arguments)
