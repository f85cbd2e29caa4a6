"""Workers over a launcher by script: started while wanted, named after where they are, replaced and left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from hpo.errors import ModelError, NoResultError, TrainingError
from hpo.messages import Action, Decision, Ending, Outcome, WorkerSettings
from hpo.runners import remote_worker_pool
from hpo.runners.processes.protocol import Answer, Arrived, Call, OpenFailed, Ready, Recycle
from hpo.runners.remote_worker_pool import (
    AWAITED,
    LONGEST_IDLE_SECONDS,
    MOST_STARTS,
    MOST_UNPLACED,
    DesiredWorkers,
    RemoteWorkerPool,
)
from hpo.runners.worker_pool import LossCause, Note, WorkerLost
from tests.models import tiny_assignment

HOST = "10.0.0.1/cpu"


@dataclass
class Script:
    """A launcher that remembers; a call is answered as soon as it is told, by the method's name."""

    room: int = 3
    wanted: DesiredWorkers = field(default_factory=DesiredWorkers)
    told: list[tuple[str, object]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    closed: bool = False
    answers: bool = True
    is_shared: bool = False
    says: list[tuple[str, object]] = field(default_factory=list)

    def listen(self, _seconds: float) -> Sequence[tuple[str, object]]:
        said, self.says = self.says, []
        return said

    def tell(self, worker: str, message: object) -> None:
        self.told.append((worker, message))
        if isinstance(message, Call) and self.answers:
            self.says.append((worker, Answer(number=message.number, result=message.method)))

    def kill(self, worker: str) -> None:
        self.killed.append(worker)

    def leave_out(self, worker: str) -> None:
        self.left_out.append(worker)

    def close(self) -> None:
        self.closed = True

    # -- what workers say

    def say(self, worker: str, *messages: object) -> None:
        self.says += [(worker, message) for message in messages]

    def arrive(self, worker: str, name: str = HOST, machine: str = "first") -> None:
        self.say(worker, Arrived(name=name, device="cpu", place=f"{machine}/{name}"))


@pytest.fixture
def launcher() -> Script:
    return Script()


def ready(launcher: Script, pool: RemoteWorkerPool, worker: str, name: str = HOST, machine: str = "first") -> None:
    launcher.arrive(worker, name, machine)
    launcher.say(worker, Ready())
    pool.listen(0)


def begun(launcher: Script, most: int | None = None) -> RemoteWorkerPool:
    pool = RemoteWorkerPool(launcher, most=most, hang=60)
    ready(launcher, pool, "lead")
    pool.begin(WorkerSettings(precision="fp32"))
    return pool


def completed(trial: int = 0) -> Outcome:
    return Outcome(trial=trial, attempt=1, ending=Ending.COMPLETED, seconds=1.0, peak_memory_bytes=0)


def test_one_worker_is_wanted_first_and_then_as_many_as_there_is_room_for(launcher: Script) -> None:
    pool = RemoteWorkerPool(launcher, most=None, hang=60)
    assert launcher.wanted == DesiredWorkers(workers=1)
    ready(launcher, pool, "lead")
    settings = WorkerSettings(precision="bf16", slots=2, shared_tokens=96)
    pool.begin(settings)
    assert launcher.wanted == DesiredWorkers(workers=float("inf"), settings=settings)
    assert ("lead", Call(number=0, method="use", arguments=(settings,))) in launcher.told
    assert pool.size == 3


def test_no_more_workers_are_wanted_than_were_asked_for(launcher: Script) -> None:
    assert begun(launcher, most=2).size == 2
    assert launcher.wanted.workers == 2


def test_a_worker_says_how_many_slots_it_has(launcher: Script) -> None:
    pool = begun(launcher)
    launcher.arrive("wide", "10.0.0.2/gpu-3")
    launcher.say("wide", Ready(slots=8))
    pool.listen(0)
    assert [capacity.slots for capacity in pool.capacities.values()] == [1, 8]


def test_a_worker_is_named_after_where_it_is(launcher: Script) -> None:
    pool = begun(launcher)
    for worker, name in (("a", "10.0.0.1/gpu-3"), ("b", "10.0.0.1/gpu-3"), ("c", HOST)):
        ready(launcher, pool, worker, name)
    assert list(pool.capacities) == [HOST, "10.0.0.1/gpu-3", "10.0.0.1/gpu-3.1", f"{HOST}.1"]


def test_while_no_worker_is_there_one_is_awaited(launcher: Script) -> None:
    pool = begun(launcher)
    launcher.say("lead", WorkerLost(reason="Its machine died."))
    assert pool.listen(0) == [(HOST, WorkerLost(reason=f"The worker {HOST} is lost. Its machine died."))]
    assert list(pool.workers) == [AWAITED]
    assert not pool.capacities


def test_one_that_was_killed_is_told_with_the_reason_that_was_given(launcher: Script) -> None:
    pool = begun(launcher)
    pool.kill(HOST, "It said nothing.")
    assert launcher.killed == ["lead"]
    launcher.say("lead", WorkerLost(reason="Its process is gone."))
    assert pool.listen(0) == [(HOST, WorkerLost(reason="It said nothing."))]


def test_one_whose_machine_is_gone_is_told_as_such(launcher: Script) -> None:
    pool = begun(launcher)
    launcher.say("lead", WorkerLost(reason="Its machine is gone.", cause=LossCause.MACHINE))
    [(_, lost)] = pool.listen(0)
    assert isinstance(lost, WorkerLost)
    assert lost.cause is LossCause.MACHINE


def test_a_worn_one_is_replaced_when_it_holds_nothing_and_nothing_is_lost(launcher: Script) -> None:
    pool = begun(launcher)
    pool.give(HOST, tiny_assignment())
    launcher.say("lead", Recycle())
    assert not pool.listen(0)
    assert not launcher.killed
    assert not pool.capacities
    launcher.say("lead", completed())
    assert pool.listen(0) == [(HOST, completed())]
    assert launcher.killed == ["lead"]
    launcher.say("lead", WorkerLost(reason=""))
    assert not pool.listen(0)


def test_a_worn_one_that_dies_with_what_it_holds_is_lost(launcher: Script) -> None:
    pool = begun(launcher)
    pool.give(HOST, tiny_assignment())
    launcher.say("lead", Recycle(), WorkerLost(reason="Its machine died."))
    assert pool.listen(0) == [(HOST, WorkerLost(reason=f"The worker {HOST} is lost. Its machine died."))]


def test_one_that_is_left_out_gives_back_what_it_holds_and_is_not_heard(launcher: Script) -> None:
    pool = begun(launcher)
    ready(launcher, pool, "other", "10.0.0.2/cpu")
    pool.give(HOST, tiny_assignment())
    launcher.say("lead", completed())
    pool.discard(HOST)
    assert ("lead", Decision(trial=0, attempt=1, action=Action.PAUSE)) in launcher.told
    assert not pool.listen(0)
    assert list(pool.workers) == ["10.0.0.2/cpu"]
    assert (launcher.killed, launcher.left_out) == ([], ["lead"])


def test_one_that_is_left_out_and_gives_nothing_back_is_killed_before_others_train_it(
    launcher: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_worker_pool, "SECONDS_TO_GIVE_BACK", 0.05)
    pool = begun(launcher)
    pool.give(HOST, tiny_assignment())
    pool.discard(HOST)
    assert launcher.killed == ["lead"]


def test_one_that_comes_where_another_was_left_out_is_left_out_too(launcher: Script) -> None:
    pool = begun(launcher)
    pool.discard(HOST)
    launcher.say("lead", WorkerLost(reason="It died."))
    ready(launcher, pool, "lead again")
    assert not pool.capacities
    assert list(pool.workers) == [AWAITED]


def test_a_machine_that_comes_in_the_place_of_one_that_was_left_out_is_used(launcher: Script) -> None:
    pool = begun(launcher)
    pool.discard(HOST)
    launcher.say("lead", WorkerLost(reason="Its machine died."))
    ready(launcher, pool, "lead again", machine="second")
    assert list(pool.capacities) == [f"{HOST}.1"], "under another name: nobody has given it up"


def test_where_all_places_are_those_of_left_out_ones_none_is_awaited(launcher: Script) -> None:
    pool = begun(launcher)
    ready(launcher, pool, "other", "10.0.0.2/cpu")
    launcher.room = 2
    pool.discard(HOST)
    launcher.say("other", WorkerLost(reason="It died."))
    pool.listen(0)
    assert list(pool.workers) == [AWAITED], "there is room for one in the place of the other"
    launcher.arrive("another", "10.0.0.2/cpu")
    launcher.say("another", OpenFailed(error=ModelError("There is no such model.")))
    pool.listen(0)
    assert not pool.workers
    with pytest.raises(ModelError, match="There is no such model"):
        pool.lead.facts()
    launcher.room = 3
    assert list(pool.workers) == [AWAITED], "a machine has joined"


def test_a_name_of_which_the_last_words_are_not_yet_heard_is_given_nothing(launcher: Script) -> None:
    pool = begun(launcher)
    launcher.say("lead", WorkerLost(reason="It died."))
    launcher.arrive("next")
    launcher.say("next", Ready())
    with pytest.raises(TrainingError):
        pool.lead.facts()
    assert pool.lead.facts() == "facts"
    assert not pool.capacities
    assert [type(said) for _, said in pool.listen(0)] == [WorkerLost]
    assert list(pool.capacities) == [HOST]


def test_one_that_cannot_be_opened_is_unfit_and_its_place_left_out(launcher: Script) -> None:
    pool = begun(launcher, most=2)
    launcher.arrive("other", "10.0.0.2/cpu")
    launcher.say("other", OpenFailed(error=ModelError("There is no such model.")))
    assert pool.listen(0) == [("10.0.0.2/cpu", WorkerLost(cause=LossCause.UNUSABLE, reason="There is no such model."))]
    assert launcher.left_out == ["other"]
    launcher.say("other", WorkerLost(reason="Its machine died."))
    assert not pool.listen(0)


def test_what_the_first_cannot_open_is_refused(launcher: Script) -> None:
    pool = RemoteWorkerPool(launcher, most=None, hang=60)
    launcher.arrive("lead")
    launcher.say("lead", OpenFailed(error=ModelError("There is no such model.")))
    with pytest.raises(ModelError, match="no such model"):
        pool.open_lead()


@pytest.mark.parametrize("arrives", [True, False])
def test_where_the_first_is_lost_again_and_again_it_is_not_waited_for(launcher: Script, arrives: bool) -> None:
    launcher.room = 1
    pool = RemoteWorkerPool(launcher, most=None, hang=60)
    for number in range(MOST_STARTS):
        if arrives:
            launcher.arrive(f"{number}")
        launcher.say(f"{number}", WorkerLost(reason="It died."))
    with pytest.raises(TrainingError, match=r"It died\. This happened at 3 starts in a row\."):
        pool.open_lead()


def test_where_the_search_is_to_end_the_first_is_not_waited_for(launcher: Script) -> None:
    """As where a cluster has no room: for the deadline, a signal or `hpo stop`."""
    asked = iter([False, False, True])
    with pytest.raises(NoResultError, match="before its first worker was open"):
        RemoteWorkerPool(launcher, most=None, hang=60).open_lead(lambda: next(asked))


def test_one_place_at_which_starts_fail_is_done_without_and_others_are_not(launcher: Script) -> None:
    pool = begun(launcher)
    for number in range(MOST_STARTS):
        launcher.arrive(f"bad {number}", "10.0.0.2/gpu-0")
        launcher.say(f"bad {number}", WorkerLost(reason="It died."))
        ready(launcher, pool, f"good {number}", f"10.0.0.1/gpu-{number}")
    assert len(pool.capacities) == 1 + MOST_STARTS
    launcher.arrive("bad again", "10.0.0.2/gpu-0")
    pool.listen(0)
    assert "10.0.0.2/gpu-0" not in pool.workers


def test_workers_are_started_all_night_with_pauses_where_many_are_lost_before_they_come(
    launcher: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, notes = 1000.0, []
    monkeypatch.setattr(remote_worker_pool.time, "monotonic", lambda: now)
    pool = begun(launcher)
    for number in range(2 * MOST_UNPLACED):
        launcher.say(f"{number}", WorkerLost(reason="It died."))
        notes += pool.listen(0)
        assert launcher.wanted.not_before - now == min(2**number - 1, 60)
        assert launcher.wanted.workers == float("inf")
    assert notes == [(HOST, Note(sentence="A worker is lost. It died. This happened at 3 starts in a row."))]
    launcher.say("lead", WorkerLost(reason="It died."))
    launcher.say("another", WorkerLost(reason="It died."))
    with pytest.raises(TrainingError, match="starts in a row"):
        pool.listen(0)


def test_on_a_cluster_a_worker_that_has_long_nothing_to_train_is_ended_while_others_train(
    launcher: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(remote_worker_pool.time, "monotonic", lambda: now)
    launcher.is_shared = True
    pool = begun(launcher)
    ready(launcher, pool, "other", "10.0.0.2/gpu-0")
    now += LONGEST_IDLE_SECONDS + 1
    pool.listen(0)
    assert not launcher.killed, "none trains"
    pool.give(HOST, tiny_assignment())
    pool.listen(0)
    assert (launcher.killed, launcher.wanted.workers, list(pool.capacities)) == (["other"], 1, [HOST])
    launcher.say("other", WorkerLost(reason="Its process is gone."))
    assert not pool.listen(0), "nobody is told: it was nobody's fault"
    launcher.say("lead", completed())
    pool.listen(0)
    pool.give(HOST, tiny_assignment())
    assert launcher.wanted.workers == float("inf"), "there may be more again"


def test_a_worker_that_answers_a_long_call_is_not_idle(launcher: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(remote_worker_pool.time, "monotonic", lambda: now)
    pool = begun(launcher)
    launcher.is_shared, launcher.answers = True, False
    ready(launcher, pool, "other", "10.0.0.2/gpu-0")
    pool.give("10.0.0.2/gpu-0", tiny_assignment())
    listened = []

    def listen(_seconds: float) -> Sequence[tuple[str, object]]:
        nonlocal now
        now += LONGEST_IDLE_SECONDS
        listened.append(now)
        [*_, call] = [message for worker, message in launcher.told if worker == "lead" and isinstance(message, Call)]
        return [("lead", Answer(number=call.number, result="scored"))] if len(listened) == 3 else []

    monkeypatch.setattr(launcher, "listen", listen)
    assert pool.lead.baseline("tfidf", ()) == "scored"
    assert not launcher.killed


def test_one_that_is_not_open_in_time_is_killed(launcher: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(remote_worker_pool.time, "monotonic", lambda: now)
    pool = begun(launcher)
    launcher.arrive("slow", "10.0.0.2/cpu")
    pool.listen(0)
    now += 61
    pool.listen(0)
    assert launcher.killed == ["slow"]


def test_a_call_goes_to_the_first_that_is_free_and_raises_where_that_is_lost(launcher: Script) -> None:
    pool = begun(launcher)
    assert pool.lead.facts() == "facts"
    launcher.answers = False
    launcher.say("lead", WorkerLost(reason="Its machine died."))
    with pytest.raises(TrainingError, match=r"lost during a call of facts: .* Its machine died\."):
        pool.lead.facts()


def test_at_the_end_none_is_wanted_any_more(launcher: Script) -> None:
    begun(launcher).close()
    assert (launcher.closed, launcher.wanted.workers) == (True, 0)
