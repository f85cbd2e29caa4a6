"""Notifications of a search's end, first failure, new best score or quarantined device, to a phone, mailbox or command.

A separate thread sends them. A notification that cannot be sent is noted and never ends the search. A URL contains
secrets, so only its scheme is shown and logged.
"""

import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from hpo.cli.live import TrialCounts
from hpo.config.optional_packages import refuse_missing
from hpo.errors import ConfigurationError, HpoError
from hpo.messages import Assignment, Ending, Outcome, Standing

KNOWN = "ntfy://TOPIC, mailto://USER:PASSWORD@HOST, slack://..., tgram://..., discord://..., or command:PROGRAM ARGS"
SEND_SECONDS = 10.0
FLUSH_SECONDS = 15.0
NEW_BEST_SECONDS = 60.0
MOST_UNSENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """A recipient of notifications."""

    shown: str
    """Name for messages, without secrets."""
    send: Callable[[str], str]
    """Function that sends one sentence, and returns the reason of a failure, or an empty text."""


def recipients_of(urls: Sequence[str]) -> tuple[Recipient, ...]:
    """Return the recipients at `urls`.

    Raises:
        ConfigurationError: a URL has an unknown kind or is incomplete; the message does not contain it.
    """
    return tuple(_command(url) if url.startswith("command:") else _service(url) for url in urls)


class Notifier(TrialCounts):
    """Callback that sends notifications to `recipients`, until at most `FLUSH_SECONDS` after the end of the search."""

    def __init__(self, study: str, recipients: Sequence[Recipient], note: Callable[[str], None]) -> None:
        """Take the study, its recipients, and a function for notes on notifications that could not be sent."""
        super().__init__()
        self._prefix, self._search = f"hpo, study {study}: ", study
        self._confirms = False
        self._verdict: tuple[str, ...] = ()
        self._recipients, self._note = recipients, note
        self._changed = threading.Condition()
        self._unsent: deque[str] = deque()
        self._new_best: str | None = None
        self._next_best_at, self._closed, self._has_failed = 0.0, False, False
        self._thread = threading.Thread(target=self._send_all, name="hpo-notifications", daemon=True)

    def __enter__(self) -> Self:
        if self._recipients:
            self._thread.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Exception) and self.metric:
            # The message of an unknown error may contain a text of the user's data.
            reason = str(error) if isinstance(error, HpoError) else type(error).__name__
            self._say(f"the search ended with an error: {reason}")
        with self._changed:
            self._closed = True
            self._changed.notify()
        if not self._recipients or isinstance(error, KeyboardInterrupt):
            return
        self._thread.join(FLUSH_SECONDS)
        if self._thread.is_alive():
            self._note(f"Not all notifications could be sent within {FLUSH_SECONDS:.0f} seconds.")

    def finished(self, *, interrupted: bool) -> None:
        """Notify of the end of the search and its result."""
        over = "interrupted; the same command resumes it" if interrupted else "finished"
        with self._changed:
            self._new_best = None  # The following sentence contains it.
        self._say(f"{over}. {' '.join(self._verdict) or f'{self.counts()}, {self.best()}.'}")

    def started(self, study: str, metric: str, trials: int | None, standing: Standing) -> None:
        """Begin to count a search; a confirmation, whose trials have other numbers, is only notified by its verdict."""
        self._confirms = study != self._search
        self.metric = metric
        if not self._confirms:
            super().started(study, metric, trials, standing)

    def assigned(self, assignment: Assignment) -> None:
        """Remove a retried trial of a search from the counts."""
        if not self._confirms:
            super().assigned(assignment)

    def pruned_while_paused(self, trials: Sequence[int]) -> None:
        """Count pruned trials of a search."""
        if not self._confirms:
            super().pruned_while_paused(trials)

    def judged(self, sentences: Sequence[str]) -> None:
        """Keep the verdict's first two sentences for the last notification."""
        self._verdict = tuple(sentences[:2])

    def ended(self, outcome: Outcome) -> None:
        """Notify of a new best and of the first failure."""
        best = self._best
        if not self._confirms:
            super().ended(outcome)
        if outcome.ending is Ending.FAILED and not self._has_failed:
            self._has_failed = True
            self._say(f"trial {outcome.trial} failed, the first to do so: {outcome.reason}")
        if self._best is not None and self._best != best:
            with self._changed:
                self._new_best = f"{self._prefix}new {self.best()}."
                self._changed.notify()

    def left_out(self, worker: str, reason: str) -> None:
        """Notify of a worker that gets no more trials."""
        self._say(f"{worker} gets no more trials: {reason}")

    def _say(self, sentence: str) -> None:
        with self._changed:
            if len(self._unsent) < MOST_UNSENT:
                self._unsent.append(f"{self._prefix}{sentence}")
                self._changed.notify()

    def _send_all(self) -> None:
        while (sentence := self._next()) is not None:
            for recipient in self._recipients:
                if reason := recipient.send(sentence):
                    self._note(f"The notification to {recipient.shown} could not be sent: {reason}.")

    def _next(self) -> str | None:
        """Wait for the next sentence and return it; None when all are sent and no more will come."""
        with self._changed:
            while not self._unsent and not self._closed:
                wait = None if self._new_best is None else self._next_best_at - time.monotonic()
                if wait is not None and wait <= 0:
                    sentence, self._new_best = self._new_best, None
                    self._next_best_at = time.monotonic() + NEW_BEST_SECONDS
                    return sentence
                self._changed.wait(wait)
            return self._unsent.popleft() if self._unsent else None


def _command(url: str) -> Recipient:
    """Return a command as a recipient: run without a shell, the sentence as its last argument."""
    try:
        words = shlex.split(url.removeprefix("command:"))
    except ValueError:
        words = []
    if not words:
        raise ConfigurationError(
            "--notify command: needs a program and its arguments, quoted as in a shell, as in "
            "--notify 'command:notify-send hpo'."
        )

    if shutil.which(words[0]) is None:
        raise ConfigurationError(
            f"--notify command: names the program {words[0]}, which does not exist or is not executable; give its path."
        )

    def send(sentence: str) -> str:
        devnull = subprocess.DEVNULL
        try:
            # In its own session, so that Ctrl-C for the search does not reach it.
            process = subprocess.Popen(
                [*words, sentence], stdin=devnull, stdout=devnull, stderr=devnull, start_new_session=True
            )
        except OSError as error:
            return str(error.strerror)
        try:
            code = process.wait(SEND_SECONDS)
        except subprocess.TimeoutExpired:
            # Also kills processes that it has started.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"it took longer than {SEND_SECONDS:.0f} seconds"
        return f"it ended with exit code {code}" if code else ""

    return Recipient(shown=f"command:{words[0]}", send=send)


def _service(url: str) -> Recipient:
    """Return a service that apprise can reach as a recipient."""
    # Apprise logs the URLs that it cannot use.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    refuse_missing("apprise", "--notify with a URL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Some plug-ins of apprise import modules that raise warnings.
        from apprise import Apprise

        plugin = Apprise.instantiate(url)
    scheme, separator, _ = url.partition("://")
    shown = f"{scheme}://..." if separator else "this recipient"
    if plugin is None:
        raise ConfigurationError(
            f"--notify cannot send to {shown}: its kind is unknown, or the URL is incomplete. Examples are {KNOWN}; "
            "the documentation of apprise lists all kinds (pip install 'llm-hpo[notify]')."
        )
    plugin.socket_connect_timeout = plugin.socket_read_timeout = SEND_SECONDS

    def send(sentence: str) -> str:
        try:
            return "" if plugin.notify(body=sentence) else "the service did not accept it"
        except Exception as error:  # noqa: BLE001 (no error of a plug-in ends the search)
            return f"its plug-in failed with {type(error).__name__}"

    return Recipient(shown=shown, send=send)
