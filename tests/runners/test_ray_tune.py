"""Between the search and Ray, without a cluster: its errors, resources, and the folder that all machines share."""

import asyncio
import os
import pickle
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from hpo.errors import ConfigurationError, ModelError, StoreError, TrainingError
from hpo.runners.ray.setup import TrialResources, described, refuse_unplaceable, resources_of, set_up_ray

pytest.importorskip("ray", reason="Ray is not installed: pip install 'llm-hpo[ray]'")
set_up_ray()

from ray.exceptions import AuthenticationError, RayTaskError  # noqa: E402

from hpo.config.study_file import ComputeConfig  # noqa: E402
from hpo.runners.ray import (  # noqa: E402
    cluster_worker,
    connection,
    tune_launcher,
)
from hpo.runners.worker_pool import WorkerLost  # noqa: E402


class Ending:
    """A tuner that ends at once: with an error, or as if all were done."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    def fit(self) -> None:
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("error", [None, RuntimeError("no memory"), SystemExit(1)])
def test_a_tune_that_ends_before_the_search_is_told_and_not_waited_for(error: BaseException | None) -> None:
    said: list[Any] = []
    launcher: Any = SimpleNamespace(pass_on=lambda worker, message: said.append(message))
    tune_launcher._tune(Ending(error), launcher)
    [ended] = said
    assert isinstance(ended, TrainingError)
    assert str(ended).startswith("Ray Tune has ended. ")


def test_where_tune_has_ended_listening_raises_why() -> None:
    messages: SimpleQueue[tuple[str, object]] = SimpleQueue()
    messages.put(("", TrainingError("Ray Tune has ended.")))
    launcher: Any = SimpleNamespace(_messages=messages)
    with pytest.raises(TrainingError, match=r"Ray Tune has ended\."):
        tune_launcher.TuneLauncher.listen(launcher, 0.0)


def test_tune_may_tell_the_searcher_that_a_worker_has_ended() -> None:
    launcher: Any = None
    tune_launcher.WorkerSearcher(launcher).on_trial_complete(trial_id="worker", result=None, error=True)


def test_what_a_worker_crashed_of_is_told_without_its_traceback() -> None:
    said: list[Any] = []
    launcher: Any = SimpleNamespace(pass_on=lambda worker, message: said.append((worker, message)))
    page = RayTaskError("step", "Traceback ...", TrainingError("RankGroupLost: A rank is gone."))
    trial: Any = SimpleNamespace(trial_id="one", get_pickled_error=page.as_instanceof_cause)
    tune_launcher.WorkerScheduler(launcher).on_trial_error(None, trial)
    assert said == [("one", WorkerLost(reason="It crashed: RankGroupLost: A rank is gone."))]


def test_a_worker_that_crashed_sends_its_last_messages_and_then_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_worker, "HEARTBEAT_SECONDS", 0.0)
    worker: Any = cluster_worker.WorkerTrainable.__new__(cluster_worker.WorkerTrainable)
    worker._messages, worker._crash, worker._iteration = SimpleQueue(), None, 1
    for message in ("the last", TrainingError("RuntimeError: no device")):
        worker._messages.put(message)
    step = worker.step()
    assert (pickle.loads(step["messages"]), step["done"]) == (["the last"], False)
    with pytest.raises(TrainingError, match="RuntimeError: no device"):
        worker.step()


def test_what_a_rank_on_another_machine_refuses_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    page = RayTaskError("follow", "Traceback ...", ModelError("There is no such model."))

    def get(_results: object) -> None:
        raise page.as_instanceof_cause()

    monkeypatch.setattr(cluster_worker.ray, "get", get)
    with pytest.raises(ModelError) as told:
        cluster_worker._wait_for([])
    assert str(pickle.loads(pickle.dumps(told.value))) == "There is no such model."


@pytest.mark.parametrize("error", [AuthenticationError("The token is wrong"), PermissionError(13, "Permission denied")])
def test_a_cluster_that_cannot_be_joined_is_refused_in_a_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr(connection.ray, "init", init)
    with pytest.raises(ConfigurationError, match="There is no Ray cluster at"), connection.joined_cluster(None):
        raise AssertionError


@pytest.mark.parametrize("asked", [None, "auto", "127.0.0.1:6379", "localhost:6379"])
def test_a_process_that_is_part_of_a_cluster_stays_there(monkeypatch: pytest.MonkeyPatch, asked: str | None) -> None:
    monkeypatch.setattr(connection, "refuse_unusable_address", lambda _: None)
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(connection.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:6379"))
    with connection.joined_cluster(asked):
        pass


@pytest.mark.parametrize("asked", ["127.0.0.1:6380", "10.0.0.1:6379", "nowhere.invalid:6379"])
def test_a_process_that_is_part_of_a_cluster_joins_no_other(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setattr(connection, "refuse_unusable_address", lambda _: None)
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(connection.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:6379"))
    said = f"ray_address is {asked}, but this process is already part of the cluster at 127.0.0.1:6379"
    with pytest.raises(ConfigurationError, match=said), connection.joined_cluster(asked):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"store\.files"), tune_launcher._marked(tmp_path / "file" / "study", "a"):
        raise AssertionError


def test_what_was_left_for_workers_is_removed(tmp_path: Path) -> None:
    with tune_launcher._marked(tmp_path / "study", "a"):
        assert (tmp_path / "study" / cluster_worker.MARKER).exists()
    assert not list((tmp_path / "study").iterdir())


def test_what_a_search_that_was_killed_has_left_is_not_taken_for_a_shared_folder(tmp_path: Path) -> None:
    study: Any = SimpleNamespace(files=tmp_path)
    (tmp_path / cluster_worker.MARKER).write_text("of an earlier search")
    with pytest.raises(ConfigurationError, match="is not the same folder as on the machine of the search"):
        cluster_worker.refuse_unshared(study, "a")
    with tune_launcher._marked(tmp_path, "a"):
        cluster_worker.refuse_unshared(study, "a")


def test_a_cluster_without_room_for_a_trial_is_not_described_as_one_with_none_beside_another() -> None:
    assert "parallel trials: 2" in described(ComputeConfig(), [{"CPU": 2.0}])
    with pytest.raises(ConfigurationError, match="for which the cluster has no room"):
        described(ComputeConfig(ranks=4, threads=1), [{"CPU": 2.0}])


@pytest.mark.parametrize(
    ("machine", "rank", "expected"),
    [
        ({"GPU": 4.0}, {"GPU": 0.6}, 4),
        ({"GPU": 4.0}, {"GPU": 0.5}, 8),
        ({"GPU": 1.0}, {"GPU": 0.3333}, 3),
        ({"GPU": 1.0}, {"GPU": 0.33333}, 3),
        ({"GPU": 3.0}, {"GPU": 1.0}, 3),
        ({"GPU": 4.0, "CPU": 6.0}, {"GPU": 0.5, "CPU": 2}, 3),
        ({"CPU": 2.0}, {"GPU": 0.5, "CPU": 1}, 0),
    ],
)
def test_a_part_of_a_gpu_is_on_one_gpu(machine: dict[str, float], rank: dict[str, float], expected: int) -> None:
    assert TrialResources(rank=rank, ranks=1).fits([machine]) == expected
    assert TrialResources(rank=rank, ranks=2, apart=True).fits([machine, machine]) == expected


def test_the_ranks_of_a_trial_are_on_one_machine_where_one_has_room_for_it() -> None:
    machines = [{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 3.0}]
    together = resources_of(ComputeConfig(ranks=2, threads=1), machines)
    assert (together.apart, together.fits(machines)) == (False, 2)
    apart = resources_of(ComputeConfig(ranks=4, threads=1), machines)
    assert (apart.apart, apart.fits(machines)) == (True, 1)


def test_a_rank_has_the_cores_that_there_are_for_its_gpu() -> None:
    machines = [{"CPU": 4.0}, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 48.0, "GPU": 8.0}]
    assert resources_of(ComputeConfig(), machines).rank == {"CPU": 6, "GPU": 1.0}
    assert resources_of(ComputeConfig(gpus_per_trial=0.5), machines).rank == {"CPU": 3, "GPU": 0.5}
    assert resources_of(ComputeConfig(threads=2), machines).rank == {"CPU": 2, "GPU": 1.0}
    assert resources_of(ComputeConfig(device="cpu"), machines).rank == {"CPU": 1}


def test_trials_are_on_the_kind_of_gpu_that_is_asked_for() -> None:
    machines = [{"CPU": 8.0, "GPU": 4.0, f"accelerator_type:{kind}": 1.0} for kind in ("T4", "H100", "T4")]
    resources = resources_of(ComputeConfig(accelerator_type="H100"), machines)
    assert (resources.rank["accelerator_type:H100"], resources.fits(machines)) == (0.001, 4)


def test_a_cluster_that_grows_is_asked_for_what_it_has_no_room_for_yet() -> None:
    head = [{"CPU": 2.0}]
    resources = resources_of(ComputeConfig(device="cuda", workers=8), head)
    assert (resources.rank, resources.fits(head)) == ({"CPU": 1, "GPU": 1.0}, 0)
    refuse_unplaceable(resources, head, asked=8)
    with pytest.raises(ConfigurationError, match=r"set compute\.workers to the number of parallel trials"):
        refuse_unplaceable(resources, head)


def test_a_process_is_shown_the_gpus_that_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, seen in (([], "all"), ([2], "2"), (["GPU-5ef", "MIG-7"], "GPU-5ef,MIG-7")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")
        monkeypatch.setattr(cluster_worker.ray, "get_gpu_ids", lambda given=given: given)
        cluster_worker.see_own_gpus()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_a_wait_at_the_mailbox_ends_now_and_then_and_all_messages_come_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that has died waits there for ever otherwise, in one of the places of those that are alive; and Ray may
    bring a message before one that was sent earlier."""
    monkeypatch.setattr(cluster_worker, "POLL_SECONDS", 0.002)

    async def asked() -> list[object]:
        mailbox, heard = cluster_worker.Mailbox(), []
        assert await mailbox.get("worker") == []

        async def tell() -> None:
            for n in range(50):
                await mailbox.put("worker", n ^ 1, b"%d" % (n ^ 1))
                await asyncio.sleep(0.001)

        telling = asyncio.create_task(tell())
        while len(heard) < 50:
            heard += await mailbox.get("worker")
        await telling
        return heard

    assert asyncio.run(asked()) == [b"%d" % n for n in range(50)]
