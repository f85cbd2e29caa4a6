"""Standard streams that never end a command: tolerant of closed streams, full disks, closed pipes and encodings."""

import errno
import io
import os
import sys

SEARCHES = ("run", "demo", "confirm")
"""Verbs whose result is in the store, even if their output is lost."""


class _TolerantFile(io.FileIO):
    """An open file that drops data it cannot write, and keeps the first error."""

    failure: OSError | None = None

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.failure = self.failure or error
            return len(memoryview(data))  # type: ignore[arg-type]


class StandardStreams:
    """Tolerant standard output and error of this process, unless something else has replaced them."""

    def __init__(self) -> None:
        self._closed = _open_missing()
        self._output = _tolerant(1) if sys.stdout is sys.__stdout__ else None
        if self._output is not None:
            sys.stdout = _text_over(self._output, sys.__stdout__)
        if sys.stderr is sys.__stderr__:
            sys.stderr = _text_over(_tolerant(2), sys.__stderr__)

    def exit_code(self, code: int, verb: str) -> int:
        """Report lost output on standard error, and return the exit code: 1 if a successful command lost its output.

        Args:
            code: exit code of the command itself.
            verb: its first word; a successful search has exit code 0 even if its output was lost.
        """
        sys.stdout.flush()
        failure = self._output.failure if self._output is not None else None
        if 1 in self._closed:
            reason = "it is closed"
        elif failure is not None and failure.errno != errno.EPIPE:
            reason = failure.strerror or str(failure)
        else:
            return code  # A reader that closed the pipe, such as head, has read enough.
        print(f"hpo: the output is lost, because standard output cannot be written to: {reason}.", file=sys.stderr)
        return 1 if code == 0 and verb not in SEARCHES else code


def _open_missing() -> list[int]:
    """Open closed standard streams on /dev/null, so that no other file gets their numbers; return these numbers."""
    closed = []
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            closed.append(number)
            devnull = os.open(os.devnull, os.O_RDWR)
            if devnull != number:
                os.dup2(devnull, number)
                os.close(devnull)
    return closed


def _tolerant(number: int) -> _TolerantFile:
    return _TolerantFile(number, "w", closefd=False)


def _text_over(file: _TolerantFile, before: io.TextIOWrapper | None) -> io.TextIOWrapper:
    """Return a text stream in the encoding of `before` that escapes characters which the encoding lacks."""
    encoding = "utf-8" if before is None else before.encoding
    interactive = os.isatty(file.fileno())
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=interactive or file.fileno() == 2
    )
