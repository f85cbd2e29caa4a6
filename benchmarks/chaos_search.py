"""Search process: the command `hpo run` under given conditions; run as a script, the module is that process.

Nothing of hpo is imported before the clock is put wrong: what takes its clock as a default takes it then.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from psutil import _pslinux

if TYPE_CHECKING:
    from hpo.config.study_file import StudyConfig
    from hpo.runners.processes.protocol import Opener


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is otherwise than in an ordinary `hpo run`."""

    begins_with: str = ""
    """File that it waits for when all is imported, so that it begins at once when it is to."""
    timed: bool = False
    """Whether its workers train nothing, and take as long as the study's files say."""
    lease_seconds: float = 30.0
    """How long a lease runs."""
    clock_off: float = 0.0
    """Seconds by which the clock of the machine is ahead, as this process sees it."""
    right_with: str = ""
    """File with which the clock is put right."""
    stops_with: str = ""
    """File with which the process stops, as by SIGSTOP, in the middle of the next transaction that begins a trial."""


ORDINARY = Conditions()


@dataclass(frozen=True, slots=True)
class Search:
    """A search that was started."""

    process: subprocess.Popen[bytes]
    conditions: Conditions
    log: Path
    """What it wrote on both of its streams."""

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def said(self) -> str:
        """What it has said."""
        return " ".join(self.log.read_text(errors="replace").split())

    def comes_to(self, reached: Callable[[], bool], seconds: float = 120.0) -> bool:
        """Wait until something is so; return whether it was while the search lived."""
        until = time.monotonic() + seconds
        while self.lives and time.monotonic() < until:
            if reached():
                return True
            time.sleep(0.1)
        return False

    def ends(self, seconds: float = 180.0) -> int:
        """Return its exit status; -9 where it has not ended by itself after so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def searching(
    config: "StudyConfig",
    folder: Path,
    name: str = "search",
    conditions: Conditions = ORDINARY,
    *,
    environment: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> Iterator[Search]:
    """Start a search, and kill it at the end of the block where it has not ended.

    Args:
        config: the study.
        folder: its working folder, in which `NAME.txt` is what it says.
        name: of this start.
        conditions: its files are in `folder`.
        environment: variables over those of this process.
        before: words before its command, such as those of `faketime`.
    """
    study, log = folder / f"{name}.json", folder / f"{name}.txt"
    study.write_text(config.model_dump_json())
    given = json.dumps(asdict(conditions))
    command = [*before, sys.executable, __file__, given, "run", str(study), "--output", f"{name}.yaml"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            env=os.environ | (environment or {}),
        )  # fmt: skip
    try:
        yield Search(process, conditions, log)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Search as `hpo` does, under the conditions that are the first argument."""
    conditions = Conditions(**json.loads(sys.argv.pop(1)))
    if conditions.clock_off:
        put_clock(conditions.clock_off, conditions.right_with)
    import chaos_material as material

    from hpo.cli.main import main as command
    from hpo.runners import run as runner
    from hpo.runners.processes.launcher import open_processes
    from hpo.store import leases
    from hpo.store.trials import Attempts

    if conditions.timed:
        # It has all that is asked of it, and no weights, so it never reads the test split.
        opener = partial(open_processes, opener=cast("Opener", material.open_timed))
        runner.OPENERS = {"processes": opener}
    leases.LEASE_SECONDS, leases.RENEWAL_SECONDS = conditions.lease_seconds, conditions.lease_seconds / 3
    if conditions.stops_with:
        stop_in_transaction(Attempts, Path(conditions.stops_with))
    while conditions.begins_with and not Path(conditions.begins_with).exists():
        time.sleep(0.02)
    command()


def put_clock(ahead: float, right_with: str) -> None:
    """Put this process's clock forward, and with it when the machine was started, as the kernel tells it."""
    clock, started = time.time, _pslinux.boot_time

    def off() -> float:
        return 0.0 if right_with and os.path.exists(right_with) else ahead

    time.time = lambda: clock() + off()
    _pslinux.boot_time = lambda: started() + off()


def stop_in_transaction(attempts: Any, with_file: Path) -> None:
    """Stop this process where it has begun an attempt and not committed it, once the file is there."""
    original = attempts.begin

    def begin(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        if with_file.exists():
            os.kill(os.getpid(), signal.SIGSTOP)

    attempts.begin = begin


if __name__ == "__main__":
    main()
