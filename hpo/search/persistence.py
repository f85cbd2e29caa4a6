"""Holds on while the store is away: a server that restarts, a disk that is full, a lock that is held."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from hpo.errors import StoreUnavailableError

FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0
TOLD_FROM = 1.0
"""Seconds of waiting from which it is worth a word."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def persistently(
    verb: Callable[[], Result],
    seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Return what `verb` returns, called again for so many seconds while the store does not answer.

    Args:
        verb: a transaction that can be asked twice, since the answer to a commit may have been lost.
        seconds: after which its error is raised.
        sleep: waits so many seconds.
        clock: seconds, from anywhere.

    Raises:
        StoreUnavailableError: the store was away for longer.
    """
    until, wait, told = clock() + seconds, FIRST_WAIT, False
    while True:
        try:
            result = verb()
        except StoreUnavailableError as error:
            if clock() + wait > until:
                raise
            if wait >= TOLD_FROM and not told:
                logger.warning("%s It is asked again until it answers; what is training goes on.", error)
                told = True
        else:
            if told:
                logger.warning("The store answers again; the search goes on.")
            return result
        sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)
