"""A leader that dies as by `kill -9` in the middle of a transaction; run in a process of its own."""

import os
import signal
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from typing import Any

from hpo.errors import StudyLedError
from hpo.store.study_store import StudyStore
from hpo.store.trials import Attempts, Trials
from tests.search.scripted import led, search, study_at


def search_until(url: str, method: str, calls: int) -> None:
    """Lead the study at `url` and die at the end of the `calls`-th call of a method of the store or its parts."""
    owner = next(part for part in (StudyStore, Attempts, Trials) if hasattr(part, method))
    original = getattr(owner, method)
    left = calls

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        result = original(*args, **kwargs)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, deadly)
    with led(study_at(url)) as coordinator:
        search(coordinator)


def lead_until(url: str, start: Event, stop: Event, answers: "Queue[str]") -> None:
    """Try to lead the study at `url` as soon as `start` is set, say how that went, and lead until `stop` is set."""
    start.wait(60)
    try:
        with led(study_at(url)):
            answers.put("leads")
            stop.wait(60)
    except StudyLedError as error:
        answers.put(str(error))
