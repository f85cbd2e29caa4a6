"""Worker processes as the dispatch sees them: real processes, most of them with a worker that only counts."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import psutil
import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ModelError, NoResultError, TrainingError
from hpo.messages import Action, Assignment, Begun, Decision, Ending, Outcome, Report, WorkerSettings
from hpo.runners.processes.launcher import Child, ProcessLauncher, open_processes
from hpo.runners.processes.protocol import StudySetup
from hpo.runners.remote_worker_pool import RemoteWorkerPool
from hpo.runners.worker_pool import WorkerLost
from hpo.training.worker import open_worker
from tests.models import tiny_assignment, tiny_hyperparameters, trained
from tests.runners.conftest import (
    LONG,
    PASSWORD,
    PATIENCE,
    URL,
    Opened,
    heard,
    in_training,
    outcomes,
    ready,
    trial,
    with_workers,
)
from tests.runners.openers import SENTENCE, open_counting


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def begun_with_one(study: StudyConfig, splits: Splits, files: Path) -> Iterator[RemoteWorkerPool]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STORE_OF_STUDIES", URL)
        patched.setenv("PGPASSWORD", PASSWORD)
        with open_processes(with_workers(study, 1), splits, files, opener=open_counting) as pool:
            pool.begin(WorkerSettings(precision="bf16"))
            yield pool


@pytest.fixture
def one(begun_with_one: RemoteWorkerPool) -> Iterator[RemoteWorkerPool]:
    """A worker pool of one worker that counts; it is as free after the test."""
    yield begun_with_one
    ready(begun_with_one, "cpu-0")
    assert begun_with_one.lead.facts()["precision"] == "bf16"
    assert begun_with_one.listen(0) == []


def children_of(pool: RemoteWorkerPool) -> dict[str, Child]:
    launcher = pool._launcher
    assert isinstance(launcher, ProcessLauncher)
    return launcher._children


def process_of(pool: RemoteWorkerPool, worker: str = "cpu-0") -> psutil.Process:
    return psutil.Process(children_of(pool)[worker].processes[0].process.pid)


# -- with the real worker


def alike(messages: tuple[list[Report], Outcome]) -> list[Report | Outcome]:
    return [timeless(message) for message in (*messages[0], messages[1])]


def in_process(study: StudyConfig, splits: Splits, files: Path, assignment: Assignment) -> tuple[list[Report], Outcome]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return trained(open_worker(study, splits, files), assignment)
    finally:
        torch.set_num_threads(threads)


def timeless(message: Report | Outcome) -> Report | Outcome:
    """Leave out of it what no two runs have in common."""
    best = message.best if isinstance(message, Outcome) else None
    changed = {"best": timeless(best)} if best else {}
    return replace(message, seconds=0.0, peak_memory_bytes=0, **changed)


@pytest.mark.slow
def test_processes_train_to_the_bits_of_this_one(
    opened: Opened, study: StudyConfig, splits: Splits, tmp_path: Path
) -> None:
    assignments = [tiny_assignment(tiny_hyperparameters(dropout=0.1), trial=n, seed=n) for n in range(3)]
    carried = list(zip(assignments, ("cpu-0", "cpu-1", "cpu-0"), strict=True))
    expected = [in_process(study, splits, tmp_path / "here", assignment) for assignment in assignments]
    here = open_worker(study, splits, tmp_path / "here")
    with opened(open_worker, workers=2) as pool:
        lead = pool.lead
        assert (lead.metric, lead.cut_share(8)) == (here.metric, here.cut_share(8))
        assert lead.facts()["threads"] == "1"
        with pytest.raises(NoResultError, match="No weights of trial 5"):
            lead.test_evaluation(tiny_assignment(trial=5))
        # As the winner is trained again: call by call.
        reports, outcome = trained(lead, assignments[1])  # type: ignore[arg-type]
        assert [timeless(message) for message in (*reports, outcome)] == alike(expected[1])
        pool.begin(WorkerSettings(precision="fp32"))
        ready(pool, "cpu-0", "cpu-1")
        for assignment, worker in carried:
            pool.give(worker, assignment)
        said = heard(pool, lambda said: sum(isinstance(one, Outcome) for _, one in said) == 3)
        for (assignment, worker), message in zip(carried, expected, strict=True):
            told = [timeless(one) for name, one in said if (name, one.trial) == (worker, assignment.trial)]
            assert told == alike(message)
        assert lead.has_weights(expected[1][1].best)
        assert lead.test_evaluation(tiny_assignment(trial=1)) == here.test_evaluation(tiny_assignment(trial=1))


# -- one process


def test_pauses_reach_what_is_in_training_and_what_waits(one: RemoteWorkerPool) -> None:
    for number in range(2):
        one.give("cpu-0", trial(number, LONG))
    in_training(one)
    for number in (1, 0):
        one.apply("cpu-0", Decision(trial=number, attempt=1, action=Action.PAUSE))
    ended = outcomes(one, 2)
    assert list(ended) == [1, 0]
    assert {outcome.ending for outcome in ended.values()} == {Ending.PAUSED}
    assert ended[1].seconds == 0 < ended[0].seconds
    one.give("cpu-0", trial(2))
    assert outcomes(one, 1)[2].ending is Ending.COMPLETED


def test_signals_to_the_group_are_the_parents_affair(one: RemoteWorkerPool) -> None:
    one.give("cpu-0", trial(0, 50))
    in_training(one)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process_of(one).send_signal(number)
    assert outcomes(one, 1)[0].ending is Ending.COMPLETED


def test_no_secret_reaches_a_process(one: RemoteWorkerPool, study: StudyConfig, splits: Splits, files: Path) -> None:
    assert PASSWORD.encode() in pickle.dumps(study)
    assert PASSWORD.encode() not in pickle.dumps(StudySetup.of(study, splits, files, open_counting))
    process = process_of(one)
    assert PASSWORD in os.environ["STORE_OF_STUDIES"]
    assert PASSWORD in os.environ["PGPASSWORD"]
    assert PASSWORD not in str(process.environ())
    assert PASSWORD not in str(process.cmdline())


def test_the_environment_of_a_process_is_its_own(one: RemoteWorkerPool) -> None:
    environment = process_of(one).environ()
    own = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TOKENIZERS_PARALLELISM", "GOMP_SPINCOUNT")
    assert [environment[name] for name in own] == ["1", "", "false", "20000"]
    assert environment["PATH"] == os.environ["PATH"]


def test_calls_raise_here_what_they_raised_there(one: RemoteWorkerPool, files: Path) -> None:
    with pytest.raises(ModelError) as refused:
        one.lead.measure(tiny_hyperparameters(max_length=8))
    assert str(refused.value) == SENTENCE
    with pytest.raises(TrainingError) as carried:
        one.lead.cut_share(8)
    assert str(carried.value) == "Unportable: 8 of reasons"
    assert "Traceback" in (files / "workers" / "cpu-0.log").read_text()


def test_a_call_that_its_process_dies_of_is_told_in_a_sentence(one: RemoteWorkerPool) -> None:
    with pytest.raises(
        TrainingError, match=r"during a call of cut_share: .*ended with exit status 7; its last words are in"
    ):
        one.lead.cut_share(0)
    assert one.lead.facts()["threads"] == "1"
    [(_, lost)] = one.listen(0)
    assert isinstance(lost, WorkerLost)


def test_a_killed_process_is_told_once_after_all_it_said_and_replaced(one: RemoteWorkerPool, files: Path) -> None:
    one.give("cpu-0", trial(0))
    one.give("cpu-0", trial(1, LONG))
    # Not listened to until it has said that it trains the second.
    connection = children_of(one)["cpu-0"].connections[0]
    until = time.monotonic() + PATIENCE
    while not any(isinstance(said, Begun) and said.trial == 1 for _, said in one._messages):
        assert time.monotonic() < until
        connection.poll(0.1)
        one._await(0.0)
    process_of(one).kill()
    said = heard(one, lambda said: isinstance(said[-1][1], WorkerLost) if said else False)
    assert [type(message) for _, message in said] == [Outcome, WorkerLost]
    assert said[-1] == (
        "cpu-0",
        WorkerLost(
            reason="The worker cpu-0 is lost. Its process was killed by signal 9, as the kernel does where memory is "
            f"short; its last words are in {files / 'workers' / 'cpu-0.log'}."
        ),
    )
    assert list(one.workers) == ["cpu-0"]
    assert one.capacities == {}
    ready(one, "cpu-0")
    one.give("cpu-0", trial(1))
    assert outcomes(one, 1)[1].ending is Ending.COMPLETED


def test_killed_for_a_reason_that_is_what_is_told(one: RemoteWorkerPool) -> None:
    one.give("cpu-0", trial(0, LONG))
    one.kill("cpu-0", "It sent no message for 30 minutes.")
    one.kill("cpu-0", "Nobody asks twice.")
    assert heard(one, bool) == [("cpu-0", WorkerLost(reason="It sent no message for 30 minutes."))]


def test_a_process_whose_gpu_is_broken_is_replaced_without_a_loss(one: RemoteWorkerPool, files: Path) -> None:
    before = one.lead.facts()["pid"]
    (files / "broken-gpu").touch()
    for number in range(2):
        one.give("cpu-0", trial(number))
    ended = outcomes(one, 2)
    (files / "broken-gpu").unlink()
    assert {number: outcome.ending for number, outcome in ended.items()} == {0: Ending.FAILED, 1: Ending.PAUSED}
    assert heard(one, lambda _: "cpu-0" in one.capacities and one.lead.facts()["pid"] != before) == []
    one.give("cpu-0", trial(1))
    assert outcomes(one, 1)[1].ending is Ending.COMPLETED


def test_a_call_to_a_process_that_is_replaced_is_answered_by_the_one_in_its_place(
    one: RemoteWorkerPool, files: Path
) -> None:
    before = one.lead.facts()["pid"]
    (files / "broken-gpu").touch()
    one.give("cpu-0", trial(0))
    # As the test split is read after the last trial: the process asks to be replaced before it comes to the call.
    assert one.lead.has_weights(cast(Report, None))
    (files / "broken-gpu").unlink()
    assert one.lead.facts()["pid"] != before
    assert outcomes(one, 1)[0].ending is Ending.FAILED


# -- the end


ORPHANS = """
import sys, time
from pathlib import Path
import psutil
from hpo.data.splits import load_splits
from hpo.runners.processes.launcher import open_processes
from tests.models import tiny_assignment, tiny_study
from tests.runners.openers import open_counting
compute = {"device": "cpu", "threads": 1, "ranks": int(sys.argv[3])}
config = tiny_study("none", Path(sys.argv[1]), compute=compute)
with open_processes(config, load_splits(config.data, 0), Path(sys.argv[2]), opener=open_counting) as pool:
    pool.give("cpu-0", tiny_assignment(seed=10_000))
    print(*[child.pid for child in psutil.Process().children()], flush=True)
    time.sleep(600)
"""


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_processes_die_with_a_parent_that_is_killed(ranks: int, study: StudyConfig, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHANS, study.data.train, str(tmp_path), str(ranks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) == ranks
        parent.kill()
    until = time.monotonic() + PATIENCE
    while not all(map(gone, children)):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_closed_connection_ends_a_process_in_the_middle_of_a_trial(opened: Opened) -> None:
    with opened() as pool:
        pool.give("cpu-0", trial(0, LONG))
        in_training(pool)
        child = children_of(pool).pop("cpu-0")
        child.connections[0].close()
        assert child.processes[0].process.wait(PATIENCE) == 0


# -- what a process is told


def test_what_is_kept_of_a_study_is_what_trains(study: StudyConfig, splits: Splits, tmp_path: Path) -> None:
    kept = pickle.loads(pickle.dumps(StudySetup.of(study, splits, tmp_path, open_worker)))
    assert (kept.files, kept.opener, kept.splits.fingerprint) == (tmp_path, open_worker, splits.fingerprint)
    assert (
        kept.config.model_copy(update={"store": study.store, "notify": study.notify, "warm_start": study.warm_start})
        == study
    )
