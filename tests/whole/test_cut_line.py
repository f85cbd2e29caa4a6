"""A search whose line to PostgreSQL is cut: that is noticed and told, its end holds, and nothing trained is lost."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from hpo.config.parsing import write_yaml
from hpo.config.study_file import StudyConfig
from hpo.errors import StoreUnavailableError
from hpo.messages import Decision, Ending, Report
from hpo.runners.run import run
from hpo.search import coordinator as coordinators
from hpo.store import postgresql
from tests.cut_line import Line, line_to
from tests.search.scripted import CPU, led, report_at, rows, study_at, written
from tests.whole.test_run import Recorder, with_changes


@pytest.fixture
def line(postgresql_url: str) -> Iterator[Line]:
    with line_to(postgresql_url) as made:
        yield made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(postgresql, "ANSWER_SECONDS", 2.0)


class Cutting(Recorder):
    """Cuts the line when the second trial has been evaluated, and may tell the search to end."""

    def __init__(self, line: Line, stop: Event | None) -> None:
        super().__init__()
        self.line, self.stop = line, stop

    def reported(self, report: Report, decision: Decision) -> None:
        super().reported(report, decision)
        if report.trial == 1 and report.rung < 500:
            self.line.cut()
            if self.stop is not None:
                self.stop.set()


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.usefixtures("quick")
def test_told_to_end_it_pauses_what_trains_and_the_next_run_goes_on_from_there(
    config: StudyConfig, line: Line, postgresql_url: str, tmp_path: Path
) -> None:
    cut = with_changes(config, store={"url": line.url, "files": str(tmp_path / "cut")})
    stop = Event()
    with pytest.raises(StoreUnavailableError, match=r"did not answer for \d|timeout expired"):
        run(cut, Cutting(line, stop), stop)
    assert list((tmp_path / "cut").glob("**/checkpoint-*"))
    line.mend()
    # This process lives, and could not give its lease back.
    written(postgresql_url, "UPDATE hpo_leases SET expires_at = 0")
    seen = Recorder()
    found = run(cut, seen)
    assert seen.assigned_trials[0] == (1, 2)
    assert seen.outcomes[0].resumed_examples > 0
    assert {outcome.ending for outcome in seen.outcomes} == {Ending.COMPLETED}
    assert [trial.state for trial in found.trials] == ["COMPLETE"] * 3


@pytest.mark.timeout(90)
@pytest.mark.usefixtures("quick")
def test_a_line_that_is_mended_is_used_again_and_nothing_is_recorded_twice(
    config: StudyConfig, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    class Mending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "asked again until it answers" in record.getMessage():
                line.mend()

    logging.getLogger("hpo.store.database").addHandler(mending := Mending())
    try:
        results = run(with_changes(config, store={"url": line.url, "files": "cut"}), seen := Cutting(line, None))
    finally:
        logging.getLogger("hpo.store.database").removeHandler(mending)
    assert [trial.state for trial in results.trials] == ["COMPLETE"] * 3
    assert "The store answers again; the search goes on." in caplog.messages
    assert [outcome.trial for outcome in seen.outcomes] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("quick")
def test_at_the_deadline_it_is_not_waited_for(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinators, "LEAST_OUTAGE", 1.0)
    with led(study_at(line.url, budget={"trials": None, "time": "4s"})) as coordinator:
        first = coordinator.next_assignment("one", CPU)
        assert first is not None
        line.cut()
        with pytest.raises(StoreUnavailableError):
            coordinator.observe(report_at(first, first.milestones[0], 0.5))
        until = coordinator.limits.deadline
    assert until is not None
    assert time.time() >= until


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_ends_by_ctrl_c_with_a_sentence(
    config: StudyConfig, line: Line, postgresql_url: str, tmp_path: Path
) -> None:
    """With the waits that it is shipped with, its trials in worker processes."""
    longer = with_changes(
        config, compute={"workers": 2}, budget={"trials": 400}, store={"url": line.url, "files": None}
    )
    content = longer.model_dump(mode="json", exclude_none=True)
    (tmp_path / "study.yaml").write_text(write_yaml(content))
    log = tmp_path / "screen"
    command = [sys.executable, "-m", "hpo", "run", "study.yaml"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # What was ignored where these tests were started from would be so there.
    handlers = lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)]  # noqa: E731
    with log.open("w") as screen:
        search = subprocess.Popen(
            command, cwd=tmp_path, stdout=screen, stderr=screen, env=environment, preexec_fn=handlers
        )
    try:
        wait_for(lambda: rows(postgresql_url, "SELECT 1 FROM hpo_evaluations") != [], search, log)
        line.cut()
        wait_for(lambda: "asked again until it answers" in log.read_text(), search, log)
        search.send_signal(signal.SIGINT)
        assert search.wait(60) == StoreUnavailableError.exit_code, log.read_text()
    finally:
        search.kill()
        search.wait()
    assert "Traceback" not in log.read_text()
    running = rows(postgresql_url, "SELECT number FROM trials WHERE state = 'RUNNING'")
    assert len(list(tmp_path.glob("hpo-files/**/checkpoint-*"))) >= len(running) > 0


def wait_for(found, search: "subprocess.Popen[bytes]", log: Path) -> None:
    while not found():
        assert search.poll() is None, log.read_text()
        time.sleep(0.1)
