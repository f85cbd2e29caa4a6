"""Signal handling: the first signal ends a search at its next step, the second at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event

from hpo.config.times import humanized

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Handler of the signals of a search."""

    def __init__(self, stop: Event, grace_seconds: float) -> None:
        self.came = False
        """True if a signal came."""
        self._stop = stop
        self._grace_seconds = grace_seconds
        # Determined now, because a closed stream no longer shows that it was a terminal.
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        self._timer = threading.Timer(grace_seconds, _interrupt_main_thread)
        self._timer.daemon = True

    def on_signal(self, number: int, _frame: object) -> None:
        """Set `stop` at the first signal; raise KeyboardInterrupt at the second, which the timer may send."""
        if number == signal.SIGHUP:
            self._forget_terminal()
        if self.came:
            self.end_timer()
            raise KeyboardInterrupt
        self.came = True
        self._stop.set()
        self._timer.start()
        # Not through Python's streams, because the signal may have interrupted a write to one.
        with suppress(OSError):
            os.write(2, _ENDING.format(humanized(self._grace_seconds)).encode())

    def end_timer(self) -> None:
        """Stop the timer: the search has ended, or is ending."""
        self._timer.cancel()

    def _forget_terminal(self) -> None:
        """Discard output to the closed terminal instead of failing."""
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in self._terminals:
            os.dup2(devnull, stream)
        os.close(devnull)


_ENDING = "\nEnding at the next step, in {} at the latest; interrupt again to end now. The same command resumes it.\n"


@contextmanager
def ending_tidily(stop: Event, grace_seconds: float) -> Iterator[Signals]:
    """Let the first Ctrl-C, SIGTERM or closed terminal set `stop`, and the second raise KeyboardInterrupt.

    After `grace_seconds` a timer sends the second. Ignored signals stay ignored: SIGHUP under nohup, or SIGINT in a
    background job of a script.
    """
    signals = Signals(stop, grace_seconds)
    ignored = {number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN}
    before = {number: signal.signal(number, signals.on_signal) for number in SIGNALS if number not in ignored}
    try:
        yield signals
    finally:
        signals.end_timer()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_main_thread() -> None:
    main = threading.main_thread().ident
    assert main is not None, "the main thread has begun"
    signal.pthread_kill(main, signal.SIGTERM)
