"""Store outages, retried with exponential backoff: a server that restarts, a full disk, a held lock."""

import logging
import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from hpo.errors import StoreUnavailableError

FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0
SECONDS_TO_END = 3.0
"""Seconds for which a search that was told to end still retries."""
TOLD_FROM = 1.0
"""Seconds of waiting after which a warning is logged."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def retried_while_away(
    verb: Callable[[], Result],
    seconds: float,
    *,
    stop: Event | None = None,
    sleep: Callable[[float], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Return what `verb` returns, called again for so many seconds while the store does not answer.

    Args:
        verb: a transaction that can be asked twice, since the answer to a commit may have been lost.
        seconds: after which its error is raised.
        stop: once it is set, its error is raised after `SECONDS_TO_END`.
        sleep: waits so many seconds; None for a sleep from which `stop` wakes.
        clock: seconds, from anywhere.

    Raises:
        StoreUnavailableError: the store was away for longer.
    """
    stop = stop or Event()
    began, wait, told, ending = clock(), FIRST_WAIT, False, False
    until = began + seconds
    while True:
        try:
            result = verb()
        except StoreUnavailableError as error:
            if stop.is_set():
                until, ending = until if ending else min(until, clock() + SECONDS_TO_END), True
            if clock() + wait > until:
                raise
            if max(wait, clock() - began) >= TOLD_FROM and not told:
                logger.warning("%s It is asked again until it answers; what is training goes on.", error)
                told = True
        else:
            if told:
                logger.warning("The store answers again; the search goes on.")
            return result
        # It is set for good: a search that ends asks as often as one that continues.
        (sleep or (time.sleep if ending else stop.wait))(wait)
        wait = min(2 * wait, LONGEST_WAIT)
