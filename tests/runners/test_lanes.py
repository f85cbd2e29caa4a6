"""Lanes of a cluster: opened while there is room and use for them, named after where they are, replaced when lost."""

from dataclasses import dataclass, field

import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ModelError, TrainingError
from hpo.messages import Action, Assignment, Decision, Ending, Milestone, Outcome
from hpo.runners import lanes
from hpo.runners.lanes import AWAITED, MOST_RESTARTS, MOST_STARTS, Arrived, Broken, Fell, Gone, LaneWorkforce
from hpo.runners.worker_process.conversation import Answer, Call, End, Ready, Refused, Worn
from hpo.runners.workforce import Lost, Note, Unfit


@dataclass
class Cluster:
    """A carrier that remembers; a call is answered as soon as it is told, by the method's name."""

    told: list[tuple[str, object]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    workforce: LaneWorkforce | None = None
    answers: bool = True

    def tell(self, lane: str, message: object) -> None:
        self.told.append((lane, message))
        if isinstance(message, Call) and self.answers and self.workforce is not None:
            self.workforce.said(lane, Answer(number=message.number, result=message.method))

    def kill(self, lane: str) -> None:
        self.killed.append(lane)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def workforce_on(cluster: Cluster, *, most: int | None = None) -> LaneWorkforce:
    cluster.workforce = LaneWorkforce(cluster, room=3, most=most, hang=60)
    return cluster.workforce


def arrive(workforce: LaneWorkforce, lane: str, host: str = "10.0.0.1", gpus: tuple[str, ...] = ()) -> None:
    workforce.opened(lane)
    workforce.said(lane, Arrived(host=host, gpus=gpus, ranks=1))


def be_ready(workforce: LaneWorkforce, lane: str, host: str = "10.0.0.1", gpus: tuple[str, ...] = ()) -> None:
    arrive(workforce, lane, host, gpus)
    workforce.said(lane, Ready())
    workforce.listen(0)


def begun(cluster: Cluster, most: int | None = None) -> LaneWorkforce:
    workforce = workforce_on(cluster, most=most)
    be_ready(workforce, "lead")
    workforce.begin("fp32")
    return workforce


def an_assignment(trial: int = 0) -> Assignment:
    return Assignment(
        trial=trial,
        attempt=1,
        hyperparameters=Hyperparameters(),
        seed=0,
        milestones=(Milestone(rung=1000, full=True),),
        maximum_passes=1.0,
    )


def an_outcome(trial: int = 0) -> Outcome:
    return Outcome(trial=trial, attempt=1, ending=Ending.COMPLETED, seconds=1.0, peak_memory_bytes=0)


def test_one_lane_is_opened_first_and_then_one_more_than_there_is_room_for(cluster: Cluster) -> None:
    workforce = workforce_on(cluster)
    assert workforce.wants_lane(room=3)
    be_ready(workforce, "lead")
    assert not workforce.wants_lane(room=3)
    workforce.begin("fp32")
    for number in range(3):
        assert workforce.wants_lane(room=3)
        workforce.opened(f"lane {number}")
    assert not workforce.wants_lane(room=3)
    assert workforce.wants_lane(room=4), "a machine has joined"


def test_no_more_lanes_are_opened_than_were_asked_for(cluster: Cluster) -> None:
    workforce = begun(cluster, most=2)
    assert workforce.wants_lane(room=9)
    workforce.opened("second")
    assert not workforce.wants_lane(room=9)


def test_a_lane_is_opened_in_the_precision_that_was_chosen(cluster: Cluster) -> None:
    workforce = workforce_on(cluster)
    assert workforce.precision is None
    be_ready(workforce, "lead")
    workforce.begin("bf16")
    assert workforce.precision == "bf16"
    assert ("lead", Call(number=0, method="use", arguments=("bf16",))) in cluster.told


def test_a_worker_is_named_after_where_it_is(cluster: Cluster) -> None:
    workforce = begun(cluster)
    be_ready(workforce, "a", gpus=("3",))
    be_ready(workforce, "b", gpus=("3",))
    be_ready(workforce, "c", host="10.0.0.2")
    be_ready(workforce, "d", host="10.0.0.2")
    assert list(workforce.capacities) == [
        "10.0.0.1/cpu-0", "10.0.0.1/gpu-3", "10.0.0.1/gpu-3.1", "10.0.0.2/cpu-0", "10.0.0.2/cpu-1",
    ]  # fmt: skip
    assert workforce.capacities["10.0.0.1/gpu-3"].device == "cuda:3"


def test_while_no_lane_is_there_one_is_awaited(cluster: Cluster) -> None:
    workforce = begun(cluster)
    workforce.said("lead", Gone(reason="Its machine died."))
    lost = Lost(reason="The worker 10.0.0.1/cpu-0 is lost. Its machine died.")
    assert workforce.listen(0) == [("10.0.0.1/cpu-0", lost)]
    assert list(workforce.workers) == [AWAITED]
    assert not workforce.capacities


def test_one_that_was_killed_is_told_with_the_reason_that_was_given(cluster: Cluster) -> None:
    workforce = begun(cluster)
    workforce.kill("10.0.0.1/cpu-0", "It said nothing.")
    assert cluster.killed == ["lead"]
    workforce.said("lead", Gone(reason="Its process is gone."))
    assert workforce.listen(0) == [("10.0.0.1/cpu-0", Lost(reason="It said nothing."))]


def test_one_that_fell_says_why(cluster: Cluster) -> None:
    workforce = begun(cluster)
    workforce.said("lead", Fell(reason="GangLost: rank 1 is gone"))
    workforce.said("lead", Gone(reason="It has ended."))
    ((_, lost),) = workforce.listen(0)
    assert lost == Lost(reason="The worker 10.0.0.1/cpu-0 fell: GangLost: rank 1 is gone.")


def test_a_worn_one_is_replaced_when_it_holds_nothing_and_nothing_is_lost(cluster: Cluster) -> None:
    workforce = begun(cluster)
    workforce.give("10.0.0.1/cpu-0", an_assignment())
    workforce.said("lead", Worn())
    assert not workforce.listen(0)
    assert not cluster.killed
    assert not workforce.capacities
    workforce.said("lead", an_outcome())
    assert workforce.listen(0) == [("10.0.0.1/cpu-0", an_outcome())]
    assert cluster.killed == ["lead"]
    workforce.said("lead", Gone(reason=""))
    assert not workforce.listen(0)


def test_one_that_is_left_out_keeps_its_place_and_is_not_heard(cluster: Cluster) -> None:
    workforce = begun(cluster, most=2)
    be_ready(workforce, "other", host="10.0.0.2")
    workforce.give("10.0.0.1/cpu-0", an_assignment())
    workforce.said("lead", an_outcome())
    workforce.discard("10.0.0.1/cpu-0")
    assert ("lead", Decision(trial=0, attempt=1, action=Action.PAUSE)) in cluster.told
    assert not workforce.listen(0)
    assert list(workforce.workers) == ["10.0.0.2/cpu-0"]
    assert not cluster.killed
    assert not workforce.wants_lane(room=9)


def test_one_that_is_left_out_and_gives_nothing_back_is_killed_before_others_train_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SECONDS_TO_END", 0.05)
    workforce = begun(cluster)
    workforce.give("10.0.0.1/cpu-0", an_assignment())
    workforce.discard("10.0.0.1/cpu-0")
    assert cluster.killed == ["lead"]


def test_one_that_comes_where_another_was_left_out_is_left_out_too(cluster: Cluster) -> None:
    workforce = begun(cluster)
    workforce.discard("10.0.0.1/cpu-0")
    workforce.said("lead", Gone(reason="Its machine died."))
    be_ready(workforce, "lead again")
    assert not workforce.capacities
    assert list(workforce.workers) == [AWAITED]


def test_where_all_places_are_those_of_left_out_ones_none_is_awaited(cluster: Cluster) -> None:
    workforce = begun(cluster)
    be_ready(workforce, "other", host="10.0.0.2")
    workforce.wants_lane(room=2)
    workforce.discard("10.0.0.1/cpu-0")
    workforce.said("other", Gone(reason="It died."))
    workforce.listen(0)
    assert list(workforce.workers) == [AWAITED], "there is room for one in the place of the other"
    arrive(workforce, "another", host="10.0.0.2")
    workforce.said("another", Refused(error=ModelError("There is no such model.")))
    workforce.listen(0)
    assert not workforce.workers
    with pytest.raises(TrainingError, match="No worker is left to be asked"):
        workforce.lead.facts()
    workforce.wants_lane(room=3)
    assert list(workforce.workers) == [AWAITED], "a machine has joined"


def test_a_worn_one_that_dies_with_what_it_holds_is_lost(cluster: Cluster) -> None:
    workforce = begun(cluster)
    workforce.give("10.0.0.1/cpu-0", an_assignment())
    workforce.said("lead", Worn())
    workforce.said("lead", Gone(reason="Its machine died."))
    lost = Lost(reason="The worker 10.0.0.1/cpu-0 is lost. Its machine died.")
    assert workforce.listen(0) == [("10.0.0.1/cpu-0", lost)]


def test_the_name_of_one_whose_loss_is_not_yet_heard_is_not_given_again(cluster: Cluster) -> None:
    workforce = begun(cluster)
    workforce.said("lead", Gone(reason="It died."))
    arrive(workforce, "next")
    workforce.listen(0)
    assert list(workforce.workers) == ["10.0.0.1/cpu-1"]


def test_one_whose_worker_cannot_be_opened_is_unfit_and_keeps_its_place(cluster: Cluster) -> None:
    workforce = begun(cluster, most=2)
    arrive(workforce, "other", host="10.0.0.2")
    workforce.said("other", Refused(error=ModelError("There is no such model.")))
    assert workforce.listen(0) == [("10.0.0.2/cpu-0", Unfit(reason="There is no such model."))]
    assert not workforce.wants_lane(room=9)
    workforce.said("other", Gone(reason="Its machine died."))
    assert not workforce.listen(0)


def test_what_the_first_cannot_open_is_refused(cluster: Cluster) -> None:
    workforce = workforce_on(cluster)
    arrive(workforce, "lead")
    workforce.said("lead", Refused(error=ModelError("There is no such model.")))
    with pytest.raises(ModelError, match="no such model"):
        workforce.open_lead()


def test_where_the_first_is_lost_again_and_again_it_is_not_waited_for(cluster: Cluster) -> None:
    workforce = workforce_on(cluster)
    for number in range(MOST_STARTS):
        workforce.opened(f"lane {number}")
        workforce.said(f"lane {number}", Gone(reason="It died."))
    with pytest.raises(TrainingError, match=r"It died\. 3 workers in a row were lost before they were open\."):
        workforce.open_lead()


def test_in_the_middle_of_a_night_there_are_more_attempts_and_pauses_between_them(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(lanes.time, "monotonic", lambda: now)
    workforce = begun(cluster)
    for number in range(MOST_RESTARTS):
        now += 61
        assert workforce.wants_lane(room=9)
        workforce.opened(f"lane {number}")
        workforce.said(f"lane {number}", Gone(reason="It died."))
        said = workforce.listen(0)
        assert not workforce.wants_lane(room=9)
    ((_, note),) = said
    assert note == Note(sentence=f"It died. {MOST_RESTARTS} workers in a row were lost before they were open.")
    now += 61
    assert not workforce.wants_lane(room=9)


def test_one_that_does_not_open_its_worker_is_killed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(lanes.time, "monotonic", lambda: now)
    workforce = begun(cluster)
    arrive(workforce, "slow", host="10.0.0.2")
    workforce.listen(0)
    now += 61
    workforce.listen(0)
    assert cluster.killed == ["slow"]


def test_a_call_goes_to_the_first_that_is_free_and_raises_where_that_is_lost(cluster: Cluster) -> None:
    workforce = begun(cluster)
    assert workforce.lead.facts() == "facts"
    cluster.answers = False
    workforce.said("lead", Gone(reason="Its machine died."))
    with pytest.raises(TrainingError, match="lost when it was asked to facts"):
        workforce.lead.facts()


def test_where_the_carrier_breaks_the_search_ends_with_its_reason(cluster: Cluster) -> None:
    workforce = begun(cluster)
    workforce.said("", Broken(reason="Ray Tune has ended."))
    with pytest.raises(TrainingError, match=r"Ray Tune has ended\."):
        workforce.listen(0)


def test_at_the_end_all_are_told_also_those_that_have_not_arrived(cluster: Cluster) -> None:
    workforce = begun(cluster)
    workforce.opened("on its way")
    workforce.close()
    assert {lane for lane, message in cluster.told if isinstance(message, End)} == {"lead", "on its way"}
    assert not workforce.wants_lane(room=9)
    assert workforce.closing
