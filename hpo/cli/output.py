"""Standard streams that never end a command: closed ones, full disks, readers that left, unknown letters."""

import errno
import io
import os
import sys

SEARCHES = ("run", "demo", "confirm")
"""Verbs whose result is in the store, whatever becomes of what they print."""


class _TolerantFile(io.FileIO):
    """An open file that drops what cannot be written to it, and keeps the first error."""

    failure: OSError | None = None

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.failure = self.failure or error
            return len(memoryview(data))  # type: ignore[arg-type]


class StandardStreams:
    """Standard output and error of this process, made tolerant where nobody has replaced them."""

    def __init__(self) -> None:
        self._closed = _open_missing()
        self._output = _tolerant(1) if sys.stdout is sys.__stdout__ else None
        if self._output is not None:
            sys.stdout = _text_over(self._output, sys.__stdout__)
        if sys.stderr is sys.__stderr__:
            sys.stderr = _text_over(_tolerant(2), sys.__stderr__)

    def exit_code(self, code: int, verb: str) -> int:
        """Say on standard error that output was lost, and return the exit code, which counts that.

        Args:
            code: what the command itself ended with.
            verb: its first word; a search that has finished ends with 0 all the same.
        """
        sys.stdout.flush()
        failure = self._output.failure if self._output is not None else None
        if 1 in self._closed:
            reason = "it is closed"
        elif failure is not None and failure.errno != errno.EPIPE:
            reason = failure.strerror or str(failure)
        else:
            return code  # A reader that left, such as head, has what it wanted.
        print(f"hpo: standard output cannot be written to, so what was to be shown is lost: {reason}.", file=sys.stderr)
        return 1 if code == 0 and verb not in SEARCHES else code


def _open_missing() -> list[int]:
    """Open closed standard streams on /dev/null, as the next file opened would get their number; return which."""
    closed = []
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            closed.append(number)
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    return closed


def _tolerant(number: int) -> _TolerantFile:
    return _TolerantFile(number, "w", closefd=False)


def _text_over(file: _TolerantFile, before: io.TextIOWrapper | None) -> io.TextIOWrapper:
    """Return a text stream like the one before, which writes a letter that its encoding lacks as its number."""
    encoding = "utf-8" if before is None else before.encoding
    interactive = os.isatty(file.fileno())
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=interactive or file.fileno() == 2
    )
