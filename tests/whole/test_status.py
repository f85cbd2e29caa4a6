"""`hpo status`: what the store says of a study, to a person and to a program."""

import json
import time
from pathlib import Path

import pytest

from hpo.messages import Ending
from tests.command_line import Hpo
from tests.search.scripted import CPU, ended, led, report_at, search, study_at, train, written

Hpo = Hpo


def test_a_study_that_is_led(hpo: Hpo, sqlite_url: str) -> None:
    with led(study_at(sqlite_url, budget={"trials": 6, "time": "8h"})) as leader:
        done, paused, running = (leader.next_assignment(name, CPU) for name in ("a", "b", "c"))
        assert done is not None
        assert paused is not None
        assert running is not None
        train(leader, done)
        leader.finish(ended(paused, Ending.PAUSED, reason="Cut by a signal."))
        leader.observe(report_at(running, running.milestones[1], 0.6125))
        shown = hpo("status", "--store", sqlite_url).out
        content = json.loads(hpo("status", "--store", sqlite_url, "--json").out)
    assert "study scripted: led by process" in shown
    assert "1 trial finished: 1 completed, 0 pruned, 0 failed; best macro_f1" in shown
    assert "1 running, 1 waiting; 0.01 device-hours; ends 20" in shown
    assert "in 7 h 59 min" in shown or "in 8 h 00 min" in shown
    assert "0.6125" in shown
    assert "scripted-0" in shown
    assert "trial 1 waits: paused; resumes later (Cut by a signal)" in shown
    assert "begun trial 2, attempt 1: scripted-0" in shown
    assert content["led_by"].startswith("process ")
    assert content["standing"]["completed"] == 1
    assert content["running"][0]["score"] == 0.6125
    assert content["waiting"][0]["reason"] == "Cut by a signal."
    assert [event["kind"] for event in content["events"]][-1] == "paused"


def test_what_was_gained_so_far_is_told_from_the_fourth_completed_trial_on(hpo: Hpo, sqlite_url: str) -> None:
    for trials, told in ((3, False), (4, True)):
        with led(study_at(sqlite_url, budget={"trials": trials})) as leader:
            search(leader)
        assert ("against the default so far" in hpo("status", "--store", sqlite_url).out) == told
        assert ("against the default so far" in hpo("status", "--store", sqlite_url, "--watch").out) == told
        gain = json.loads(hpo("status", "--store", sqlite_url, "--json").out)["gain"]
        assert (gain is not None) == told
    assert gain["interval"]["low"] < gain["gain"] < gain["interval"]["high"]


def test_a_study_that_nobody_leads_says_how_its_last_run_ended(hpo: Hpo, sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as leader:
        leader.end("The time that is left is too short for another trial.")
    shown = hpo("status", "--store", sqlite_url).out
    assert "nobody leads it; the last run ended 20" in shown
    assert ": The time that is left is too short for another trial\n" in shown
    assert "none completed yet" in shown
    with led(study_at(sqlite_url)):
        pass
    shown = hpo("status", "--store", sqlite_url).out
    assert "nobody leads it; the last run, begun 20" in shown
    assert "was cut off; the next resumes it" in shown


@pytest.mark.parametrize(
    ("kind", "detail", "said"),
    [
        ("too_long", "{}", "too long for the time that was left"),
        ("requeued", '{"why": "failed"}', "failed; to be retried on another worker"),
        ("requeued", '{"why": "died"}', "its process died; resumes first"),
        ("requeued", '{"why": "the search was cut"}', "the search was cut; resumes first"),
        ("enqueued", "{}", "enqueued, not begun yet"),
    ],
)
def test_why_a_trial_waits(hpo: Hpo, sqlite_url: str, kind: str, detail: str, said: str) -> None:
    """The default waits from the beginning; the leader would write these events itself."""
    with led(study_at(sqlite_url)):
        pass
    assert "trial 0 waits: not begun yet" in hpo("status", "--store", sqlite_url).out
    columns = "INSERT INTO hpo_events (study_id, happened_at, kind, trial, detail)"
    written(sqlite_url, f"{columns} VALUES (1, 0, '{kind}', 0, '{detail.replace(':', chr(92) + ':')}')")
    assert f"trial 0 waits: {said}" in hpo("status", "--store", sqlite_url).out


def test_watching_ends_with_the_leader(hpo: Hpo, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    leading = led(study_at(sqlite_url))
    leader = leading.__enter__()

    def sleep(seconds: float) -> None:
        drawn.append(seconds)
        if len(drawn) == 3:
            leader.end("finished")
            leading.__exit__(None, None, None)

    monkeypatch.setattr("hpo.cli.status.time.sleep", sleep)
    answer = hpo("status", "--store", sqlite_url, "--watch")
    assert answer.code == 0
    assert drawn == [2.0, 2.0, 2.0]
    assert "nobody leads it; the last run ended" in answer.out


def test_watching_ends_with_ctrl_c(hpo: Hpo, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_seconds: float) -> None:
        raise KeyboardInterrupt

    with led(study_at(sqlite_url)), monkeypatch.context() as patched:
        patched.setattr(time, "sleep", sleep)
        answer = hpo("status", "--store", sqlite_url, "--watch")
    assert answer.code == 0
    assert "Traceback" not in answer.err


def test_watching_is_no_json(hpo: Hpo) -> None:
    answer = hpo("status", "--watch", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert "either --watch" in answer.err


def test_a_study_that_is_not_there_is_told(hpo: Hpo, sqlite_url: str) -> None:
    answer = hpo("status", "--store", sqlite_url)
    assert (answer.code, answer.err.count("\n")) == (5, 1)
    with led(study_at(sqlite_url)):
        pass
    answer = hpo("status", "--store", sqlite_url, "--study", "scripte")
    assert answer.code == 2
    assert "'scripted'" in answer.err


def test_a_store_that_is_not_there_is_not_made(hpo: Hpo, tmp_path: Path) -> None:
    assert hpo("status").code == 3
    assert list(tmp_path.iterdir()) == []
