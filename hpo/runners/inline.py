"""Trains trials in this process, in as many slots as its worker has."""

import uuid
from threading import Event

from hpo.messages import Action, Capacity, Decision, Outcome, Progress, Report
from hpo.runners.watcher import Watcher
from hpo.search.coordinator import Coordinator
from hpo.training.worker import Worker


def run(coordinator: Coordinator, worker: Worker, watcher: Watcher, stop: Event) -> None:
    """Train trials until the budget is spent, or until `stop` is set and what was running is paused."""
    running: dict[int, int] = {}
    while True:
        while worker.free_slots and not stop.is_set() and _admit_next(coordinator, worker, watcher, running):
            pass
        if worker.idle:
            return
        if stop.is_set():
            for trial, attempt in running.items():
                worker.apply(Decision(trial=trial, attempt=attempt, action=Action.PAUSE))
        for message in worker.advance():
            match message:
                case Report():
                    decision = coordinator.observe(message)
                    worker.apply(decision)
                    watcher.reported(message, decision)
                case Outcome():
                    coordinator.finish(message)
                    running.pop(message.trial)
                    worker.keep_weights(running.keys() | _winner(coordinator))
                    watcher.ended(message)
                case Progress():
                    watcher.progressed(message)


def _winner(coordinator: Coordinator) -> set[int]:
    winner = coordinator.winner()
    return set() if winner is None else {winner.trial}


def _admit_next(coordinator: Coordinator, worker: Worker, watcher: Watcher, running: dict[int, int]) -> bool:
    """Fill a free slot; False if there is nothing left to train."""
    assignment = coordinator.next_assignment(uuid.uuid4().hex, Capacity(worker="inline-0", device=worker.device))
    if assignment is None:
        return False
    running[assignment.trial] = assignment.attempt
    worker.admit(assignment)
    watcher.assigned(assignment)
    return True
