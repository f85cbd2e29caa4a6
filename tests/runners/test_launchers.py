"""One contract for every launcher of workers: processes of this machine, and workers on a Ray cluster."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from hpo.data.splits import load_splits
from hpo.errors import ModelError, TrainingError
from hpo.messages import Action, Assignment, Begun, Decision, Ending, Outcome, Progress, WorkerSettings
from hpo.runners.processes.launcher import open_processes
from hpo.runners.remote_worker_pool import RemoteWorkerPool
from hpo.runners.worker_pool import WorkerLost, WorkerMessage
from tests.models import tiny_assignment, tiny_hyperparameters, tiny_study, write_texts
from tests.runners.openers import SENTENCE, open_counting

LONG = 100_000
"""A seed to which counting takes very long."""
PATIENCE = 60.0


@pytest.fixture(
    scope="module", params=["processes", pytest.param("ray_tune", marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteWorkerPool]:
    """Two workers that count, over each of the launchers."""
    folder = tmp_path_factory.mktemp(request.param)
    compute = {"device": "cpu", "threads": 1, "workers": 2, "runner": request.param}
    config = tiny_study("none", write_texts(folder / "texts.csv", rows=80), compute=compute)
    splits = load_splits(config.data, config.seed)
    if request.param == "processes":
        opened: Any = open_processes(config, splits, folder, opener=open_counting)
    else:
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'llm-hpo[ray]'")
        from hpo.runners.ray.setup import set_up_ray

        set_up_ray()
        from hpo.runners.ray.tune_launcher import open_ray_tune

        opened = open_ray_tune(config, splits, folder, opener=open_counting)
    with opened as pool:
        pool.begin(WorkerSettings(precision="fp32"))
        yield pool


@pytest.fixture
def pool(begun: RemoteWorkerPool) -> RemoteWorkerPool:
    """The same with nothing in training and both workers open."""
    heard(begun, lambda _: len(begun.capacities) == 2)
    return begun


def heard(
    pool: RemoteWorkerPool, enough: Callable[[list[tuple[str, WorkerMessage]]], bool]
) -> list[tuple[str, WorkerMessage]]:
    """Listen until that is enough; return what was said beside progress."""
    said: list[tuple[str, WorkerMessage]] = []
    until = time.monotonic() + PATIENCE
    while not enough(said):
        assert time.monotonic() < until, f"only {said} was said"
        said += [one for one in pool.listen(1.0) if not isinstance(one[1], Progress)]
    return said


def until_ended(pool: RemoteWorkerPool, number: int) -> list[tuple[str, WorkerMessage]]:
    return heard(pool, lambda said: sum(isinstance(one, Outcome) for _, one in said) == number)


def until_begun(pool: RemoteWorkerPool) -> None:
    heard(pool, lambda said: any(isinstance(one, Begun) for _, one in said))


def trial(number: int, seed: int = 3) -> Assignment:
    return tiny_assignment(trial=number, seed=seed)


def test_assignments_are_begun_and_ended_in_their_order_by_whom_they_were_given(pool: RemoteWorkerPool) -> None:
    first, second = pool.capacities
    for number, worker in ((0, first), (1, first), (2, second)):
        pool.give(worker, trial(number))
    said = until_ended(pool, 3)
    for worker, trials in ((first, (0, 0, 1, 1)), (second, (2, 2))):
        own = [one for name, one in said if name == worker]
        assert [type(one) for one in own] == [Begun, Outcome] * (len(trials) // 2)
        assert tuple(one.trial for one in own) == trials  # type: ignore[union-attr]


def test_decisions_reach_what_trains_and_what_waits(pool: RemoteWorkerPool) -> None:
    worker = next(iter(pool.capacities))
    for number in range(2):
        pool.give(worker, trial(number, LONG))
    until_begun(pool)
    for number, action in ((1, Action.PAUSE), (0, Action.STOP)):
        pool.apply(worker, Decision(trial=number, attempt=1, action=action))
    ended = {one.trial: one.ending for _, one in until_ended(pool, 2) if isinstance(one, Outcome)}
    assert ended == {0: Ending.PRUNED, 1: Ending.PAUSED}


def test_one_that_is_killed_is_told_once_and_replaced(pool: RemoteWorkerPool) -> None:
    worker, other = pool.capacities
    pool.give(worker, trial(0, LONG))
    until_begun(pool)
    pool.kill(worker, "It sent no message for 30 minutes.")
    assert heard(pool, bool) == [(worker, WorkerLost(reason="It sent no message for 30 minutes."))]
    pool.give(other, trial(1))
    assert heard(pool, lambda _: len(pool.capacities) == 2)[-1][1].trial == 1  # type: ignore[union-attr]
    assert list(pool.capacities) in ([worker, other], [other, worker])


def test_one_whose_process_dies_is_told_with_how(pool: RemoteWorkerPool) -> None:
    lead = next(iter(pool.capacities))
    psutil.Process(int(pool.lead.facts()["pid"])).kill()
    [(worker, lost)] = heard(pool, bool)
    assert isinstance(lost, WorkerLost)
    assert (worker, lost.reason.startswith(f"The worker {lead} is lost. Its process ")) == (lead, True)


def test_calls_are_answered_and_raise_here_what_they_raised_there(pool: RemoteWorkerPool) -> None:
    assert pool.lead.facts()["precision"] == "fp32"
    with pytest.raises(ModelError) as refused:
        pool.lead.measure(tiny_hyperparameters(max_length=8))
    assert str(refused.value) == SENTENCE
    with pytest.raises(TrainingError, match="A worker was lost during a call of cut_share"):
        pool.lead.cut_share(0)
    assert [type(said) for _, said in heard(pool, bool)] == [WorkerLost]


def test_the_last_test_one_that_is_left_out_gives_back_what_it_holds_and_is_not_heard_again(
    pool: RemoteWorkerPool,
) -> None:
    worker, other = pool.capacities
    pool.give(worker, trial(0, LONG))
    until_begun(pool)
    pool.discard(worker)
    pool.give(other, trial(1))
    said = until_ended(pool, 1)
    assert {name for name, _ in said} == {other}
    assert (list(pool.workers), list(pool.capacities)) == ([other], [other])
