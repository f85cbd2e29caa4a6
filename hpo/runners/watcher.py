"""Who is told of a search as it goes: a live view, a log, a test. It decides nothing."""

from collections.abc import Sequence

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
    """Several, each told of everything."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def note(self, sentence: str) -> None:
        """Tell them."""
        for watcher in self._watchers:
            watcher.note(sentence)

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """Tell them."""
        for watcher in self._watchers:
            watcher.started(study, metric, trials, standing)

    def assigned(self, assignment: Assignment) -> None:
        """Tell them."""
        for watcher in self._watchers:
            watcher.assigned(assignment)

    def progressed(self, progress: Progress) -> None:
        """Tell them."""
        for watcher in self._watchers:
            watcher.progressed(progress)

    def reported(self, report: Report, decision: Decision) -> None:
        """Tell them."""
        for watcher in self._watchers:
            watcher.reported(report, decision)

    def ended(self, outcome: Outcome) -> None:
        """Tell them."""
        for watcher in self._watchers:
            watcher.ended(outcome)

    def left_out(self, worker: str, reason: str) -> None:
        """Tell them."""
        for watcher in self._watchers:
            watcher.left_out(worker, reason)

    def judged(self, sentences: Sequence[str]) -> None:
        """Tell them."""
        for watcher in self._watchers:
            watcher.judged(sentences)

    def tested(self, trial: int, scores: Scores) -> None:
        """Tell them."""
        for watcher in self._watchers:
            watcher.tested(trial, scores)
