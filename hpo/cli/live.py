"""Progress display: a live view of a search on a terminal, plain dated lines elsewhere."""

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
from hpo.messages import (
    Action,
    Assignment,
    Decision,
    Ending,
    Outcome,
    Progress,
    Report,
    ScoredStanding,
    Scores,
    Standing,
)
from hpo.metrics.jackknife import has_standard_error, with_standard_error
from hpo.runners.callbacks import SearchCallback
from hpo.store.studies import is_confirmation

RESUMED_LATER = {Ending.PAUSED: "; it can resume", Ending.DIED: "; it resumes later"}
STYLES = {Ending.COMPLETED: "green", Ending.PRUNED: "yellow", Ending.PAUSED: "dim", Ending.DIED: "yellow"}


@contextmanager
def callback_for(stream: TextIO) -> Iterator[SearchCallback]:
    """Yield the callback that shows a search on `stream`."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        yield LineLog(stream)
        return
    with LiveView(console) as view:
        yield view


def has_own_rows(report: Report) -> bool:
    """Return true if a confirmation run is judged by other scores than those that its epochs are compared by."""
    return report.judged_scores != report.validation


def judged(report: Report) -> str:
    """Return the score that a trial is judged by in words, with its rows if they are not those of its rungs."""
    rows = " on held-out rows" if has_own_rows(report) else ""
    return with_standard_error(report.score, report.judged_scores) + rows


class TrialCounts(SearchCallback):
    """Running counts of a search, starting from the study's progress at the start."""

    def __init__(self) -> None:
        self.study = self.metric = ""
        self.noun = "trial"
        """Word for a trial: `trial` in a search, `run` in a confirmation."""
        self.budget: int | None = None
        self._before = Standing(completed=0, pruned=0, failed=0, best=None)
        self._finished: dict[int, Ending] = {}
        self._training: set[int] = set()
        self._paused: set[int] = set()
        """Trials that this run has paused."""
        self._tried: set[int] = set()
        """Trials of which this run has ended an attempt."""
        self._resumed: set[int] = set()
        """Trials that were paused before this run, and are no longer."""
        self._best: tuple[float, int] | None = None
        self._best_scores: Scores | None = None
        self._default: Scores | None = None
        self._others: dict[int, float] = {}
        """Trial -> score of the completed trials except the default."""
        self._started_at = time.monotonic()

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """Begin to count."""
        self.study, self.metric, self.budget = study, metric, trials
        self.noun = "run" if is_confirmation(study) else "trial"
        self._before, self._best, self._best_scores, self._finished = standing, standing.best, None, {}
        self._training, self._paused, self._tried, self._resumed = set(), set(), set(), set()
        self._default, self._others = None, {}
        if isinstance(standing, ScoredStanding):
            self._default, self._others = standing.default, dict(standing.others)
        self._started_at = time.monotonic()

    def assigned(self, assignment: Assignment) -> None:
        """Count a trial as training; it may have been paused, or have failed on another worker."""
        trial = assignment.trial
        if assignment.attempt > 1 and trial not in self._tried:
            self._resumed.add(trial)
        self._finished.pop(trial, None)
        self._paused.discard(trial)
        self._training.add(trial)

    def pruned_while_paused(self, trials: Sequence[int]) -> None:
        """Count trials as pruned."""
        self._resumed.update(set(trials) - self._tried)
        self._paused.difference_update(trials)
        self._finished.update(dict.fromkeys(trials, Ending.PRUNED))

    def ended(self, outcome: Outcome) -> None:
        """Count a trial, as paused if it resumes later."""
        self._training.discard(outcome.trial)
        self._tried.add(outcome.trial)
        if outcome.ending in RESUMED_LATER:
            self._paused.add(outcome.trial)
            return
        self._finished[outcome.trial] = outcome.ending
        if outcome.ending is Ending.COMPLETED:
            assert outcome.best is not None, "a completed trial has a full report"
            if self._best is None or outcome.best.score > self._best[0]:
                self._best, self._best_scores = (outcome.best.score, outcome.trial), outcome.best.judged_scores
            if outcome.trial == 0:
                self._default = outcome.best.validation
            else:
                self._others[outcome.trial] = outcome.best.score

    @property
    def standing(self) -> Standing:
        """Progress of the study; as in the store, a trial that cannot be trained counts as pruned."""
        endings = list(self._finished.values())
        completed, failed = endings.count(Ending.COMPLETED), endings.count(Ending.FAILED)
        return Standing(
            completed=self._before.completed + completed,
            pruned=self._before.pruned + len(endings) - completed - failed,
            failed=self._before.failed + failed,
            paused=max(0, self._before.paused - len(self._resumed)) + len(self._paused),
            best=self._best,
        )

    @property
    def seconds(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self._started_at

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all trials of the budget have begun, at the present speed, many of them paused or pruned early.

        None without a budget or a finished trial.
        """
        if self.budget is None or not self._finished.keys() & self._tried:
            return None
        now = self.standing
        return self.seconds / len(self._tried) * max(0, self.budget - now.finished - now.paused)

    def counts(self) -> str:
        """Return the numbers of trials that have begun, and of those by state, in words."""
        now = self.standing
        begun = now.finished + now.paused + len(self._training)
        # Enqueued trials do not count towards the budget.
        of = "" if self.budget is None else f" of {max(self.budget, begun)}"
        states = {"completed": now.completed, "pruned": now.pruned, "failed": now.failed, "paused": now.paused}
        parts = [f"{number} {state}" for state, number in states.items() if number]
        return f"{begun}{of} begun{': ' if parts else ''}{', '.join(parts)}"

    def best(self) -> str:
        """Return the best score so far in words, with its standard deviation over rows if this run found it."""
        if self._best is None:
            return "none completed yet"
        score = with_standard_error(self._best[0], self._best_scores)
        return f"best {self.metric} {score} ({self.noun} {self._best[1]}){self._gain()}"

    def _gain(self) -> str:
        """Return the gain of a search over its default, after a comma; empty if unknown."""
        if self._default is None or is_confirmation(self.study):
            return ""
        from hpo.verdict.gain import gain_over_default
        from hpo.verdict.wording import amount, in_points

        found = gain_over_default(self._others, self._default)
        lead = found and f"{amount(self.metric, found.gain)} {in_points(self.metric, found.interval)}"
        return f", over the default {lead}" if lead else ""

    def left(self) -> str:
        """Return the time left in words, after a comma; empty if unknown."""
        return f", about {humanized(self.seconds_left)} left" if self.seconds_left else ""


class _View(TrialCounts):
    """Lines that both views show."""

    def note(self, sentence: str) -> None:
        """Show a note."""
        self._show(sentence)

    def assigned(self, assignment: Assignment) -> None:
        """Show the start of a trial."""
        super().assigned(assignment)
        values = assignment.hyperparameters
        again = f", attempt {assignment.attempt}" if assignment.attempt > 1 else ""
        confirms = "" if assignment.confirms is None else f" (trial {assignment.confirms} again)"
        self._show(
            f"{self.noun} {assignment.trial}{confirms} begins{again}: {values.method}, {values.optimizer}, "
            f"lr {values.learning_rate:.3g}, {values.schedule}, batch {values.batch_size}, epochs {values.epochs}",
            style="dim",
        )

    def pruned_while_paused(self, trials: Sequence[int]) -> None:
        """Show that paused trials were pruned."""
        super().pruned_while_paused(trials)
        counted = f"{self.noun}s" if len(trials) > 1 else self.noun
        self._show(f"{counted} {', '.join(map(str, trials))} pruned while paused", style="dim")

    def left_out(self, worker: str, reason: str) -> None:
        """Show that a worker gets no more trials, and the reason."""
        self._show(f"{worker} gets no more trials: {reason.rstrip('.')}", style="red")

    def tested(self, trial: int, scores: Scores) -> None:
        """Show the test score."""
        self._show(f"test split read for trial {trial}: {scores.metric} {scores.objective:.4f}")

    def ending(self, outcome: Outcome) -> str:
        """Return the ending of a trial in words."""
        score = f" with {judged(outcome.best)}" if outcome.best else ""
        why = f": {outcome.reason.rstrip('.')}" if outcome.reason else ""
        resumes = RESUMED_LATER.get(outcome.ending, "")
        return f"{self.noun} {outcome.trial} {outcome.ending} after {humanized(outcome.seconds)}{score}{why}{resumes}"

    def _show(self, text: str, style: str = "") -> None:
        raise NotImplementedError


class LineLog(_View):
    """Log with a dated line for each event, callable from any thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lock = Lock()

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """Write the study and its budget."""
        super().started(study, metric, trials, standing)
        counted = f"1 {self.noun}" if trials == 1 else f"{trials} {self.noun}s"
        if trials is not None and standing.finished >= trials:
            self._show(f"study {study}: {trials} of {counted} finished")
            return
        planned = "as many trials as there is time for" if trials is None else f"{counted} in all"
        resumed = f", resumed after {standing.finished}" if standing.finished else ""
        spread = " (± is one standard deviation over rows)" if has_standard_error(metric) else ""
        self._show(f"study {study}: {planned}{resumed}, maximising {metric}{spread}")

    def reported(self, report: Report, decision: Decision) -> None:
        """Write a score."""
        part = "" if report.full else f" on {report.validation.rows} rows"
        kept = f", {judged(report)}" if has_own_rows(report) else ""
        pruned = ", pruned" if decision.action is Action.STOP else ""
        self._show(
            f"{self.noun} {report.trial}: rung {report.rung}, epoch {report.epoch:.2f}, "
            f"{self.metric} {with_standard_error(report.validation.objective, report.validation)}{part}{kept}{pruned}"
        )

    def ended(self, outcome: Outcome) -> None:
        """Write the ending of a trial, and the progress of the search."""
        super().ended(outcome)
        self._show(f"{self.ending(outcome)}; {self.counts()}, {self.best()}{self.left()}")

    def judged(self, sentences: Sequence[str]) -> None:
        """Write the verdict."""
        for sentence in sentences:
            self._show(sentence)

    def _show(self, text: str, style: str = "") -> None:  # noqa: ARG002 - a file has no colours.
        # The search continues if the reader has left or the disk is full. A notifier may write after the log is closed,
        # which raises ValueError.
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {text}\n")
            self._stream.flush()


class LiveView(_View):
    """Live display of the search's state and each running trial; endings scroll above it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._running: dict[int, Progress | None] = {}
        self._scores: dict[int, str] = {}
        self._live = Live(console=console, get_renderable=self._drawn, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):
            self._live.stop()

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """Begin to show a study, without the trials of the previous one, whose numbers are the same."""
        super().started(study, metric, trials, standing)
        self._running.clear()
        self._scores.clear()

    def assigned(self, assignment: Assignment) -> None:
        """Add a trial that a worker trains now or next."""
        super().assigned(assignment)
        self._running[assignment.trial] = None

    def progressed(self, progress: Progress) -> None:
        """Update a trial's progress bar."""
        self._running[progress.trial] = progress

    def reported(self, report: Report, decision: Decision) -> None:  # noqa: ARG002 - an ending says that it is pruned.
        """Show a trial's newest score."""
        self._scores[report.trial] = with_standard_error(report.validation.objective, report.validation)

    def ended(self, outcome: Outcome) -> None:
        """Print the ending of a trial."""
        super().ended(outcome)
        self._running.pop(outcome.trial, None)
        self._show(self.ending(outcome), style=STYLES.get(outcome.ending, "red"))

    def _show(self, text: str, style: str = "") -> None:
        # The search continues if the terminal has been closed.
        with suppress(OSError):
            self._console.print(escape(text), style=style)

    def _drawn(self) -> Group:
        if not self.metric:
            return Group(Text("reading the model and the examples ...", style="dim"))
        head = f"{self.study}: {self.counts()}, {self.best()}; {humanized(self.seconds)}{self.left()}"
        table = Table(box=None, pad_edge=False, show_header=False)
        running = sorted(self._running.items())
        for trial, progress in running:
            if progress is not None:
                table.add_row(*self._row(trial, progress))
        coming = [str(trial) for trial, progress in running if progress is None]
        return Group(
            Text(head, style="bold"), table, Text(f"to begin: {', '.join(coming)}" if coming else "", style="dim")
        )

    def _row(self, trial: int, progress: Progress) -> tuple[str | ProgressBar, ...]:
        score = f"{self.metric} {self._scores[trial]}" if trial in self._scores else ""
        bar = ProgressBar(total=progress.examples_total, completed=progress.examples_seen, width=24)
        rate = f"lr {progress.learning_rate:.2e}"
        return f"{self.noun} {trial}", bar, score, rate, f"{progress.examples_per_second:.0f} examples/s"
