"""Who is told of a search: what is said, how often, and that nothing of it can end or hold up the search."""

import json
import os
import select
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hpo.cli import notifications
from hpo.cli.notifications import MOST_UNSENT, Notifier, Recipient, recipients_of
from hpo.errors import ConfigurationError, StoreError
from hpo.messages import Ending, Standing
from tests.whole.test_live import outcome

NOTHING = Standing(completed=0, pruned=0, failed=0, best=None)


class Inbox:
    """Takes sentences, as fast as `door` lets it."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.door = threading.Event()
        self.door.set()
        self.knocked = threading.Event()

    def send(self, sentence: str) -> str:
        self.knocked.set()
        self.door.wait(30)
        self.sentences.append(sentence)
        return ""

    @property
    def recipient(self) -> Recipient:
        return Recipient(shown="inbox", send=self.send)


def notifier(*recipients: Recipient, notes: list[str] | None = None) -> Notifier:
    return Notifier("news", recipients, (notes if notes is not None else []).append)


def interrupted(told: Notifier) -> None:
    with told:
        told.left_out("worker", "reason")
        raise KeyboardInterrupt


def ended_by(error: BaseException, inbox: Inbox) -> None:
    with notifier(inbox.recipient) as told:
        told.started("news", "macro_f1", None, NOTHING)
        raise error


def test_the_end_and_the_first_failure_and_a_lost_device_are_told() -> None:
    inbox = Inbox()
    with notifier(inbox.recipient) as told:
        told.started("news", "macro_f1", 10, NOTHING)
        told.ended(outcome(0, Ending.FAILED, reason="The device is lost."))
        told.ended(outcome(1, Ending.FAILED, reason="It is lost still."))
        told.left_out("cuda:1", "Three trials failed on it.")
        told.ended(outcome(2, Ending.COMPLETED, 0.8))
        told.finished(interrupted=False)
    bests = [sentence for sentence in inbox.sentences if "new best" in sentence]
    assert [sentence for sentence in inbox.sentences if sentence not in bests] == [
        "hpo, study news: trial 0 failed, the first to do so: The device is lost.",
        "hpo, study news: cuda:1 gets no more trials: Three trials failed on it.",
        "hpo, study news: finished. 3 of 10 begun: 1 completed, 2 failed, best macro_f1 0.8000 (trial 2).",
    ]


def test_an_interruption_and_an_error_are_told_as_such() -> None:
    inbox = Inbox()
    with notifier(inbox.recipient) as told:
        told.started("news", "macro_f1", None, NOTHING)
        told.finished(interrupted=True)
    for error in (StoreError("The store was away for an hour."), ZeroDivisionError("a text of the user's")):
        with pytest.raises(type(error)):
            ended_by(error, inbox)
    assert inbox.sentences == [
        "hpo, study news: interrupted; the same command resumes it. 0 begun, none completed yet.",
        "hpo, study news: the search ended with an error: The store was away for an hour.",
        "hpo, study news: the search ended with an error: ZeroDivisionError",
    ]


def test_what_is_refused_before_it_began_is_told_to_nobody_far_away() -> None:
    inbox = Inbox()
    with pytest.raises(ConfigurationError), notifier(inbox.recipient):
        raise ConfigurationError("A typo.")
    assert inbox.sentences == []


def test_of_new_bests_one_a_minute_is_told_and_then_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(notifications.time, "monotonic", lambda: now[0])
    told = notifier()  # Its thread does not run: what it would send next is asked for here.
    told.started("news", "macro_f1", 10, Standing(completed=1, pruned=0, failed=0, best=(0.7, 9)))
    told.ended(outcome(0, Ending.COMPLETED, 0.6))
    assert told._new_best is None
    told.ended(outcome(1, Ending.COMPLETED, 0.8))
    assert "0.8000 (trial 1)" in (told._next() or "")
    told.ended(outcome(2, Ending.COMPLETED, 0.81))
    told.ended(outcome(3, Ending.COMPLETED, 0.82))
    waited: list[float | None] = []

    def wait(seconds: float | None = None) -> bool:
        waited.append(seconds)
        now[0] += seconds or 0
        return True

    monkeypatch.setattr(told._changed, "wait", wait)
    assert "0.8200 (trial 3)" in (told._next() or "")
    assert waited == [60.0]


def test_of_a_confirmation_the_verdict_is_told_and_no_best_among_its_runs() -> None:
    inbox = Inbox()
    with notifier(inbox.recipient) as told:
        told.started("news", "macro_f1", 10, NOTHING)
        told.ended(outcome(2, Ending.COMPLETED, 0.8))
        told.started("news (confirmation)", "macro_f1", 4, NOTHING)
        told.ended(outcome(1, Ending.COMPLETED, 0.9))
        told.judged(["Trial 2 beats the default by 2.0 F1 points.", "Take trial 2.", "And more."])
        told.finished(interrupted=False)
    assert not any("0.9" in sentence for sentence in inbox.sentences)
    assert inbox.sentences[-1] == (
        "hpo, study news: finished. Trial 2 beats the default by 2.0 F1 points. Take trial 2."
    )


def test_who_is_slow_holds_up_nothing_and_has_no_endless_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "FLUSH_SECONDS", 0.01)
    inbox, notes = Inbox(), list[str]()
    inbox.door.clear()
    with notifier(inbox.recipient, notes=notes) as told:
        told.left_out("first", "reason")
        assert inbox.knocked.wait(30)
        for number in range(3 * MOST_UNSENT):
            told.left_out(f"worker-{number}", "reason")
    assert notes == ["Not all notifications could be sent within 0 seconds."]
    inbox.door.set()
    told._thread.join(30)
    assert len(inbox.sentences) == MOST_UNSENT + 1


def test_a_second_ctrl_c_waits_for_nobody() -> None:
    inbox = Inbox()
    inbox.door.clear()
    told = notifier(inbox.recipient)
    with pytest.raises(KeyboardInterrupt):
        interrupted(told)
    assert inbox.sentences == []
    inbox.door.set()
    told._thread.join(30)


# -- commands


def told_once(url: str, sentence: str = "It's over; 3 > 2 $HOME") -> list[str]:
    """Send one sentence to `url`; return the notes."""
    notes: list[str] = []
    with Notifier("news", recipients_of([url]), notes.append) as told:
        told.started("news", "f1", 1, NOTHING)
        told._say(sentence)
    return notes


def test_a_command_gets_the_sentence_as_its_last_argument_and_no_shell(tmp_path: Path) -> None:
    script, taken = tmp_path / "take it.py", tmp_path / "taken.json"
    script.write_text("import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))")
    words = shlex.join([sys.executable, str(script), str(taken), "a b"])
    assert told_once(f"command:{words}") == []
    assert json.loads(taken.read_text()) == ["a b", "hpo, study news: It's over; 3 > 2 $HOME"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("false --token=secret", "it ended with exit code 1"),
        ("sleep 20 secret", "it ended with exit code 1"),
    ],
)
def test_a_command_that_fails_is_noted_without_its_arguments(command: str, reason: str) -> None:
    [note] = told_once(f"command:{command}")
    program = command.partition(" ")[0]
    assert note == f"The notification to command:{program} could not be sent: {reason}."


def test_a_command_that_hangs_is_given_up_with_what_it_has_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(notifications, "SEND_SECONDS", 1.0)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    [note] = told_once(f"command:sh -c 'sleep 20 > {pipe} & wait'")
    assert "it took longer than 1 seconds" in note
    # Its end comes when the last process that could write is gone.
    assert select.select([reading], [], [], 10)[0] == [reading]
    os.close(reading)


# -- services


@pytest.fixture
def service() -> Iterator[tuple[str, list[bytes]]]:
    """An address that takes JSON, and what it took; anything below /broken it does not take."""
    taken: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"json://user:secret@127.0.0.1:{server.server_port}", taken
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_service_gets_the_sentence(service: tuple[str, list[bytes]]) -> None:
    url, taken = service
    assert told_once(f"{url}/topic") == []
    assert json.loads(taken[0])["message"] == "hpo, study news: It's over; 3 > 2 $HOME"


def test_a_service_that_does_not_take_it_is_noted_without_its_secrets(
    service: tuple[str, list[bytes]], capfd: pytest.CaptureFixture[str]
) -> None:
    url, _ = service
    notes = told_once(f"{url}/broken")
    assert notes == ["The notification to json://... could not be sent: the service did not accept it."]
    said = capfd.readouterr()
    assert "secret" not in said.out + said.err


REFUSED = {
    "nfty://topic": "--notify cannot send to nfty://...: its kind is unknown",
    "mailto://": "--notify cannot send to mailto://...",
    "user:secret@host": "--notify cannot send to this recipient:",
    "command:": "--notify command: needs a program",
    "command:'unclosed secret": "--notify command: needs a program",
    "command:no-such-program --token=secret": "--notify command: names the program no-such-program, which does not",
}


@pytest.mark.parametrize("url", REFUSED)
def test_what_cannot_be_told_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        recipients_of([url])
    assert REFUSED[url] in str(error.value)
    assert "secret" not in str(error.value)


def test_without_apprise_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'llm-hpo\[notify\]'"):
        recipients_of(["ntfy://topic"])
    assert recipients_of(["command:true"])[0].shown == "command:true"
