"""Worker processes as the dispatch sees them: real processes, most of them with a worker that only counts."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import cast

import psutil
import pytest
import torch

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits, load_splits
from hpo.errors import ModelError, NoResultError, StoreError, TrainingError
from hpo.messages import Action, Assignment, Begun, Capacity, Decision, Ending, Outcome, Progress, Report
from hpo.runners.processes.carrier import ProcessCarrier, open_processes
from hpo.runners.processes.protocol import Opener, StudySetup
from hpo.runners.processes.worker_handle import Child
from hpo.runners.remote_workforce import RemoteWorkforce
from hpo.runners.workforce import LossCause, WorkerLost, WorkerMessage
from hpo.training.worker import open_worker
from tests.models import save_tiny_bert, tiny_assignment, tiny_hyperparameters, tiny_study, trained, write_texts
from tests.runners.openers import SENTENCE, open_counting, open_first_alone, open_refused

PASSWORD = "sw0rdfish"
URL = f"postgresql+psycopg://night:{PASSWORD}@nowhere/studies"
PATIENCE = 60.0
"""Seconds after which a test gives up on a process."""

Opened = Callable[..., AbstractContextManager[RemoteWorkforce]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    folder = tmp_path_factory.mktemp("study")
    model, texts = save_tiny_bert(folder / "bert"), write_texts(folder / "texts.csv", rows=80)
    data = {"train": str(texts), "test_fraction": 0.2}
    return tiny_study(model, texts, data=data, store={"url": URL}, notify=(f"mailto://night:{PASSWORD}@nowhere",))


@pytest.fixture(scope="module")
def splits(study: StudyConfig) -> Splits:
    return load_splits(study.data, study.seed)


def with_workers(study: StudyConfig, workers: int, **compute: float) -> StudyConfig:
    sections = {**study.compute.model_dump(), "workers": workers, **compute}
    return study.model_copy(update={"compute": ComputeConfig.model_validate(sections)})


@pytest.fixture
def opened(study: StudyConfig, splits: Splits, tmp_path: Path) -> Iterator[Opened]:
    """Opens as many workers, of which none is left when the test is over."""
    before = psutil.Process().children()

    def open_with(opener: Opener = open_counting, workers: int = 1, **compute: float) -> object:
        return open_processes(with_workers(study, workers, **compute), splits, tmp_path, opener=opener)

    yield open_with
    assert psutil.Process().children() == before


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def begun_with_one(study: StudyConfig, splits: Splits, files: Path) -> Iterator[RemoteWorkforce]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STORE_OF_STUDIES", URL)
        patched.setenv("PGPASSWORD", PASSWORD)
        with open_processes(with_workers(study, 1), splits, files, opener=open_counting) as workforce:
            workforce.begin("bf16")
            yield workforce


@pytest.fixture
def one(begun_with_one: RemoteWorkforce) -> Iterator[RemoteWorkforce]:
    """A workforce of one worker that counts; it is as free after the test."""
    yield begun_with_one
    ready(begun_with_one, "cpu-0")
    assert begun_with_one.lead.facts()["precision"] == "bf16"
    assert begun_with_one.listen(0) == []


def heard(
    workforce: RemoteWorkforce, enough: Callable[[list[tuple[str, WorkerMessage]]], bool]
) -> list[tuple[str, WorkerMessage]]:
    """Listen until that is enough; return what was said, beside progress."""
    said: list[tuple[str, WorkerMessage]] = []
    until = time.monotonic() + PATIENCE
    while not enough(said):
        assert time.monotonic() < until, f"only {said} was said"
        said += [one for one in workforce.listen(1.0) if not isinstance(one[1], Begun | Progress)]
    return said


def outcomes(workforce: RemoteWorkforce, number: int) -> dict[int, Outcome]:
    """Listen until so many trials have ended, and return how."""
    said = heard(workforce, lambda said: sum(isinstance(one, Outcome) for _, one in said) == number)
    return {one.trial: one for _, one in said if isinstance(one, Outcome)}


def ready(workforce: RemoteWorkforce, *names: str) -> None:
    heard(workforce, lambda _: workforce.capacities.keys() == set(names))


def trial(number: int, seed: int = 3) -> Assignment:
    return tiny_assignment(trial=number, seed=seed)


LONG = 10_000
"""A seed to which counting takes minutes."""


def in_training(workforce: RemoteWorkforce) -> None:
    """Wait until a trial is in training."""
    until = time.monotonic() + PATIENCE
    while not any(isinstance(said, Progress) for _, said in workforce.listen(1.0)):
        assert time.monotonic() < until


def children_of(workforce: RemoteWorkforce) -> dict[str, Child]:
    carrier = workforce._carrier
    assert isinstance(carrier, ProcessCarrier)
    return carrier._children


def process_of(workforce: RemoteWorkforce, worker: str = "cpu-0") -> psutil.Process:
    return psutil.Process(children_of(workforce)[worker].processes[0].process.pid)


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
    with opened(open_worker, workers=2) as workforce:
        lead = workforce.lead
        assert (lead.metric, lead.cut_share(8)) == (here.metric, here.cut_share(8))
        assert lead.facts()["threads"] == "1"
        with pytest.raises(NoResultError, match="No weights of trial 5"):
            lead.test_evaluation(tiny_assignment(trial=5))
        # As the winner is trained again: call by call.
        reports, outcome = trained(lead, assignments[1])  # type: ignore[arg-type]
        assert [timeless(message) for message in (*reports, outcome)] == alike(expected[1])
        workforce.begin("fp32")
        ready(workforce, "cpu-0", "cpu-1")
        for assignment, worker in carried:
            workforce.give(worker, assignment)
        said = heard(workforce, lambda said: sum(isinstance(one, Outcome) for _, one in said) == 3)
        for (assignment, worker), message in zip(carried, expected, strict=True):
            told = [timeless(one) for name, one in said if (name, one.trial) == (worker, assignment.trial)]
            assert told == alike(message)
        assert lead.has_weights(expected[1][1].best)
        assert lead.test_evaluation(tiny_assignment(trial=1)) == here.test_evaluation(tiny_assignment(trial=1))


# -- one process


def test_pauses_reach_what_is_in_training_and_what_waits(one: RemoteWorkforce) -> None:
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


def test_signals_to_the_group_are_the_parents_affair(one: RemoteWorkforce) -> None:
    one.give("cpu-0", trial(0, 50))
    in_training(one)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process_of(one).send_signal(number)
    assert outcomes(one, 1)[0].ending is Ending.COMPLETED


def test_no_secret_reaches_a_process(one: RemoteWorkforce, study: StudyConfig, splits: Splits, files: Path) -> None:
    assert PASSWORD.encode() in pickle.dumps(study)
    assert PASSWORD.encode() not in pickle.dumps(StudySetup.of(study, splits, files, open_counting))
    process = process_of(one)
    assert PASSWORD in os.environ["STORE_OF_STUDIES"]
    assert PASSWORD in os.environ["PGPASSWORD"]
    assert PASSWORD not in str(process.environ())
    assert PASSWORD not in str(process.cmdline())


def test_the_environment_of_a_process_is_its_own(one: RemoteWorkforce) -> None:
    environment = process_of(one).environ()
    own = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TOKENIZERS_PARALLELISM")
    assert [environment[name] for name in own] == ["1", "", "false"]
    assert environment["PATH"] == os.environ["PATH"]


def test_calls_raise_here_what_they_raised_there(one: RemoteWorkforce, files: Path) -> None:
    with pytest.raises(ModelError) as refused:
        one.lead.measure(tiny_hyperparameters(max_length=8))
    assert str(refused.value) == SENTENCE
    with pytest.raises(TrainingError) as carried:
        one.lead.cut_share(8)
    assert str(carried.value) == "Unportable: 8 of reasons"
    assert "Traceback" in (files / "workers" / "cpu-0.log").read_text()


def test_a_call_that_its_process_dies_of_is_told_in_a_sentence(one: RemoteWorkforce) -> None:
    with pytest.raises(TrainingError, match=r"asked to cut_share: .*ended with exit status 7; its last words are in"):
        one.lead.cut_share(0)
    assert one.lead.facts()["threads"] == "1"
    [(_, lost)] = one.listen(0)
    assert isinstance(lost, WorkerLost)


def test_a_killed_process_is_told_once_after_all_it_said_and_replaced(one: RemoteWorkforce, files: Path) -> None:
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


def test_killed_for_a_reason_that_is_what_is_told(one: RemoteWorkforce) -> None:
    one.give("cpu-0", trial(0, LONG))
    one.kill("cpu-0", "It said nothing for 30 minutes.")
    one.kill("cpu-0", "Nobody asks twice.")
    assert heard(one, bool) == [("cpu-0", WorkerLost(reason="It said nothing for 30 minutes."))]


def test_a_process_whose_gpu_is_broken_is_replaced_without_a_loss(one: RemoteWorkforce, files: Path) -> None:
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
    one: RemoteWorkforce, files: Path
) -> None:
    before = one.lead.facts()["pid"]
    (files / "broken-gpu").touch()
    one.give("cpu-0", trial(0))
    # As the test split is read after the last trial: the process asks to be replaced before it comes to the call.
    assert one.lead.has_weights(cast(Report, None))
    (files / "broken-gpu").unlink()
    assert one.lead.facts()["pid"] != before
    assert outcomes(one, 1)[0].ending is Ending.FAILED


# -- two


@pytest.mark.slow
def test_one_is_open_at_first_the_others_when_the_search_begins_and_each_can_be_done_without(opened: Opened) -> None:
    with opened(workers=2) as workforce:
        assert (list(workforce.workers), workforce.size) == (["cpu-0"], 2)
        assert workforce.capacities == {"cpu-0": Capacity(worker="cpu-0", device="cpu")}
        workforce.begin("bf16")
        ready(workforce, "cpu-0", "cpu-1")
        workforce.give("cpu-0", trial(0, LONG))
        in_training(workforce)
        for _ in range(2):
            workforce.discard("cpu-0")
        assert (list(workforce.workers), list(workforce.capacities)) == (["cpu-1"], ["cpu-1"])
        # What is said to one that is not there is said to nobody.
        workforce.apply("cpu-0", Decision(trial=0, attempt=1, action=Action.PAUSE))
        workforce.kill("cpu-0", "It is not there.")
        assert workforce.listen(0.01) == []
        # The next leads, and computes as it was told when it was started.
        assert workforce.lead.facts()["precision"] == "bf16"
        workforce.discard("cpu-1")
        assert workforce.listen(0.01) == []
        with pytest.raises(TrainingError, match="No worker is left to be asked"):
            workforce.lead.facts()


# -- processes that cannot be started


def test_what_the_first_worker_refuses_is_raised_here(opened: Opened) -> None:
    with pytest.raises(ModelError) as refused, opened(open_refused):
        raise AssertionError
    assert str(refused.value) == SENTENCE


def test_a_first_worker_that_dies_at_every_start_is_told_in_a_sentence(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.runners.processes.worker_handle.BOOTSTRAP", "raise SystemExit(3)")
    with (
        pytest.raises(
            TrainingError,
            match=r"process ended with exit status 3; .*cpu-0.log. It was so at 3 starts in a row\.",
        ),
        opened(),
    ):
        raise AssertionError


@pytest.mark.slow
def test_a_worker_that_refuses_is_done_without(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "then").write_text("refuse")
    with opened(open_first_alone, workers=2) as workforce:
        workforce.begin("fp32")
        assert heard(workforce, bool) == [("cpu-1", WorkerLost(cause=LossCause.UNUSABLE, reason=SENTENCE))]
        assert list(workforce.workers) == ["cpu-0"]
        workforce.give("cpu-0", trial(0))
        assert outcomes(workforce, 1)[0].ending is Ending.COMPLETED


def test_a_worker_that_hangs_before_it_is_open_is_killed(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "then").write_text("hang")
    with opened(open_first_alone, workers=2, hang_minutes=0.001) as workforce:
        workforce.begin("fp32")
        [(_, unfit)] = heard(workforce, bool)
        assert unfit == WorkerLost(
            cause=LossCause.UNUSABLE,
            reason="The worker cpu-1 did not open its model in 0.06 seconds. It was so at 3 starts in a row.",
        )


def test_where_no_process_can_be_had_a_worker_is_done_without(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with opened(workers=2) as workforce:
        monkeypatch.setattr("hpo.runners.processes.worker_handle.Popen", no_memory)
        workforce.begin("fp32")
        reason = "The worker cpu-1 is lost. Its process cannot be started: Cannot allocate memory."
        unfit = WorkerLost(cause=LossCause.UNUSABLE, reason=f"{reason} It was so at 3 starts in a row.")
        assert heard(workforce, bool) == [("cpu-1", unfit)]


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(
    study: StudyConfig, splits: Splits, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"Nothing can be written to .*; name another folder by store\.files\."),
        open_processes(study, splits, tmp_path / "file"),
    ):
        raise AssertionError


# -- the end


def test_an_error_here_leaves_no_process(opened: Opened) -> None:
    with pytest.raises(ZeroDivisionError), opened():
        raise ZeroDivisionError


ORPHANS = """
import sys, time
from pathlib import Path
import psutil
from hpo.data.splits import load_splits
from hpo.runners.processes.carrier import open_processes
from tests.models import tiny_assignment, tiny_study
from tests.runners.openers import open_counting
compute = {"device": "cpu", "threads": 1, "ranks": int(sys.argv[3])}
config = tiny_study("none", Path(sys.argv[1]), compute=compute)
with open_processes(config, load_splits(config.data, 0), Path(sys.argv[2]), opener=open_counting) as workforce:
    workforce.give("cpu-0", tiny_assignment(seed=10_000))
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
    with opened() as workforce:
        workforce.give("cpu-0", trial(0, LONG))
        in_training(workforce)
        child = children_of(workforce).pop("cpu-0")
        child.connections[0].close()
        assert child.processes[0].process.wait(PATIENCE) == 0


# -- what a process is told


def test_what_is_kept_of_a_study_is_what_trains(study: StudyConfig, splits: Splits, tmp_path: Path) -> None:
    kept = pickle.loads(pickle.dumps(StudySetup.of(study, splits, tmp_path, open_worker)))
    assert (kept.files, kept.opener, kept.splits.fingerprint) == (tmp_path, open_worker, splits.fingerprint)
    assert kept.config.model_copy(update={"store": study.store, "notify": study.notify}) == study
