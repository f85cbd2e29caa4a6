"""What a search looks like while it goes: a live view on a terminal, plain dated lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.messages import Action, Assignment, Decision, Ending, Outcome, Progress, Report, Scores, Standing
from hpo.runners.watcher import Watcher


@contextmanager
def watcher_for(stream: TextIO) -> Iterator[Watcher]:
    """Yield what shows a search on `stream`."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        yield LineLog(stream)
        return
    with LiveView(console) as view:
        yield view


class Tally(Watcher):
    """Counts a search as it goes, from how the study stood at its start; what both views show."""

    def __init__(self) -> None:
        self.study = ""
        self.metric = ""
        self.budget = 0
        self.standing = Standing(completed=0, pruned=0, failed=0, best=None)
        self._finished_before = 0
        self._started_at = time.monotonic()

    def started(self, study: str, metric: str, trials: int, standing: Standing) -> None:
        """Begin to count."""
        self.study, self.metric, self.budget, self.standing = study, metric, trials, standing
        self._finished_before = standing.finished
        self._started_at = time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        """Count an ending, as the store counts it: what cannot be trained is pruned."""
        now = self.standing
        match outcome.ending:
            case Ending.COMPLETED:
                assert outcome.best is not None, "a trial that trained to its end has a full report"
                score = outcome.best.validation.objective
                better = now.best is None or score > now.best[0]
                best = (score, outcome.trial) if better else now.best
                self.standing = replace(now, completed=now.completed + 1, best=best)
            case Ending.PRUNED | Ending.DIVERGED | Ending.INFEASIBLE:
                self.standing = replace(now, pruned=now.pruned + 1)
            case Ending.FAILED:
                self.standing = replace(now, failed=now.failed + 1)

    @property
    def seconds(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self._started_at

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of the budget at the pace so far; None before the first trial is over."""
        here = self.standing.finished - self._finished_before
        return self.seconds / here * (self.budget - self.standing.finished) if here else None

    def counts(self) -> str:
        """Return the tally as words."""
        now = self.standing
        words = f"{now.finished} of {self.budget} done, {now.pruned} pruned"
        return words + (f", {now.failed} failed" if now.failed else "")


class LineLog(Tally):
    """One dated line for each thing that happens."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def note(self, sentence: str) -> None:
        """Write what was found."""
        self._line(sentence)

    def started(self, study: str, metric: str, trials: int, standing: Standing) -> None:
        """Write what is searched."""
        super().started(study, metric, trials, standing)
        if standing.finished >= trials:
            self._line(f"study {study}: nothing is left to train of {trials} trials; for more, raise --trials")
            return
        goes_on = f", going on after {standing.finished}" if standing.finished else ""
        counted = "1 trial" if trials == 1 else f"{trials} trials"
        self._line(f"study {study}: {counted} in all{goes_on}, maximising {metric}")

    def assigned(self, assignment: Assignment) -> None:
        """Write what is trained."""
        self._line(_described(assignment))

    def reported(self, report: Report, decision: Decision) -> None:
        """Write a score."""
        gives_up = ", given up" if decision.action is Action.STOP else ""
        part = "" if report.full else f" on {report.validation.rows} rows"
        self._line(
            f"trial {report.trial}: rung {report.rung}, epoch {report.epoch:.2f}, "
            f"{self.metric} {report.validation.objective:.4f}{part}{gives_up}"
        )

    def ended(self, outcome: Outcome) -> None:
        """Write how a trial ended, and how the search stands."""
        super().ended(outcome)
        found = self.standing.best
        best = f", best {found[0]:.4f} (trial {found[1]})" if found else ""
        left = "" if self.seconds_left is None else f", about {clock(self.seconds_left)} left"
        self._line(f"{_ending(outcome)}; {self.counts()}{best}{left}")

    def tested(self, trial: int, scores: Scores) -> None:
        """Write the test score."""
        self._line(f"test split read for trial {trial}: {scores.metric} {scores.objective:.4f}")

    def _line(self, text: str) -> None:
        # Whoever reads the log may have gone; the search goes on.
        with suppress(OSError):
            self._stream.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {text}\n")
            self._stream.flush()


class LiveView(Tally):
    """A few lines that are drawn anew: the search's state and each running trial; endings scroll above them."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._running: dict[int, Progress | None] = {}
        self._scores: dict[int, float] = {}
        self._live = Live(console=console, get_renderable=self._drawn, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()

    def note(self, sentence: str) -> None:
        """Print what was found above the live lines."""
        self._console.print(escape(sentence))

    def assigned(self, assignment: Assignment) -> None:
        """Add a running trial."""
        self._running[assignment.trial] = None
        self._console.print(escape(_described(assignment)), style="dim")

    def progressed(self, progress: Progress) -> None:
        """Move a trial's bar."""
        self._running[progress.trial] = progress

    def reported(self, report: Report, decision: Decision) -> None:
        """Show a trial's newest score."""
        self._scores[report.trial] = report.validation.objective
        if decision.action is Action.STOP:
            self._console.print(f"trial {report.trial} is given up at rung {report.rung}", style="dim")

    def ended(self, outcome: Outcome) -> None:
        """Print how a trial ended."""
        super().ended(outcome)
        self._running.pop(outcome.trial, None)
        style = {Ending.COMPLETED: "green", Ending.PRUNED: "yellow", Ending.PAUSED: "dim"}.get(outcome.ending, "red")
        self._console.print(escape(_ending(outcome)), style=style)

    def tested(self, trial: int, scores: Scores) -> None:
        """Print the test score."""
        self._console.print(f"test split read for trial {trial}: {scores.metric} {scores.objective:.4f}")

    def _drawn(self) -> Group:
        if not self.metric:
            return Group(Text("reading the model and the texts ...", style="dim"))
        found = self.standing.best
        best = f"best {self.metric} {found[0]:.4f} (trial {found[1]})" if found else "none completed yet"
        left = "" if self.seconds_left is None else f", about {clock(self.seconds_left)} left"
        head = Text(f"{self.study}: {self.counts()}, {best}; {clock(self.seconds)}{left}", style="bold")
        table = Table(box=None, pad_edge=False, show_header=False)
        for trial, progress in self._running.items():
            table.add_row(*self._row(trial, progress))
        return Group(head, table)

    def _row(self, trial: int, progress: Progress | None) -> tuple[str | ProgressBar, ...]:
        score = f"{self.metric} {self._scores[trial]:.4f}" if trial in self._scores else ""
        if progress is None:
            return f"trial {trial}", ProgressBar(total=1, completed=0, width=24), score, "", ""
        bar = ProgressBar(total=progress.examples_total, completed=progress.examples_seen, width=24)
        rate = f"lr {progress.learning_rate:.2e}"
        return f"trial {trial}", bar, score, rate, f"{progress.examples_per_second:.0f} texts/s"


def clock(seconds: float) -> str:
    """Return a duration as people say it: `45 s`, `3 min 20 s`, `7 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _described(assignment: Assignment) -> str:
    values = assignment.hyperparameters
    again = f", attempt {assignment.attempt}" if assignment.attempt > 1 else ""
    return (
        f"trial {assignment.trial} begins{again}: {values.method}, {values.optimizer}, "
        f"lr {values.learning_rate:.3g}, {values.schedule}, batch {values.batch_size}, epochs {values.epochs}"
    )


def _ending(outcome: Outcome) -> str:
    score = f" with {outcome.best.validation.objective:.4f}" if outcome.best else ""
    why = f": {outcome.reason.rstrip('.')}" if outcome.reason else ""
    return f"trial {outcome.trial} {outcome.ending} after {clock(outcome.seconds)}{score}{why}"
