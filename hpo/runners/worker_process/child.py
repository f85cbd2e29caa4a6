"""One worker, seen from the parent of its processes: started, spoken to, heard, ended.

It has a process for each rank of its gang, mostly one. Rank 0 talks; the others are only started, and end with it.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

from hpo.errors import HpoError
from hpo.messages import Assignment, Outcome
from hpo.runners.worker_process.conversation import GANG_LOST, Answer, End, Ready, Refused, Start, Worn
from hpo.runners.worker_process.posts import Post
from hpo.runners.workforce import Said
from hpo.store.secrets import secret_names
from hpo.training.gang import Seat, free_address
from hpo.training.precision import Precision

# Where modules are found is taken over before anything is imported, and no script of the user's is run again: it needs
# no guard around its main part.
BEGIN = (
    "import sys; sys.path[:] = sys.argv[5:]; "
    "from hpo.runners.worker_process.parentage import belong_to; belong_to(int(sys.argv[4])); "
    "from hpo.runners.worker_process.service import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables that name the network by which the ranks of a gang talk."""
SECONDS_TO_END = 5.0
"""Time that processes which are asked to end have until they are killed."""


class RankProcess:
    """The process of one rank. It ends with its parent."""

    def __init__(self, name: str, start: Start, study: int, log: Path, environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            name: as it is told of.
            start: what it is told first.
            study: handle of the file that `Study.written` made.
            log: file to which what it prints is appended.
            environment: its variables.

        Raises:
            OSError: there is no memory, process or file to be had.
        """
        self._name, self._log = name, log
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        with theirs, log.open("ab") as stream:
            handles = (theirs.fileno(), study)
            self.process = Popen(
                [sys.executable, "-c", BEGIN, start.worker, *map(str, (*handles, os.getpid())), *sys.path],
                stdin=DEVNULL, stdout=stream, stderr=stream, pass_fds=handles, env=dict(environment),
            )  # fmt: skip
        self.send(start)

    @property
    def ended(self) -> bool:
        """Whether it is dead."""
        return self.process.poll() is not None

    @property
    def fell(self) -> bool:
        """Whether it died of itself, and not because another rank did, or it was told to end."""
        return self.process.poll() not in (None, 0, GANG_LOST)

    def send(self, message: object) -> None:
        """Say something; to a dead process, whose end is heard, nothing."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, at most so long."""
        with suppress(TimeoutExpired):
            self.process.wait(seconds)

    @property
    def fate(self) -> str:
        """How it ended, in a sentence."""
        code = self.process.poll()
        if code is None:
            return f"The process of {self._name} did not end."
        if code < 0:
            memory = ", as the kernel does where memory is short" if code == -signal.SIGKILL else ""
            how = f"was killed by signal {-code}{memory}"
        else:
            how = f"ended with exit status {code}"
        return f"The process of {self._name} {how}; its last words are in {self._log}."


class Child:
    """A worker in processes of its own. It trains on however late it is listened to, and ends with its parent."""

    def __init__(self, post: Post, study: int, logs: Path, precision: Precision | None, store: str) -> None:
        """Start it; it says that it is ready when its model is loaded, on all ranks.

        Args:
            post: its name, devices and threads.
            study: handle of the file that `Study.written` made.
            logs: folder of the files to which what its processes print is appended.
            precision: in which it computes; None where that is not yet chosen.
            store: URL of the store, whose password no process may find in its environment.

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
        self.processes: list[RankProcess] = []
        """By rank."""
        address = free_address() if post.ranks > 1 else ""
        try:
            for rank in range(post.ranks):
                start, environment = (
                    _start(post, rank, precision, address),
                    environment_of(post, rank, os.environ, store),
                )
                name = f"rank {rank} of worker {post.worker}" if post.ranks > 1 else f"worker {post.worker}"
                log = logs / (f"{post.worker}-rank-{rank}.log" if rank else f"{post.worker}.log")
                self.processes.append(RankProcess(name, start, study, log, environment))
        except OSError:
            if self.processes:
                self.kill("Not all of it can be started.")
                self.bury()
            raise

    @property
    def connections(self) -> list["Connection[Any, Any]"]:
        """Where it is heard, by rank: a rank above 0 says nothing, unless its worker cannot be opened."""
        return [one.connection for one in self.processes]

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
        """Say something to rank 0; where it is dead, which is heard, nothing."""
        self.processes[0].send(message)

    def heard(self) -> list[Said]:
        """Return what it has said of its trials, and take in what it has said of itself."""
        said: list[Said] = []
        # Asked first: what it had said before it ended is then in the connection.
        ended = self._killed_for is not None or any(one.ended for one in self.processes)
        self.over = ended
        for connection in self.connections:
            try:
                while connection.poll():
                    said += self._taken_in(connection.recv())
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
        for one in self.processes:
            one.process.kill()

    def bury(self, patience: float = SECONDS_TO_END) -> None:
        """Wait until all its processes have ended, killing them after `patience` seconds, and take down how it did."""
        fallen = self._fallen()
        until = time.monotonic() + patience
        for one in self.processes:
            # Where one has died of itself, nothing is to be expected of the others.
            one.wait(0.0 if fallen else max(0.0, until - time.monotonic()))
        fallen = fallen or self._fallen() or self.processes[0]
        self.fate = self._killed_for or fallen.fate
        for one in self.processes:
            if not one.ended:
                one.process.kill()
                # One that is stuck in a driver dies when the driver lets go of it; nobody waits for that.
                one.wait(SECONDS_TO_END)
            one.connection.close()

    def _fallen(self) -> RankProcess | None:
        return next((one for one in self.processes if one.fell), None)


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


def environment_of(post: Post, rank: int, inherited: Mapping[str, str], store: str) -> dict[str, str]:
    """Return the variables of a rank's process: set before it imports torch, without a password of the URL `store`."""
    secret = secret_names(inherited, store)
    kept = {name: value for name, value in inherited.items() if name not in secret}
    own = {"CUDA_VISIBLE_DEVICES": post.visible[rank], "OMP_NUM_THREADS": str(post.threads)}
    # A process that was forked off a tokenizer's threads would say so at length.
    own["TOKENIZERS_PARALLELISM"] = "false"
    # Trial after trial allocates other sizes: unless the user has chosen, no room is lost between them.
    kept.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # The ranks of a gang are all on this machine, whatever its name resolves to.
    return kept | own | (dict.fromkeys(INTERFACES, "lo") if post.ranks > 1 else {})


def _start(post: Post, rank: int, precision: Precision | None, address: str) -> Start:
    """Return what a process is told first; at `address` the ranks meet."""
    seat = Seat(rank=rank, ranks=post.ranks, address=address) if post.ranks > 1 else None
    device = "cuda:0" if post.visible[rank] else "cpu"
    return Start(
        worker=post.worker,
        device=device,
        threads=post.threads,
        precision=precision,
        seat=seat,
        gpu_share=post.gpu_share,
    )
