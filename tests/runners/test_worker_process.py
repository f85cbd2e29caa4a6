"""The service of a worker process, in this process: what it does with its messages, and in which order."""

import dataclasses
import itertools
import pickle
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hpo import errors
from hpo.errors import HpoError, ModelError, TrainingError
from hpo.messages import Action, Assignment, Decision, Ending, Outcome
from hpo.metrics.metric import SelectionMetric
from hpo.metrics.own_metric import OwnMetric
from hpo.runners.processes.protocol import Answer, Call, End, Recycle
from hpo.runners.processes.worker_process import Inbox, MessageSender, Service
from tests.models import tiny_assignment
from tests.runners.openers import SENTENCE, Counting


class Served(Counting):
    """A worker that hears each message in the middle of a trial: before so many advances."""

    def __init__(self, files: Path, inbox: Inbox, told: dict[int, list[Any]]) -> None:
        super().__init__(files, threads=1)
        self._inbox, self._told, self._advances = inbox, told, itertools.count(1)
        self.admitted: list[Assignment] = []

    def admit(self, assignment: Assignment) -> None:
        self.admitted.append(assignment)
        super().admit(assignment)

    def advance(self, should_return: Callable[[], bool]) -> Any:
        for message in self._told.get(next(self._advances), ()):
            self._inbox.take(message)
        return super().advance(should_return)

    @property
    def metric(self) -> SelectionMetric:
        own = OwnMetric(spec="mine:best", function=lambda: 1, parameters=frozenset())
        return SelectionMetric(name="mine:best", positive=None, note="Mine.", own=own)


def trial(number: int, seed: int = 3) -> Assignment:
    return tiny_assignment(trial=number, seed=seed)


def decided(number: int, action: Action, attempt: int = 1) -> Decision:
    return Decision(trial=number, attempt=attempt, action=action)


def served(files: Path, told: dict[int, list[Any]]) -> tuple[list[Any], Served]:
    """Serve until all that is `told` is done; return what was said beside progress. `told[0]` is there at first."""
    said: list[Any] = []
    to_do = [one for messages in told.values() for one in messages if isinstance(one, Assignment | Call)]

    def say(message: Any) -> None:
        if isinstance(message, Outcome | Answer | Recycle):
            said.append(message)
        if len(said) == len(to_do):
            inbox.take(End())

    inbox = Inbox(say)
    worker = Served(files, inbox, told)
    service = Service(worker, inbox, say)
    for message in told.get(0, ()):
        inbox.take(message)
    service.run()
    return said, worker


def ends(said: list[Any]) -> list[tuple[int, Ending]]:
    return [(one.trial, one.ending) for one in said if isinstance(one, Outcome)]


def test_assignments_are_trained_one_after_the_other_in_their_order(tmp_path: Path):
    said, worker = served(tmp_path, {0: [trial(4), trial(2)], 2: [trial(7)]})
    assert ends(said) == [(number, Ending.COMPLETED) for number in (4, 2, 7)]
    assert [one.trial for one in worker.admitted] == [4, 2, 7]


def test_a_pause_of_what_is_not_begun_gives_it_back_at_once(tmp_path: Path):
    said, worker = served(tmp_path, {0: [trial(0), trial(1), trial(2)], 2: [decided(1, Action.PAUSE)]})
    assert ends(said) == [(1, Ending.PAUSED), (0, Ending.COMPLETED), (2, Ending.COMPLETED)]
    assert said[0].seconds == 0
    assert [one.trial for one in worker.admitted] == [0, 2]


def test_a_pause_of_what_is_in_training_ends_it_at_its_next_step(tmp_path: Path):
    said, _ = served(tmp_path, {0: [trial(0, seed=9)], 4: [decided(0, Action.PAUSE)]})
    assert ends(said) == [(0, Ending.PAUSED)]
    assert said[0].seconds == 4


def test_a_stop_of_what_is_not_begun_gives_it_back_at_once(tmp_path: Path):
    said, _ = served(tmp_path, {0: [trial(0), trial(1, seed=9)], 2: [decided(1, Action.STOP)]})
    assert ends(said) == [(1, Ending.PRUNED), (0, Ending.COMPLETED)]
    assert said[0].seconds == 0


def test_a_decision_about_another_attempt_leaves_what_waits(tmp_path: Path):
    said, _ = served(tmp_path, {0: [trial(0), trial(1)], 2: [decided(1, Action.PAUSE, attempt=2)]})
    assert (1, Ending.COMPLETED) in ends(said)


def test_a_call_is_answered_when_nothing_is_in_training(tmp_path: Path):
    call = Call(number=5, method="facts", arguments=())
    said, _ = served(tmp_path, {0: [trial(0), trial(1)], 1: [call]})
    assert [type(one).__name__ for one in said] == ["Outcome", "Outcome", "Answer"]
    assert said[-1].result["threads"] == "1"


def test_a_call_that_raises_is_answered_with_the_error(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    calls = [Call(number=1, method="measure", arguments=(8,)), Call(number=2, method="cut_share", arguments=(8,))]
    said, _ = served(tmp_path, {0: calls})
    assert [type(one.error) for one in said] == [ModelError, TrainingError]
    assert [str(one.error) for one in said] == [SENTENCE, "Unportable: 8 of reasons"]
    # Only what nobody foresaw leaves a traceback in the process's log.
    assert [record.message for record in caplog.records] == ["cut_share failed."]


def test_a_function_of_the_users_own_stays_where_it_is_called(tmp_path: Path):
    said, _ = served(tmp_path, {0: [Call(number=1, method="metric", arguments=())]})
    assert said[0].result == SelectionMetric(name="mine:best", positive=None, note="Mine.")


def test_a_process_with_a_broken_gpu_gives_all_back_and_asks_to_be_replaced(tmp_path: Path):
    (tmp_path / "broken-gpu").touch()
    said, worker = served(tmp_path, {0: [trial(0), trial(1), trial(2)]})
    assert ends(said) == [(0, Ending.FAILED), (1, Ending.PAUSED), (2, Ending.PAUSED)]
    assert isinstance(said[-1], Recycle)
    assert [one.trial for one in worker.admitted] == [0]


def test_what_comes_to_a_worn_process_is_given_back_as_it_comes():
    said: list[Any] = []
    inbox = Inbox(said.append)
    inbox.close()
    inbox.take(trial(3))
    assert ends(said) == [(3, Ending.PAUSED)]


def test_told_to_end_it_leaves_what_it_trains_and_what_waits(tmp_path: Path):
    said, _ = served(tmp_path, {0: [trial(0, seed=100), trial(1)], 3: [End()]})
    assert said == []


def test_speaking_waits_for_nobody_and_keeps_the_order():
    ours, theirs = socket.socketpair()
    heard, speaking = Connection(ours.detach()), Connection(theirs.detach())
    sender = MessageSender(speaking)
    # Far more than the connection takes in while nobody listens.
    for number in range(20):
        sender.send((number, bytes(2**20)))
    closing = Thread(target=sender.close)
    closing.start()
    assert [heard.recv()[0] for _ in range(20)] == list(range(20))
    closing.join()
    heard.close()
    speaking.close()


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HpoError)]
)
def test_every_error_goes_from_process_to_process_as_it_is(kind: type[HpoError]):
    error = pickle.loads(pickle.dumps(kind("A sentence.")))
    assert (type(error), str(error), error.exit_code) == (kind, "A sentence.", kind.exit_code)


def test_messages_go_from_process_to_process_as_they_are():
    assignment = trial(0)
    assert pickle.loads(pickle.dumps(assignment)) == assignment
    outcome = Outcome(trial=0, attempt=1, ending=Ending.DIED, seconds=1.0, peak_memory_bytes=1)
    assert pickle.loads(pickle.dumps(outcome)) == outcome
    assert dataclasses.asdict(pickle.loads(pickle.dumps(decided(0, Action.STOP))))["action"] is Action.STOP
