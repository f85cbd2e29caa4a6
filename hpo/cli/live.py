"""What a search looks like while it goes: a live view on a terminal, plain dated lines elsewhere."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from threading import Lock
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.config.times import humanized
from hpo.messages import Action, Assignment, Decision, Ending, Outcome, Progress, Report, Scores, Standing
from hpo.metrics.spread import with_spread
from hpo.runners.watcher import Watcher
from hpo.store.studies import is_confirmation

GO_ON = (Ending.PAUSED, Ending.DIED)
"""Endings of an attempt after which its trial is not over."""


@contextmanager
def watcher_for(stream: TextIO) -> Iterator[Watcher]:
    """Yield what shows a search on `stream`."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        yield LineLog(stream)
        return
    with LiveView(console) as view:
        yield view


class TrialCounts(Watcher):
    """Counts a search as it goes, from how the study stood at its start; what both views show."""

    def __init__(self) -> None:
        self.study = ""
        self.what = "trial"
        """What the numbers are of: trials of a search, or runs that confirm some of them."""
        self.metric = ""
        self.budget: int | None = None
        self._before = Standing(completed=0, pruned=0, failed=0, best=None)
        self._over: dict[int, Ending] = {}
        self._best: tuple[float, int] | None = None
        self._of_best: Scores | None = None
        self._started_at = time.monotonic()

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """Begin to count."""
        self.study, self.metric, self.budget = study, metric, trials
        self._before, self._best, self._of_best, self._over = standing, standing.best, None, {}
        self.what = "run" if is_confirmation(study) else "trial"
        self._started_at = time.monotonic()

    def assigned(self, assignment: Assignment) -> None:
        """Take back what was counted: a trial that failed is tried on another worker."""
        self._over.pop(assignment.trial, None)

    def ended(self, outcome: Outcome) -> None:
        """Count an ending, but for those after which the trial goes on."""
        if outcome.ending in GO_ON:
            return
        self._over[outcome.trial] = outcome.ending
        if outcome.ending is Ending.COMPLETED:
            assert outcome.best is not None, "a trial that trained to its end has a full report"
            score = outcome.best.score
            if self._best is None or score > self._best[0]:
                self._best = score, outcome.trial
                self._of_best = outcome.best.validation

    @property
    def standing(self) -> Standing:
        """How the study stands, as the store counts: what cannot be trained is pruned."""
        endings = list(self._over.values())
        completed, failed = endings.count(Ending.COMPLETED), endings.count(Ending.FAILED)
        return Standing(
            completed=self._before.completed + completed,
            pruned=self._before.pruned + len(endings) - completed - failed,
            failed=self._before.failed + failed,
            best=self._best,
        )

    @property
    def seconds(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self._started_at

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the last of the budget's trials at the pace so far; None where neither of them is known."""
        if self.budget is None or not self._over:
            return None
        return self.seconds / len(self._over) * max(0, self.budget - self.standing.finished)

    def best_score(self) -> str:
        """Return the best score so far; of one of this run with its standard deviation over rows."""
        assert self._best is not None, "something has completed"
        return with_spread(self._best[0], self._of_best)

    def counts(self) -> str:
        """Return the tally as words."""
        now = self.standing
        # What was enqueued is trained beyond the budget.
        of = "" if self.budget is None else f" of {max(self.budget, now.finished)}"
        words = f"{now.finished}{of} done, {now.pruned} pruned"
        return words + (f", {now.failed} failed" if now.failed else "")


class _Shown(TrialCounts):
    """What both views show alike."""

    def note(self, sentence: str) -> None:
        """Show what was found."""
        self._show(sentence)

    def left_out(self, worker: str, reason: str) -> None:
        """Show which worker gets no more trials, and why."""
        self._show(f"{worker} gets no more trials: {reason.rstrip('.')}", style="red")

    def tested(self, trial: int, scores: Scores) -> None:
        """Show the test score."""
        self._show(f"test split read for trial {trial}: {scores.metric} {scores.objective:.4f}")

    def _show(self, text: str, style: str = "") -> None:
        raise NotImplementedError


class LineLog(_Shown):
    """One dated line for each thing that happens, from whichever thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lock = Lock()

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """Write what is searched."""
        super().started(study, metric, trials, standing)
        if trials is not None and standing.finished >= trials:
            over = f"its {self.what} is over" if trials == 1 else f"all of its {trials} {self.what}s are over"
            self._show(f"study {study}: {over}")
            return
        goes_on = f", going on after {standing.finished}" if standing.finished else ""
        self._show(f"study {study}: {_planned(trials)}{goes_on}, maximising {metric}")

    def assigned(self, assignment: Assignment) -> None:
        """Write what is trained."""
        super().assigned(assignment)
        self._show(_described(self.what, assignment))

    def reported(self, report: Report, decision: Decision) -> None:
        """Write a score."""
        gives_up = ", given up" if decision.action is Action.STOP else ""
        part = "" if report.full else f" on {report.validation.rows} rows"
        self._show(
            f"{self.what} {report.trial}: rung {report.rung}, epoch {report.epoch:.2f}, "
            f"{self.metric} {with_spread(report.validation.objective, report.validation)}{part}{gives_up}"
        )

    def ended(self, outcome: Outcome) -> None:
        """Write how a trial ended, and how the search stands."""
        super().ended(outcome)
        best = f", best {self.best_score()} ({self.what} {self._best[1]})" if self._best else ""
        left = f", about {humanized(self.seconds_left)} left" if self.seconds_left else ""
        self._show(f"{_ending(self.what, outcome)}; {self.counts()}{best}{left}")

    def judged(self, sentences: Sequence[str]) -> None:
        """Write the verdict."""
        for sentence in sentences:
            self._show(sentence)

    def _show(self, text: str, style: str = "") -> None:  # noqa: ARG002 - a file has no colours.
        # Whoever reads the log may have gone, or the disk be full; the search goes on. And whoever is slow to be told
        # of it may fail when it is over and the log closed, which is a ValueError.
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {text}\n")
            self._stream.flush()


class LiveView(_Shown):
    """A few lines that are drawn anew: the search's state and each running trial; endings scroll above them."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._begun: dict[int, Progress | None] = {}
        self._scores: dict[int, str] = {}
        self._live = Live(console=console, get_renderable=self._drawn, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):
            self._live.stop()

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """Begin to show a study, whose trials have the numbers of those of the one before."""
        super().started(study, metric, trials, standing)
        self._begun.clear()
        self._scores.clear()

    def assigned(self, assignment: Assignment) -> None:
        """Add a trial: in training, or the next of its worker."""
        super().assigned(assignment)
        self._begun[assignment.trial] = None
        self._show(_described(self.what, assignment), style="dim")

    def progressed(self, progress: Progress) -> None:
        """Move a trial's bar."""
        self._begun[progress.trial] = progress

    def reported(self, report: Report, decision: Decision) -> None:
        """Show a trial's newest score."""
        self._scores[report.trial] = with_spread(report.validation.objective, report.validation)
        if decision.action is Action.STOP:
            self._show(f"{self.what} {report.trial} is given up at rung {report.rung}", style="dim")

    def ended(self, outcome: Outcome) -> None:
        """Print how a trial ended."""
        super().ended(outcome)
        self._begun.pop(outcome.trial, None)
        styles = {Ending.COMPLETED: "green", Ending.PRUNED: "yellow", Ending.PAUSED: "dim", Ending.DIED: "yellow"}
        self._show(_ending(self.what, outcome), style=styles.get(outcome.ending, "red"))

    def _show(self, text: str, style: str = "") -> None:
        # The terminal may have gone; the search goes on.
        with suppress(OSError):
            self._console.print(escape(text), style=style)

    def _drawn(self) -> Group:
        if not self.metric:
            return Group(Text("reading the model and the texts ...", style="dim"))
        best = "none completed yet"
        if self._best:
            best = f"best {self.metric} {self.best_score()} ({self.what} {self._best[1]})"
        left = f", about {humanized(self.seconds_left)} left" if self.seconds_left else ""
        head = Text(f"{self.study}: {self.counts()}, {best}; {humanized(self.seconds)}{left}", style="bold")
        table = Table(box=None, pad_edge=False, show_header=False)
        begun = sorted(self._begun.items())
        for trial, progress in begun:
            if progress is not None:
                table.add_row(*self._row(trial, progress))
        coming = [str(trial) for trial, progress in begun if progress is None]
        return Group(head, table, Text(f"to begin: {', '.join(coming)}" if coming else "", style="dim"))

    def _row(self, trial: int, progress: Progress) -> tuple[str | ProgressBar, ...]:
        score = f"{self.metric} {self._scores[trial]}" if trial in self._scores else ""
        bar = ProgressBar(total=progress.examples_total, completed=progress.examples_seen, width=24)
        rate = f"lr {progress.learning_rate:.2e}"
        return f"{self.what} {trial}", bar, score, rate, f"{progress.examples_per_second:.0f} texts/s"


def _planned(trials: int | None) -> str:
    if trials is None:
        return "as many trials as there is time for"
    return "1 trial in all" if trials == 1 else f"{trials} trials in all"


def _described(what: str, assignment: Assignment) -> str:
    values = assignment.hyperparameters
    again = f", attempt {assignment.attempt}" if assignment.attempt > 1 else ""
    confirms = "" if assignment.confirms is None else f" (trial {assignment.confirms} again)"
    return (
        f"{what} {assignment.trial}{confirms} begins{again}: {values.method}, {values.optimizer}, "
        f"lr {values.learning_rate:.3g}, {values.schedule}, batch {values.batch_size}, epochs {values.epochs}"
    )


def _ending(what: str, outcome: Outcome) -> str:
    score = f" with {with_spread(outcome.best.score, outcome.best.validation)}" if outcome.best else ""
    why = f": {outcome.reason.rstrip('.')}" if outcome.reason else ""
    goes_on = "; it goes on later" if outcome.ending in GO_ON else ""
    return f"{what} {outcome.trial} {outcome.ending} after {humanized(outcome.seconds)}{score}{why}{goes_on}"
