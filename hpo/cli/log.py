"""Log file of a search, beside its store: every event with its time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpo.cli.live import LineLog
from hpo.errors import HpoError
from hpo.runners.callbacks import SearchCallback
from hpo.store.database import sqlite_path


def log_path(url: str, study: str) -> Path:
    """Return the path of a study's log: `STORE-STUDY.log` beside a SQLite store, else in the working folder."""
    database = sqlite_path(url)
    return Path(f"hpo-{study}.log") if database is None else database.with_name(f"{database.stem}-{study}.log")


@contextmanager
def logged_to(path: Path, screen: SearchCallback) -> Iterator[SearchCallback]:
    """Yield a callback that appends a search's events to the file `path`; a full disk does not end the search.

    The file also gets the messages of Python loggers below `hpo`, and the error that ends the block. Warnings of these
    loggers are also shown on `screen`. A search that is refused before it begins creates no file.
    """
    try:
        # Not in a `with` statement, because closing may fail too on a full disk.
        stream = path.open("a", encoding="utf-8")
    except OSError as error:
        screen.note(f"There is no log file: {path} cannot be written ({error.strerror}).")
        yield SearchCallback()
        return
    log, is_new = LineLog(stream), stream.tell() == 0
    try:
        with _python_loggers(log, screen):
            yield log
    except HpoError as error:
        log.note(f"The search ended: {error}")
        if is_new and not log.study and isinstance(error, ValueError):
            path.unlink(missing_ok=True)
        raise
    except BaseException as error:
        # The message of an unknown error may contain a text of the user's data.
        log.note(f"The search ended with {type(error).__name__}.")
        raise
    finally:
        with suppress(OSError):
            stream.close()


class _Notes(logging.Handler):
    """Handler that turns log messages into notes."""

    def __init__(self, log: SearchCallback, screen: SearchCallback) -> None:
        super().__init__()
        self._log, self._screen = log, screen

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self._log.note(f"{record.levelname.lower()}: {message}")
        if record.levelno >= logging.WARNING:
            self._screen.note(message)


@contextmanager
def _python_loggers(log: SearchCallback, screen: SearchCallback) -> Iterator[None]:
    logger, handler = logging.getLogger("hpo"), _Notes(log, screen)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
