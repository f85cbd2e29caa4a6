"""Parent-death signal: a worker process ends with its parent, and ignores signals that are meant for the parent.

Light to import, so that it is done first.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Of Linux's `prctl(2)`: sets the signal that a process gets when the thread that started it ends."""
PARENT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a scheduler and a terminal that closes signal a whole process group; the parent decides what follows."""


def belong_to(parent: int) -> None:
    """Ignore the parent's signals, and on Linux have this process killed when the parent dies.

    A closed connection tells a worker of its parent's death too, unless the worker is stuck in a driver; the kernel
    reaches it there.
    """
    for number in PARENT_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # A sandbox may refuse it; then the connection is what remains.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It died before it could be asked for that.
        os._exit(0)
