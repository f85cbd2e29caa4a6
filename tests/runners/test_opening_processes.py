"""Opening worker processes: several of them, and those that cannot be started."""

from pathlib import Path

import pytest

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ModelError, StoreError, TrainingError
from hpo.messages import Action, Capacity, Decision, Ending, WorkerSettings
from hpo.runners.processes.launcher import open_processes
from hpo.runners.worker_pool import LossCause, WorkerLost
from tests.runners.conftest import LONG, Opened, heard, in_training, outcomes, ready, trial
from tests.runners.openers import SENTENCE, open_first_alone, open_refused


@pytest.mark.slow
def test_one_is_open_at_first_the_others_when_the_search_begins_and_each_can_be_done_without(opened: Opened) -> None:
    with opened(workers=2) as pool:
        assert (list(pool.workers), pool.size) == (["cpu-0"], 2)
        assert pool.capacities == {"cpu-0": Capacity(worker="cpu-0", device="cpu")}
        pool.begin(WorkerSettings(precision="bf16"))
        ready(pool, "cpu-0", "cpu-1")
        pool.give("cpu-0", trial(0, LONG))
        in_training(pool)
        for _ in range(2):
            pool.discard("cpu-0")
        assert (list(pool.workers), list(pool.capacities)) == (["cpu-1"], ["cpu-1"])
        # What is said to one that is not there is said to nobody.
        pool.apply("cpu-0", Decision(trial=0, attempt=1, action=Action.PAUSE))
        pool.kill("cpu-0", "It is not there.")
        assert pool.listen(0.01) == []
        # The next leads, and computes as it was told when it was started.
        assert pool.lead.facts()["precision"] == "bf16"
        pool.discard("cpu-1")
        assert pool.listen(0.01) == []
        with pytest.raises(TrainingError, match="No worker is left to be asked"):
            pool.lead.facts()


def test_what_the_first_worker_refuses_is_raised_here(opened: Opened) -> None:
    with pytest.raises(ModelError) as refused, opened(open_refused):
        raise AssertionError
    assert str(refused.value) == SENTENCE


def test_a_first_worker_that_dies_at_every_start_is_told_in_a_sentence(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.runners.processes.launcher.BOOTSTRAP", "raise SystemExit(3)")
    with (
        pytest.raises(
            TrainingError,
            match=r"process ended with exit status 3; .*cpu-0.log. This happened at 3 starts in a row\.",
        ),
        opened(),
    ):
        raise AssertionError


@pytest.mark.slow
def test_a_worker_that_refuses_is_done_without(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "then").write_text("refuse")
    with opened(open_first_alone, workers=2) as pool:
        pool.begin(WorkerSettings(precision="fp32"))
        assert heard(pool, bool) == [("cpu-1", WorkerLost(cause=LossCause.UNUSABLE, reason=SENTENCE))]
        assert list(pool.workers) == ["cpu-0"]
        pool.give("cpu-0", trial(0))
        assert outcomes(pool, 1)[0].ending is Ending.COMPLETED


def test_a_worker_that_hangs_before_it_is_open_is_killed(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "then").write_text("hang")
    with opened(open_first_alone, workers=2, hang_minutes=0.001) as pool:
        pool.begin(WorkerSettings(precision="fp32"))
        [(_, unfit)] = heard(pool, bool)
        assert unfit == WorkerLost(
            cause=LossCause.UNUSABLE,
            reason="The worker cpu-1 did not open its model in 0.06 seconds. This happened at 3 starts in a row.",
        )


def test_where_no_process_can_be_had_a_worker_is_done_without(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with opened(workers=2) as pool:
        monkeypatch.setattr("hpo.runners.processes.launcher.Popen", no_memory)
        pool.begin(WorkerSettings(precision="fp32"))
        reason = "The worker cpu-1 is lost. Its process cannot be started: Cannot allocate memory."
        unfit = WorkerLost(cause=LossCause.UNUSABLE, reason=f"{reason} This happened at 3 starts in a row.")
        assert heard(pool, bool) == [("cpu-1", unfit)]


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(
    study: StudyConfig, splits: Splits, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"Nothing can be written to .*; name another folder by store\.files\."),
        open_processes(study, splits, tmp_path / "file"),
    ):
        raise AssertionError


def test_an_error_here_leaves_no_process(opened: Opened) -> None:
    with pytest.raises(ZeroDivisionError), opened():
        raise ZeroDivisionError
