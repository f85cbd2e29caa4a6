"""What a search looks like: views and log count as the store counts, also when a study is resumed."""

import errno
import logging
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hpo.cli.live import LineLog, LiveView
from hpo.cli.log import log_path, logged_to
from hpo.errors import StoreError
from hpo.messages import (
    Action,
    Assignment,
    Decision,
    Ending,
    HeldOutEvaluation,
    Outcome,
    Progress,
    ScoredStanding,
    Scores,
    Standing,
)
from hpo.runners.callbacks import SearchCallback
from tests.models import tiny_assignment, tiny_report

BEFORE = Standing(completed=2, pruned=3, failed=0, best=(0.9, 1))


def outcome(trial: int, ending: Ending, score: float | None = None, reason: str = "") -> Outcome:
    best = None if score is None else tiny_report(trial, score=score)
    return Outcome(trial=trial, attempt=1, ending=ending, best=best, seconds=65.0, peak_memory_bytes=1, reason=reason)


def progress(trial: int, seen: int) -> Progress:
    return Progress(
        trial=trial,
        attempt=1,
        examples_seen=seen,
        examples_total=100,
        examples_per_second=42.0,
        learning_rate=1e-4,
        train_loss=0.5,
        seconds=1.0,
    )


def assignment(trial: int, attempt: int = 1) -> Assignment:
    return tiny_assignment(trial=trial, attempt=attempt)


def test_lines_count_from_how_the_study_stood() -> None:
    stream = StringIO()
    log = LineLog(stream)
    log.started("news", "macro_f1", 10, BEFORE)
    log.reported(tiny_report(5, score=0.8), Decision(trial=5, attempt=1, action=Action.STOP))
    log.ended(outcome(5, Ending.PRUNED, 0.8))
    log.ended(outcome(6, Ending.DIVERGED, reason="The loss was no longer a number."))
    log.ended(outcome(7, Ending.COMPLETED, 0.85))
    log.ended(outcome(8, Ending.COMPLETED, 0.95))
    lines = stream.getvalue().splitlines()
    assert "10 trials in all, resumed after 5" in lines[0]
    assert "pruned" in lines[1]
    assert "6 of 10 begun: 2 completed, 4 pruned, best macro_f1 0.9000 (trial 1)" in lines[2]
    assert "no longer a number" in lines[3]
    assert "7 of 10 begun: 2 completed, 5 pruned" in lines[3]
    assert "best macro_f1 0.9000 (trial 1)" in lines[4]
    assert "best macro_f1 0.9500 (trial 8)" in lines[5]


def test_a_confirmation_run_says_which_of_its_two_scores_is_on_held_out_rows() -> None:
    searched = Scores(metric="accuracy", values={"accuracy": 0.9}, rows=300, confusion=((140, 10), (20, 130)))
    kept = Scores(metric="accuracy", values={"accuracy": 0.8}, rows=100, confusion=((40, 10), (10, 40)))
    held_out = HeldOutEvaluation(scores=kept, deviations=(0.01, -0.01))
    report = tiny_report(3, validation=searched, held_out=held_out)
    stream = StringIO()
    log = LineLog(stream)

    log.started("news (confirmation)", "accuracy", 4, Standing(completed=0, pruned=0, failed=0, best=None))
    log.reported(report, Decision(trial=3, attempt=1, action=Action.CONTINUE))
    log.ended(Outcome(trial=3, attempt=1, ending=Ending.COMPLETED, best=report, seconds=65.0, peak_memory_bytes=1))

    first, rung, ended = stream.getvalue().splitlines()
    assert "maximising accuracy (± is one standard deviation over rows)" in first
    assert rung.endswith("accuracy 0.9000 ±0.017, 0.8000 ±0.040 on held-out rows")
    assert "completed after 1 min 05 s with 0.8000 ±0.040 on held-out rows; " in ended
    assert "best accuracy 0.8000 ±0.040 (run 3)" in ended


def test_a_metric_without_a_standard_error_says_nothing_of_one() -> None:
    stream = StringIO()
    LineLog(stream).started("news", "roc_auc", 10, BEFORE)
    assert stream.getvalue().endswith("maximising roc_auc\n")


def test_a_resumed_search_tells_what_was_gained_over_its_default_before() -> None:
    confusion = ((140, 10), (20, 130))
    default = Scores(metric="accuracy", values={"accuracy": 0.9, "loss": 0.5}, rows=300, confusion=confusion)
    before = ScoredStanding(completed=3, pruned=0, failed=0, best=(0.91, 2), default=default, others={1: 0.8, 2: 0.91})
    stream = StringIO()
    log = LineLog(stream)
    log.started("news", "accuracy", 10, before)
    assert ", over the default" not in log.best()
    log.ended(outcome(5, Ending.COMPLETED, 0.95))
    assert ", over the default " in log.best()
    assert ", over the default " in stream.getvalue().splitlines()[-1]


def test_a_trial_that_goes_on_is_not_over() -> None:
    stream = StringIO()
    log = LineLog(stream)
    log.started("news", "macro_f1", 10, BEFORE)
    log.ended(outcome(5, Ending.PAUSED, reason="Cut by a signal."))
    log.ended(outcome(6, Ending.DIED, reason="Killed by signal 9."))
    log.ended(outcome(7, Ending.FAILED, reason="The device is lost."))
    assert log.standing.failed == 1
    log.assigned(assignment(7, attempt=2))
    assert log.standing == replace(BEFORE, paused=2)
    assert log.seconds_left is None
    log.ended(outcome(7, Ending.COMPLETED, 0.7))
    assert (log.standing.completed, log.standing.failed) == (3, 0)
    lines = stream.getvalue().splitlines()
    assert "Cut by a signal; it can resume; 6 of 10 begun: 2 completed, 3 pruned, 1 paused" in lines[1]
    assert "Killed by signal 9; it resumes later; 7 of 10 begun" in lines[2]
    assert "1 failed" in lines[3]


def test_a_search_for_a_time_has_no_number_of_trials() -> None:
    stream = StringIO()
    log = LineLog(stream)
    log.started("news", "macro_f1", None, BEFORE)
    log.ended(outcome(5, Ending.COMPLETED, 0.8))
    lines = stream.getvalue().splitlines()
    assert "as many trials as there is time for, resumed after 5" in lines[0]
    assert "; 6 begun: 3 completed, 3 pruned, best macro_f1 0.9000 (trial 1)" in lines[1]
    assert "left" not in lines[1]


def test_what_was_enqueued_beyond_the_budget_is_counted() -> None:
    log = LineLog(StringIO())
    log.started("news", "macro_f1", 5, BEFORE)
    log.ended(outcome(5, Ending.COMPLETED, 0.8))
    assert log.counts() == "6 of 6 begun: 3 completed, 3 pruned"
    assert log.seconds_left == 0


def test_trials_that_wait_at_a_rung_are_counted_and_shorten_the_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of thirty took a minute, of which one completed: the others take two minutes, not half an hour."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stream = StringIO()
    log = LineLog(stream)
    log.started("news", "macro_f1", 30, Standing(completed=0, pruned=0, failed=0, best=None))
    for trial in range(9):
        log.assigned(assignment(trial))
        log.ended(outcome(trial, Ending.PAUSED))
    log.assigned(assignment(9))
    assert log.counts() == "10 of 30 begun: 9 paused"
    now = 60.0
    log.ended(outcome(9, Ending.COMPLETED, 0.8))
    assert stream.getvalue().endswith(
        "10 of 30 begun: 1 completed, 9 paused, best macro_f1 0.8000 (trial 9), about 2 min 00 s left\n"
    )
    log.pruned_while_paused((3, 4))
    assert log.counts() == "10 of 30 begun: 1 completed, 2 pruned, 7 paused"
    assert stream.getvalue().endswith("trials 3, 4 pruned while paused\n")


def test_trials_that_waited_before_a_study_was_resumed_are_counted_once() -> None:
    log = LineLog(StringIO())
    log.started("news", "macro_f1", 10, replace(BEFORE, paused=3))
    assert log.counts() == "8 of 10 begun: 2 completed, 3 pruned, 3 paused"
    log.assigned(assignment(5, attempt=2))
    assert log.counts() == "8 of 10 begun: 2 completed, 3 pruned, 2 paused"
    log.ended(outcome(5, Ending.PAUSED))
    log.assigned(assignment(5, attempt=3))
    log.ended(outcome(5, Ending.COMPLETED, 0.5))
    log.pruned_while_paused((6,))
    assert log.counts() == "8 of 10 begun: 3 completed, 4 pruned, 1 paused"


def test_a_log_that_nobody_reads_any_more_does_not_end_the_search() -> None:
    class Gone(StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.EIO, "the terminal was closed")

    LineLog(Gone()).note("anything")
    view = LiveView(Console(file=Gone(), force_terminal=True))
    view.note("anything")
    view.__exit__()


def test_the_live_view_shows_each_running_trial() -> None:
    stream = StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=120))
    with view:
        view.started("news", "macro_f1", 10, BEFORE)
        for trial in (5, 6, 7, 8):
            view.assigned(assignment(trial))
        view.reported(tiny_report(5, score=0.8123), Decision(trial=5, attempt=1, action=Action.CONTINUE))
        view.progressed(progress(6, seen=20))
        view.progressed(progress(5, seen=50))
        view._live.refresh()
    shown = stream.getvalue()
    for part in (
        "9 of 10 begun: 2 completed, 3 pruned,",
        "best macro_f1 0.9000 (trial 1)",
        "0.8123",
        "1.00e-04",
        "42 examples/s",
        "to begin: 7, 8",
    ):
        assert part in shown
    last = shown[shown.rindex("9 of 10 begun") :]
    assert last.index("trial 5") < last.index("trial 6") < last.index("to begin")


def test_a_worker_that_is_left_out_is_shown_with_its_reason() -> None:
    lines, screen = StringIO(), StringIO()
    LineLog(lines).left_out("cuda:1", "Three trials failed on it.")
    LiveView(Console(file=screen, width=120)).left_out("cuda:1", "Three trials failed on it.")
    for shown in (lines, screen):
        assert "cuda:1 gets no more trials: Three trials failed on it\n" in shown.getvalue()


# -- the log file


class Heard(SearchCallback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def test_the_log_is_beside_the_store() -> None:
    assert log_path("sqlite:////data/nights/hpo.db", "news") == Path("/data/nights/hpo-news.log")
    assert log_path("mine.db", "news") == Path("mine-news.log")
    assert log_path("postgresql+psycopg://u:secret@host/base", "news") == Path("hpo-news.log")


def test_the_log_is_added_to_and_has_what_the_loggers_say(tmp_path: Path) -> None:
    path, screen = tmp_path / "hpo-news.log", Heard()
    logger = logging.getLogger("hpo.search.somewhere")
    before = logging.getLogger("hpo").level
    for _ in range(2):
        with logged_to(path, screen) as log:
            log.ended(outcome(5, Ending.PRUNED))
            logger.debug("Detail %d.", 7)
            logger.warning("The store does not answer.")
    logger.warning("After the end.")
    lines = path.read_text().splitlines()
    assert len(lines) == 6
    assert "trial 5 pruned" in lines[0]
    assert lines[1].endswith("debug: Detail 7.")
    assert lines[2].endswith("warning: The store does not answer.")
    assert screen.notes == ["The store does not answer."] * 2
    assert logging.getLogger("hpo").level == before


def test_who_speaks_after_the_end_does_not_fail_of_it(tmp_path: Path) -> None:
    """As the thread that sends notifications does, where they could not be sent in time."""
    with logged_to(tmp_path / "hpo-news.log", Heard()) as log:
        pass
    log.note("The notification to ntfy://... could not be sent.")
    assert (tmp_path / "hpo-news.log").read_text() == ""


def test_what_ends_a_search_is_the_logs_last_line(tmp_path: Path) -> None:
    path = tmp_path / "hpo-news.log"
    for error in (StoreError("The store was away for an hour."), KeyboardInterrupt()):
        with pytest.raises(type(error)), logged_to(path, Heard()):
            raise error
    first, second = path.read_text().splitlines()
    assert first.endswith("The search ended: The store was away for an hour.")
    assert second.endswith("The search ended with KeyboardInterrupt.")


def test_a_full_disk_does_not_end_the_search() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    with logged_to(full, Heard()) as log:
        for _ in range(1000):
            log.note("A sentence that does not fit." * 10)


def test_a_log_that_cannot_be_written_is_noted(tmp_path: Path) -> None:
    screen = Heard()
    with logged_to(tmp_path / "nowhere" / "hpo.log", screen) as log:
        log.note("anything")
    assert screen.notes == [
        f"There is no log file: {tmp_path}/nowhere/hpo.log cannot be written (No such file or directory)."
    ]


def test_a_trial_of_a_confirmation_does_not_show_the_score_of_that_number_in_the_search() -> None:
    stream = StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=120))
    view.started("news", "macro_f1", 10, BEFORE)
    view.reported(tiny_report(5, score=0.8123), Decision(trial=5, attempt=1, action=Action.CONTINUE))
    view.started("news (confirmation)", "macro_f1", 10, BEFORE)
    view.progressed(progress(5, seen=50))
    Console(file=stream, width=120).print(view._drawn())
    assert "run 5" in stream.getvalue()
    assert "0.8123" not in stream.getvalue()
