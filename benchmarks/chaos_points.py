"""Kill points: named points of a search at which a process kills itself, as by `kill -9`, on a seeded schedule.

Each process takes a free line of its schedule when it starts: a point, and at which time that it comes by there it
dies. Whom the schedule has no line for lives. What finished is written down independently of the store.
"""

import fcntl
import hashlib
import json
import os
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.distributed.rank_group import RankInfo
from hpo.files import checkpoints
from hpo.files.checkpoints import Checkpoints
from hpo.messages import Ending, Outcome
from hpo.search.coordinator import Coordinator
from hpo.store.trials import Attempts
from hpo.training.run import Run
from hpo.training.worker import Worker, open_worker

FOLDER = "chaos"
"""Below the study's files, since that is all that a worker is told."""
STEPS_BETWEEN_CHECKPOINTS = 5
# Point -> the fewest and the most times that a process comes by before it dies there: some trials are trained to their
# end in between, since one with which a process dies three times running is rightly given up.
OF_WORKERS: Mapping[str, tuple[int, int]] = {
    "after the ask": (2, 3),
    "in a step": (45, 110),
    "while saving": (100, 400),
    "after saving": (9, 22),
    "before the finish": (2, 3),
}
OF_LEADERS: Mapping[str, tuple[int, int]] = {
    "after the ask": (3, 6),
    "in a transaction": (4, 12),
    "before the finish": (2, 4),
    "after the finish": (2, 4),
}


def write_schedule(folder: Path, who: str, points: Mapping[str, tuple[int, int]], kills: int, seed: int) -> None:
    """Write the schedule of `who`, its points in turns, a file for each kill."""
    drawn = random.Random(seed)
    names = list(points)
    for number in range(kills):
        name = names[number % len(names)]
        (folder / f"{who}-{number:03d}.json").write_text(json.dumps((name, drawn.randint(*points[name]))))


def killed(folder: Path, who: str) -> list[str]:
    """Return the points at which `who` was killed."""
    return [path.read_text() for path in folder.glob(f"{who}-*.killed")]


class Doom:
    """A process's line of the schedule, held while it lives: one that dies of something else leaves it to the next."""

    def __init__(self, folder: Path, who: str) -> None:
        """Take the first line that nobody has died by and nobody holds, if there is one."""
        self._point, self._left = "", 0
        for path in sorted(folder.glob(f"{who}-*.json")):
            killed = path.with_suffix(".killed")
            held = path.open("r+")
            try:
                fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.close()
                continue
            if killed.exists():
                held.close()
                continue
            self._held, self._killed = held, killed
            self._point, self._left = json.load(held)
            return

    def passes(self, point: str) -> None:
        """Die here, if it is the point and the time."""
        if self._point != point:
            return
        self._left -= 1
        if self._left == 0:
            self._killed.write_text(point)
            os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, told: Callable[[], None]) -> None:
    """Have `told` called before each call of a method."""
    original = getattr(owner, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        told()
        return original(*args, **kwargs)

    setattr(owner, name, method)


def after(owner: Any, name: str, told: Callable[..., None]) -> None:
    """Have `told` called with the result and the arguments after each call of a method."""
    original = getattr(owner, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        told(result, *args[1:])
        return result

    setattr(owner, name, method)


def note(path: Path, **line: Any) -> None:
    """Add a line to a ledger that is on the disk before this returns."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, json.dumps(line).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def ledger(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ledger."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def open_doomed(
    config: StudyConfig, splits: Splits, files: Path, *, device: torch.device, shared: bool, rank_info: RankInfo | None
) -> Worker:
    """Open a real worker that often writes a checkpoint, writes down what it finished, and dies by its schedule."""
    folder = files / FOLDER
    doom = Doom(folder, "worker")
    worker = open_worker(config, splits, files, device=device, shared=shared, rank_info=rank_info)
    step = 0

    def is_due(*_: object) -> bool:
        nonlocal step
        step += 1
        return step % STEPS_BETWEEN_CHECKPOINTS == 0

    def finished(messages: Any, *_: object) -> None:
        for outcome in (message for message in messages if isinstance(message, Outcome)):
            if outcome.ending is Ending.COMPLETED:
                assert outcome.best is not None
                note(
                    folder / "trained.jsonl",
                    trial=outcome.trial,
                    weights=digest(worker._context.model.network.state_dict()),
                    loss=outcome.best.validation.values["loss"],
                    resumed=outcome.resumed_examples,
                )
            doom.passes("before the finish")

    Checkpoints.is_due = is_due  # type: ignore[method-assign,assignment]
    after(Worker, "admit", lambda *_: doom.passes("after the ask"))
    before(Run, "advance", lambda: doom.passes("in a step"))
    before(checkpoints._HashingFile, "write", lambda: doom.passes("while saving"))
    after(Checkpoints, "save", lambda *_: doom.passes("after saving"))
    after(Worker, "advance", finished)
    return worker


def doom_leader(folder: Path) -> None:
    """Have this process, which is to lead, die by its schedule, and write down what it was told is stored."""
    doom = Doom(folder, "leader")
    after(Coordinator, "next_assignment", lambda *_: doom.passes("after the ask"))
    after(Attempts, "begin", lambda *_: doom.passes("in a transaction"))
    after(Attempts, "end", lambda *_: doom.passes("in a transaction"))
    before(Coordinator, "finish", lambda: doom.passes("before the finish"))

    def finished(_: object, outcome: Outcome) -> None:
        if outcome.ending is Ending.COMPLETED and outcome.best is not None:
            score = outcome.best.validation.objective
            note(folder / "stored.jsonl", trial=outcome.trial, score=score)
        doom.passes("after the finish")

    after(Coordinator, "finish", finished)


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a digest of weights, to the last bit."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
