"""What ties a worker process to its parent: it ends when the parent ends or says so, and by nothing else that comes to
both. Light to import, so that it is done first.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Of Linux's `prctl(2)`: the signal that a process gets when the thread that started it ends."""
OF_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a scheduler and a terminal that closes signal a whole group; what to do about it the parent decides."""


def belong_to(parent: int) -> None:
    """Ignore what the parent answers to, and on Linux have this process killed when the parent dies.

    A closed connection tells a worker of its parent's death too, unless it is stuck in a driver; the kernel reaches it
    there.
    """
    for number in OF_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # A sandbox may refuse it; then the connection is what remains.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It died before it could be asked for that.
        os._exit(0)
