"""One worker process, seen from its parent: started, spoken to, heard, ended."""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

from hpo.errors import HpoError
from hpo.messages import Assignment, Capacity, Outcome
from hpo.runners.worker_process.conversation import Answer, End, Ready, Refused, Start, Worn
from hpo.runners.workforce import Said
from hpo.training.precision import Precision

# Where modules are found is taken over before anything is imported, and no script of the user's is run again: it needs
# no guard around its main part.
BEGIN = (
    "import sys; sys.path[:] = sys.argv[5:]; "
    "from hpo.runners.worker_process.parentage import belong_to; belong_to(int(sys.argv[4])); "
    "from hpo.runners.worker_process.service import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
PASSWORD = "PGPASSWORD"
"""Variable in which PostgreSQL's own library looks for a password that no URL holds."""
SECONDS_TO_END = 5.0
"""Time that processes which are asked to end have until they are killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What a worker process is started for; one that takes another's place has the same."""

    worker: str
    device: str
    """As torch writes it in the parent: `cpu`, `cuda:1`."""
    visible: str
    """The process's CUDA_VISIBLE_DEVICES: the one GPU that it sees, as its first; empty for none."""
    threads: int

    @property
    def capacity(self) -> Capacity:
        """What the coordinator is told."""
        return Capacity(worker=self.worker, device=self.device)

    def environment(self, inherited: Mapping[str, str], secret: str) -> dict[str, str]:
        """Return the variables of the process: set before it imports torch, without a password or `secret`."""
        kept = {name: value for name, value in inherited.items() if name != PASSWORD and secret not in value}
        own = {"CUDA_VISIBLE_DEVICES": self.visible, "OMP_NUM_THREADS": str(self.threads)}
        # A process that was forked off a tokenizer's threads would say so at length.
        return kept | own | {"TOKENIZERS_PARALLELISM": "false"}


class Child:
    """A worker process. It trains on however late it is listened to, and ends with its parent."""

    def __init__(
        self, post: Post, study: int, log: Path, precision: Precision | None, environment: Mapping[str, str]
    ) -> None:
        """Start it; it says that it is ready when its model is loaded.

        Args:
            post: its name, device and threads.
            study: handle of the file that `Study.written` made.
            log: file to which what it prints is appended.
            precision: in which it computes; None where that is not yet chosen.
            environment: its variables.

        Raises:
            OSError: there is no memory, process or file to be had.
        """
        self.post = post
        self.began = time.monotonic()
        self.ready = False
        """Whether its worker is open."""
        self.refusal: HpoError | None = None
        """Why its worker cannot be opened."""
        self.worn = False
        """Whether it asks to be replaced."""
        self.over = False
        """Whether it is dead, and all that it said was heard."""
        self.fate = ""
        """How it ended, in a sentence, once it is buried."""
        self.answers: dict[int, Answer] = {}
        self._held: set[tuple[int, int]] = set()
        self._killed_for: str | None = None
        self._log = log
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        with theirs, log.open("ab") as stream:
            handles = (theirs.fileno(), study)
            self._process = Popen(
                [sys.executable, "-c", BEGIN, post.worker, *map(str, (*handles, os.getpid())), *sys.path],
                stdin=DEVNULL, stdout=stream, stderr=stream, pass_fds=handles, env=dict(environment),
            )  # fmt: skip
        device = "cuda:0" if post.visible else "cpu"
        self.send(Start(worker=post.worker, device=device, threads=post.threads, precision=precision))

    @property
    def free(self) -> bool:
        """Whether it takes assignments."""
        return self.ready and not self.worn

    @property
    def done(self) -> bool:
        """Whether it asks to be replaced and has given back all that it held."""
        return self.worn and not self._held

    def give(self, assignment: Assignment) -> None:
        """Hand over an assignment."""
        self._held.add((assignment.trial, assignment.attempt))
        self.send(assignment)

    def send(self, message: object) -> None:
        """Say something; to a dead process, whose end is heard, nothing."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def heard(self) -> list[Said]:
        """Return what it has said of its trials, and take in what it has said of itself."""
        said: list[Said] = []
        # Asked first: what it had said before it ended is then in the connection.
        ended = self._killed_for is not None or self._process.poll() is not None
        try:
            while self.connection.poll():
                said += self._taken_in(self.connection.recv())
            self.over = ended
        except (EOFError, OSError):
            self.over = True
        return said

    def _taken_in(self, message: Any) -> Sequence[Said]:
        match message:
            case Ready():
                self.ready = True
            case Refused():
                self.refusal = message.error
            case Worn():
                self.worn = True
            case Answer():
                self.answers[message.number] = message
            case Outcome():
                self._held.discard((message.trial, message.attempt))
                return [message]
            case _:
                return [message]
        return []

    def kill(self, reason: str) -> None:
        """Kill it, at once."""
        self._killed_for = self._killed_for or reason
        self._process.kill()

    def bury(self, patience: float = SECONDS_TO_END) -> None:
        """Wait until it has ended, killing it after `patience` seconds, and take down how it did."""
        try:
            self._process.wait(patience)
        except TimeoutExpired:
            self.kill(f"The process of worker {self.post.worker} did not end.")
            # One that is stuck in a driver dies when the driver lets go of it; nobody waits for that.
            with suppress(TimeoutExpired):
                self._process.wait(SECONDS_TO_END)
        self.connection.close()
        self.fate = self._killed_for or self._how_it_ended()

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if code < 0:
            memory = ", as the kernel does where memory is short" if code == -signal.SIGKILL else ""
            how = f"was killed by signal {-code}{memory}"
        else:
            how = f"ended with exit status {code}"
        return f"The process of worker {self.post.worker} {how}; its last words are in {self._log}."


def end(children: Sequence[Child]) -> None:
    """Ask processes to end, kill those that have not after `SECONDS_TO_END`, and wait until all are dead."""
    for child in children:
        if child.ready:
            child.send(End())
        else:
            child.kill("It is not needed any more.")
    until = time.monotonic() + SECONDS_TO_END
    for child in children:
        child.bury(max(0.0, until - time.monotonic()))
