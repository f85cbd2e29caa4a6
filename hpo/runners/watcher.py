"""Who is told of a search as it goes: a live view, a log, a test. It decides nothing."""

from hpo.messages import Assignment, Decision, Outcome, Progress, Report, Scores, Standing


class Watcher:
    """Is told of everything and does nothing; override what is to be seen."""

    def note(self, sentence: str) -> None:
        """Something the user should read, such as what was found in the data."""

    def started(self, study: str, metric: str, trials: int, standing: Standing) -> None:
        """The search begins, or goes on from `standing`, up to `trials` in all."""

    def assigned(self, assignment: Assignment) -> None:
        """A trial is about to be trained."""

    def progressed(self, progress: Progress) -> None:
        """A trial has come further."""

    def reported(self, report: Report, decision: Decision) -> None:
        """A trial was evaluated and answered."""

    def ended(self, outcome: Outcome) -> None:
        """An attempt is over."""

    def tested(self, trial: int, scores: Scores) -> None:
        """The test split was read for `trial`."""
