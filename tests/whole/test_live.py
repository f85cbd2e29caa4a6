"""What a search looks like: both views count as the store counts, also when a study goes on."""

from io import StringIO

from rich.console import Console

from hpo.cli.live import LineLog, LiveView, clock
from hpo.messages import Action, Decision, Ending, Outcome, Progress, Report, Scores, Standing

BEFORE = Standing(completed=2, pruned=3, failed=0, best=(0.9, 1))


def report(trial: int, score: float) -> Report:
    return Report(
        trial=trial,
        attempt=1,
        rung=500,
        full=True,
        decides=True,
        step=10,
        epoch=0.5,
        examples_seen=160,
        learning_rate=1e-4,
        train_loss=0.7,
        validation=Scores(metric="macro_f1", values={"macro_f1": score, "loss": 0.5}, rows=300),
        seconds=3.0,
        peak_memory_bytes=1,
    )


def outcome(trial: int, ending: Ending, score: float | None = None, reason: str = "") -> Outcome:
    best = None if score is None else report(trial, score)
    return Outcome(trial=trial, attempt=1, ending=ending, best=best, seconds=65.0, peak_memory_bytes=1, reason=reason)


def test_lines_count_from_how_the_study_stood() -> None:
    stream = StringIO()
    log = LineLog(stream)
    log.started("news", "macro_f1", 10, BEFORE)
    log.reported(report(5, 0.8), Decision(trial=5, attempt=1, action=Action.STOP))
    log.ended(outcome(5, Ending.PRUNED, 0.8))
    log.ended(outcome(6, Ending.DIVERGED, reason="The loss was no longer a number."))
    log.ended(outcome(7, Ending.COMPLETED, 0.85))
    log.ended(outcome(8, Ending.COMPLETED, 0.95))
    lines = stream.getvalue().splitlines()
    assert "10 trials in all, going on after 5" in lines[0]
    assert "given up" in lines[1]
    assert "6 of 10 done, 4 pruned, best 0.9000 (trial 1)" in lines[2]
    assert "no longer a number" in lines[3]
    assert "7 of 10 done, 5 pruned" in lines[3]
    assert "best 0.9000 (trial 1)" in lines[4]
    assert "best 0.9500 (trial 8)" in lines[5]


def test_a_log_that_nobody_reads_any_more_does_not_end_the_search() -> None:
    class Gone(StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    LineLog(Gone()).note("anything")


def test_the_live_view_shows_each_running_trial() -> None:
    stream = StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=120))
    with view:
        view.started("news", "macro_f1", 10, BEFORE)
        view.reported(report(5, 0.8123), Decision(trial=5, attempt=1, action=Action.CONTINUE))
        view.progressed(
            Progress(
                trial=5,
                attempt=1,
                examples_seen=50,
                examples_total=100,
                examples_per_second=42.0,
                learning_rate=1e-4,
                train_loss=0.5,
            )
        )
        view._live.refresh()
    shown = stream.getvalue()
    for part in (
        "5 of 10 done, 3 pruned",
        "best macro_f1 0.9000 (trial 1)",
        "trial 5",
        "0.8123",
        "1.00e-04",
        "42 texts/s",
    ):
        assert part in shown


def test_durations_read_as_people_say_them() -> None:
    assert [clock(seconds) for seconds in (45, 200, 25500)] == ["45 s", "3 min 20 s", "7 h 05 min"]
