"""Workers over a carrier by script: started while wanted, named after where they are, replaced and left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from hpo.errors import ModelError, NoResultError, TrainingError
from hpo.messages import Action, Decision, Ending, Outcome
from hpo.runners import remote_workforce
from hpo.runners.processes.protocol import Answer, Arrived, Call, OpenFailed, Ready, Recycle
from hpo.runners.remote_workforce import (
    AWAITED,
    MOST_STARTS,
    MOST_UNPLACED,
    DesiredWorkers,
    RemoteWorkforce,
)
from hpo.runners.workforce import LossCause, Note, WorkerLost
from tests.models import tiny_assignment

HOST = "10.0.0.1/cpu"


@dataclass
class Script:
    """A carrier that remembers; a call is answered as soon as it is told, by the method's name."""

    room: int = 3
    wanted: DesiredWorkers = field(default_factory=DesiredWorkers)
    told: list[tuple[str, object]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    closed: bool = False
    answers: bool = True
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
def carrier() -> Script:
    return Script()


def ready(carrier: Script, workforce: RemoteWorkforce, worker: str, name: str = HOST, machine: str = "first") -> None:
    carrier.arrive(worker, name, machine)
    carrier.say(worker, Ready())
    workforce.listen(0)


def begun(carrier: Script, most: int | None = None) -> RemoteWorkforce:
    workforce = RemoteWorkforce(carrier, most=most, hang=60)
    ready(carrier, workforce, "lead")
    workforce.begin("fp32")
    return workforce


def completed(trial: int = 0) -> Outcome:
    return Outcome(trial=trial, attempt=1, ending=Ending.COMPLETED, seconds=1.0, peak_memory_bytes=0)


def test_one_worker_is_wanted_first_and_then_as_many_as_there_is_room_for(carrier: Script) -> None:
    workforce = RemoteWorkforce(carrier, most=None, hang=60)
    assert carrier.wanted == DesiredWorkers(workers=1)
    ready(carrier, workforce, "lead")
    workforce.begin("bf16")
    assert (carrier.wanted.workers, carrier.wanted.precision) == (float("inf"), "bf16")
    assert ("lead", Call(number=0, method="use", arguments=("bf16",))) in carrier.told
    assert workforce.size == 3


def test_no_more_workers_are_wanted_than_were_asked_for(carrier: Script) -> None:
    assert begun(carrier, most=2).size == 2
    assert carrier.wanted.workers == 2


def test_a_worker_says_how_many_slots_it_has(carrier: Script) -> None:
    workforce = begun(carrier)
    carrier.arrive("wide", "10.0.0.2/gpu-3")
    carrier.say("wide", Ready(slots=8))
    workforce.listen(0)
    assert [capacity.slots for capacity in workforce.capacities.values()] == [1, 8]


def test_a_worker_is_named_after_where_it_is(carrier: Script) -> None:
    workforce = begun(carrier)
    for worker, name in (("a", "10.0.0.1/gpu-3"), ("b", "10.0.0.1/gpu-3"), ("c", HOST)):
        ready(carrier, workforce, worker, name)
    assert list(workforce.capacities) == [HOST, "10.0.0.1/gpu-3", "10.0.0.1/gpu-3.1", f"{HOST}.1"]


def test_while_no_worker_is_there_one_is_awaited(carrier: Script) -> None:
    workforce = begun(carrier)
    carrier.say("lead", WorkerLost(reason="Its machine died."))
    assert workforce.listen(0) == [(HOST, WorkerLost(reason=f"The worker {HOST} is lost. Its machine died."))]
    assert list(workforce.workers) == [AWAITED]
    assert not workforce.capacities


def test_one_that_was_killed_is_told_with_the_reason_that_was_given(carrier: Script) -> None:
    workforce = begun(carrier)
    workforce.kill(HOST, "It said nothing.")
    assert carrier.killed == ["lead"]
    carrier.say("lead", WorkerLost(reason="Its process is gone."))
    assert workforce.listen(0) == [(HOST, WorkerLost(reason="It said nothing."))]


def test_one_whose_machine_is_gone_is_told_as_such(carrier: Script) -> None:
    workforce = begun(carrier)
    carrier.say("lead", WorkerLost(reason="Its machine is gone.", cause=LossCause.MACHINE))
    [(_, lost)] = workforce.listen(0)
    assert isinstance(lost, WorkerLost)
    assert lost.cause is LossCause.MACHINE


def test_a_worn_one_is_replaced_when_it_holds_nothing_and_nothing_is_lost(carrier: Script) -> None:
    workforce = begun(carrier)
    workforce.give(HOST, tiny_assignment())
    carrier.say("lead", Recycle())
    assert not workforce.listen(0)
    assert not carrier.killed
    assert not workforce.capacities
    carrier.say("lead", completed())
    assert workforce.listen(0) == [(HOST, completed())]
    assert carrier.killed == ["lead"]
    carrier.say("lead", WorkerLost(reason=""))
    assert not workforce.listen(0)


def test_a_worn_one_that_dies_with_what_it_holds_is_lost(carrier: Script) -> None:
    workforce = begun(carrier)
    workforce.give(HOST, tiny_assignment())
    carrier.say("lead", Recycle(), WorkerLost(reason="Its machine died."))
    assert workforce.listen(0) == [(HOST, WorkerLost(reason=f"The worker {HOST} is lost. Its machine died."))]


def test_one_that_is_left_out_gives_back_what_it_holds_and_is_not_heard(carrier: Script) -> None:
    workforce = begun(carrier)
    ready(carrier, workforce, "other", "10.0.0.2/cpu")
    workforce.give(HOST, tiny_assignment())
    carrier.say("lead", completed())
    workforce.discard(HOST)
    assert ("lead", Decision(trial=0, attempt=1, action=Action.PAUSE)) in carrier.told
    assert not workforce.listen(0)
    assert list(workforce.workers) == ["10.0.0.2/cpu"]
    assert (carrier.killed, carrier.left_out) == ([], ["lead"])


def test_one_that_is_left_out_and_gives_nothing_back_is_killed_before_others_train_it(
    carrier: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_workforce, "SECONDS_TO_GIVE_BACK", 0.05)
    workforce = begun(carrier)
    workforce.give(HOST, tiny_assignment())
    workforce.discard(HOST)
    assert carrier.killed == ["lead"]


def test_one_that_comes_where_another_was_left_out_is_left_out_too(carrier: Script) -> None:
    workforce = begun(carrier)
    workforce.discard(HOST)
    carrier.say("lead", WorkerLost(reason="It died."))
    ready(carrier, workforce, "lead again")
    assert not workforce.capacities
    assert list(workforce.workers) == [AWAITED]


def test_a_machine_that_comes_in_the_place_of_one_that_was_left_out_is_used(carrier: Script) -> None:
    workforce = begun(carrier)
    workforce.discard(HOST)
    carrier.say("lead", WorkerLost(reason="Its machine died."))
    ready(carrier, workforce, "lead again", machine="second")
    assert list(workforce.capacities) == [f"{HOST}.1"], "under another name: nobody has given it up"


def test_where_all_places_are_those_of_left_out_ones_none_is_awaited(carrier: Script) -> None:
    workforce = begun(carrier)
    ready(carrier, workforce, "other", "10.0.0.2/cpu")
    carrier.room = 2
    workforce.discard(HOST)
    carrier.say("other", WorkerLost(reason="It died."))
    workforce.listen(0)
    assert list(workforce.workers) == [AWAITED], "there is room for one in the place of the other"
    carrier.arrive("another", "10.0.0.2/cpu")
    carrier.say("another", OpenFailed(error=ModelError("There is no such model.")))
    workforce.listen(0)
    assert not workforce.workers
    with pytest.raises(ModelError, match="There is no such model"):
        workforce.lead.facts()
    carrier.room = 3
    assert list(workforce.workers) == [AWAITED], "a machine has joined"


def test_a_name_of_which_the_last_words_are_not_yet_heard_is_given_nothing(carrier: Script) -> None:
    workforce = begun(carrier)
    carrier.say("lead", WorkerLost(reason="It died."))
    carrier.arrive("next")
    carrier.say("next", Ready())
    with pytest.raises(TrainingError):
        workforce.lead.facts()
    assert workforce.lead.facts() == "facts"
    assert not workforce.capacities
    assert [type(said) for _, said in workforce.listen(0)] == [WorkerLost]
    assert list(workforce.capacities) == [HOST]


def test_one_that_cannot_be_opened_is_unfit_and_its_place_left_out(carrier: Script) -> None:
    workforce = begun(carrier, most=2)
    carrier.arrive("other", "10.0.0.2/cpu")
    carrier.say("other", OpenFailed(error=ModelError("There is no such model.")))
    assert workforce.listen(0) == [
        ("10.0.0.2/cpu", WorkerLost(cause=LossCause.UNUSABLE, reason="There is no such model."))
    ]
    assert carrier.left_out == ["other"]
    carrier.say("other", WorkerLost(reason="Its machine died."))
    assert not workforce.listen(0)


def test_what_the_first_cannot_open_is_refused(carrier: Script) -> None:
    workforce = RemoteWorkforce(carrier, most=None, hang=60)
    carrier.arrive("lead")
    carrier.say("lead", OpenFailed(error=ModelError("There is no such model.")))
    with pytest.raises(ModelError, match="no such model"):
        workforce.open_lead()


@pytest.mark.parametrize("arrives", [True, False])
def test_where_the_first_is_lost_again_and_again_it_is_not_waited_for(carrier: Script, arrives: bool) -> None:
    carrier.room = 1
    workforce = RemoteWorkforce(carrier, most=None, hang=60)
    for number in range(MOST_STARTS):
        if arrives:
            carrier.arrive(f"{number}")
        carrier.say(f"{number}", WorkerLost(reason="It died."))
    with pytest.raises(TrainingError, match=r"It died\. It was so at 3 starts in a row\."):
        workforce.open_lead()


def test_where_the_search_is_to_end_the_first_is_not_waited_for(carrier: Script) -> None:
    """As where a cluster has no room: for the deadline, a signal or `hpo stop`."""
    asked = iter([False, False, True])
    with pytest.raises(NoResultError, match="before its first worker was open"):
        RemoteWorkforce(carrier, most=None, hang=60).open_lead(lambda: next(asked))


def test_one_place_at_which_starts_fail_is_done_without_and_others_are_not(carrier: Script) -> None:
    workforce = begun(carrier)
    for number in range(MOST_STARTS):
        carrier.arrive(f"bad {number}", "10.0.0.2/gpu-0")
        carrier.say(f"bad {number}", WorkerLost(reason="It died."))
        ready(carrier, workforce, f"good {number}", f"10.0.0.1/gpu-{number}")
    assert len(workforce.capacities) == 1 + MOST_STARTS
    carrier.arrive("bad again", "10.0.0.2/gpu-0")
    workforce.listen(0)
    assert "10.0.0.2/gpu-0" not in workforce.workers


def test_workers_are_started_all_night_with_pauses_where_many_are_lost_before_they_come(
    carrier: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, notes = 1000.0, []
    monkeypatch.setattr(remote_workforce.time, "monotonic", lambda: now)
    workforce = begun(carrier)
    for number in range(2 * MOST_UNPLACED):
        carrier.say(f"{number}", WorkerLost(reason="It died."))
        notes += workforce.listen(0)
        assert carrier.wanted.not_before - now == min(2**number - 1, 60)
        assert carrier.wanted.workers == float("inf")
    assert notes == [(HOST, Note(sentence="A worker is lost. It died. It was so at 3 starts in a row."))]
    carrier.say("lead", WorkerLost(reason="It died."))
    carrier.say("another", WorkerLost(reason="It died."))
    with pytest.raises(TrainingError, match="starts in a row"):
        workforce.listen(0)


def test_one_that_is_not_open_in_time_is_killed(carrier: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(remote_workforce.time, "monotonic", lambda: now)
    workforce = begun(carrier)
    carrier.arrive("slow", "10.0.0.2/cpu")
    workforce.listen(0)
    now += 61
    workforce.listen(0)
    assert carrier.killed == ["slow"]


def test_a_call_goes_to_the_first_that_is_free_and_raises_where_that_is_lost(carrier: Script) -> None:
    workforce = begun(carrier)
    assert workforce.lead.facts() == "facts"
    carrier.answers = False
    carrier.say("lead", WorkerLost(reason="Its machine died."))
    with pytest.raises(TrainingError, match=r"lost when it was asked to facts: .* Its machine died\."):
        workforce.lead.facts()


def test_at_the_end_none_is_wanted_any_more(carrier: Script) -> None:
    begun(carrier).close()
    assert (carrier.closed, carrier.wanted.workers) == (True, 0)
