"""Workers of several processes: how GPUs are dealt out to them, and searches in which one of them is killed."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from hpo.config.loading import load_config
from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits, load_splits
from hpo.distributed.rank_group import RankInfo
from hpo.errors import ConfigurationError, ModelError, TrainingError
from hpo.messages import Decision, Ending, Outcome, Report, WorkerSettings
from hpo.runners.callbacks import SearchCallback
from hpo.runners.processes.launcher import environment_of, open_processes
from hpo.runners.processes.protocol import Arrived
from hpo.runners.processes.worker_specs import WorkerSpec, runner_of, worker_specs_of, workers_of
from hpo.runners.run import run
from hpo.store.results import StudyResults
from tests.models import save_tiny_bert, tiny_assignment, write_texts
from tests.runners.openers import open_refused

SPACE = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 3e-3, "max": 2e-2, "default": 1e-2},
    "batch_size": {"values": [7, 8], "default": 8},
    "dropout": {"value": 0.0},
    "epochs": {"value": 2},
    "max_length": {"value": 16},
}


# -- how many, and where


@pytest.mark.parametrize(
    ("seen", "compute", "runner", "workers"),
    [
        (8, {"gpus_per_trial": 2}, "processes", 4),
        (5, {"gpus_per_trial": 2}, "processes", 2),
        (2, {"gpus_per_trial": 2}, "processes", 1),
        (2, {"ranks": 2}, "processes", 1),
        (0, {"ranks": 2}, "processes", 1),
        (8, {"ranks": 2, "device": "cpu"}, "processes", 1),
        (1, {"gpus_per_trial": 1}, "processes", 1),
        (1, {"gpus_per_trial": 0.5}, "processes", 2),
        (3, {"gpus_per_trial": 0.3}, "processes", 9),
        (1, {"gpus_per_trial": 0.6}, "processes", 1),
        (2, {"gpus_per_trial": 0.5, "workers": 3}, "processes", 3),
    ],
)
def test_as_many_workers_as_there_are_gpus_for(gpus, seen: int, compute: dict, runner: str, workers: int) -> None:
    gpus(seen)
    config = ComputeConfig.model_validate(compute)
    assert (runner_of(config), workers_of(config)) == (runner, workers)


def test_gpus_are_dealt_out_to_whole_workers(gpus) -> None:
    gpus(4)
    worker_specs = worker_specs_of(ComputeConfig(gpus_per_trial=2), {"CUDA_VISIBLE_DEVICES": "4,5,6,7"})
    assert worker_specs == (
        WorkerSpec(worker="gpu-0", devices=("cuda:0", "cuda:1"), visible=("4", "5"), threads=4),
        WorkerSpec(worker="gpu-1", devices=("cuda:2", "cuda:3"), visible=("6", "7"), threads=4),
    )
    assert worker_specs[1].arrived == Arrived(name="gpu-1", device="cuda:2 and 1 more", place="gpu-1")
    environments = [environment_of(worker_specs[1], rank, {"PATH": "/bin"}, "secret") for rank in range(2)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["6", "7"]


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_settings_of_the_allocator_that_the_user_has_made_are_kept(gpus, name: str) -> None:
    gpus(1)
    [spec] = worker_specs_of(ComputeConfig(), {})
    environment = environment_of(spec, 0, {name: "max_split_size_mb:64"}, "secret")
    settings = {key: value for key, value in environment.items() if key.endswith("ALLOC_CONF")}
    assert settings == {name: "max_split_size_mb:64"}
    assert environment_of(spec, 0, {}, "secret")["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"


def test_a_worker_never_has_two_ranks_on_one_gpu(gpus) -> None:
    gpus(3)
    worker_specs = worker_specs_of(ComputeConfig(gpus_per_trial=2, workers=3), {})
    assert [spec.devices for spec in worker_specs] == [("cuda:0", "cuda:1"), ("cuda:2", "cuda:0"), ("cuda:1", "cuda:2")]


def test_several_workers_share_a_gpu(gpus) -> None:
    gpus(2)
    worker_specs = worker_specs_of(ComputeConfig(gpus_per_trial=0.5), {})
    assert [spec.devices for spec in worker_specs] == [("cuda:0",), ("cuda:1",), ("cuda:0",), ("cuda:1",)]


def test_ranks_on_a_cpu_share_its_cores(gpus) -> None:
    gpus(0)
    assert worker_specs_of(ComputeConfig(ranks=4, workers=2), {})[1] == WorkerSpec(
        worker="cpu-1", devices=("cpu",) * 4, visible=("",) * 4, threads=2
    )


@pytest.mark.parametrize(
    ("seen", "compute", "told"),
    [
        (2, {"gpus_per_trial": 4}, "compute.gpus_per_trial is 4, but the GPUs .* are 2; .*ray_tune"),
        (2, {"gpus_per_trial": 4, "workers": 1}, "compute.gpus_per_trial is 4, but the GPUs .* are 2"),
        (2, {"ranks": 3}, "compute.ranks is 3, but the GPUs .* are 2"),
        (0, {"gpus_per_trial": 2}, "compute.gpus_per_trial is 2, but the GPUs .* are 0"),
    ],
)
def test_more_gpus_for_a_trial_than_there_are_is_refused(gpus, seen: int, compute: dict, told: str) -> None:
    gpus(seen)
    with pytest.raises(ConfigurationError, match=told):
        worker_specs_of(ComputeConfig.model_validate(compute), {})


def test_what_a_cluster_is_asked_for_is_not_held_against_this_machine(gpus) -> None:
    gpus(0)
    assert runner_of(ComputeConfig(runner="ray_tune", gpus_per_trial=8)) == "ray_tune"


# -- whole searches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rank-groups")


@pytest.fixture(scope="module")
def material(folder: Path) -> dict[str, object]:
    torch.set_num_threads(1)
    texts = write_texts(folder / "texts.csv", rows=103)
    return {
        "study": "tiny",
        "model": {"name": str(save_tiny_bert(folder / "model"))},
        "data": {"train": str(texts), "test_fraction": 0.2},
        "space": SPACE,
        "search": {"sampler": "random", "pruner": "none"},
        "evaluation": {"rung_rows": 12, "rungs": 4, "first_rung": 250},
        "budget": {"trials": 3},
        "confirmation": {"finalists": 0, "audit": 0},
    }


def study_at(material: dict[str, object], store: Path, **compute: object) -> StudyConfig:
    computes = {"device": "cpu", "precision": "fp32", "threads": 1, **compute}
    return load_config(values={**material, "compute": computes, "store": {"url": f"sqlite:///{store}"}})


@pytest.fixture(scope="module")
def inline(material: dict[str, object], folder: Path) -> StudyResults:
    results = run(study_at(material, folder / "inline.db", runner="inline"))
    # There is something in which trials could differ.
    assert results.best.score is not None
    assert results.best.score > 0.8
    return results


@pytest.fixture
def _nothing_left() -> Iterator[None]:
    yield
    assert processes() == []


def processes() -> list[psutil.Process]:
    """Return the processes of workers that this one has started, in the order of their start."""
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    children = [child for child in living if "worker_process" in " ".join(child.cmdline())]
    return sorted(children, key=lambda child: child.create_time())


def assert_alike(found: StudyResults, wanted: StudyResults) -> None:
    assert [trial.configuration for trial in found.trials] == [trial.configuration for trial in wanted.trials]
    assert [trial.state for trial in found.trials] == ["COMPLETE"] * len(wanted.trials)
    for one, other in zip(found.trials, wanted.trials, strict=True):
        assert one.validation is not None
        assert other.validation is not None
        assert dict(one.validation.values) == pytest.approx(dict(other.validation.values), rel=1e-5, abs=1e-5)
    for one, other in zip(found.test, wanted.test, strict=True):
        assert one.trial == other.trial
        assert dict(one.held_out.scores.values) == pytest.approx(dict(other.held_out.scores.values), rel=1e-5, abs=1e-5)


class Killer(SearchCallback):
    """Kills a process of the worker at the first report of each of these trials, and takes down how attempts end."""

    def __init__(self, *trials: int, rank: int = 1) -> None:
        self._trials, self._rank = list(trials), rank
        self.outcomes: list[Outcome] = []
        self.ranks = 0

    def reported(self, report: Report, decision: Decision) -> None:
        self.ranks = len(processes())
        if report.trial in self._trials:
            self._trials.remove(report.trial)
            processes()[self._rank].send_signal(signal.SIGKILL)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@pytest.mark.slow
@pytest.mark.usefixtures("_nothing_left")
def test_a_search_on_two_ranks_is_the_one_on_one(
    material: dict[str, object], folder: Path, inline: StudyResults
) -> None:
    seen = Killer()
    assert_alike(run(study_at(material, folder / "pair.db", ranks=2), seen), inline)
    assert seen.ranks == 2
    assert {outcome.ending for outcome in seen.outcomes} == {Ending.COMPLETED}


@pytest.mark.slow
@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_is_killed_is_replaced_with_its_whole_rank_group(
    rank: int, material: dict[str, object], folder: Path, inline: StudyResults
) -> None:
    seen = Killer(1, rank=rank)
    assert_alike(run(study_at(material, folder / f"killed-{rank}.db", ranks=2), seen), inline)
    [died] = [outcome for outcome in seen.outcomes if outcome.ending is Ending.DIED]
    log = "cpu-0-rank-1.log" if rank else "cpu-0.log"
    assert died.trial == 1
    assert died.reason.startswith(f"The worker cpu-0 is lost. Its process of rank {rank} was killed by signal 9")
    assert died.reason.endswith(f"{log}.")


# -- single processes


@pytest.fixture
def splits(material: dict[str, object], folder: Path) -> Splits:
    config = study_at(material, folder / "none.db")
    return load_splits(config.data, config.seed)


@pytest.mark.slow
@pytest.mark.usefixtures("_nothing_left")
def test_what_rank_0_refuses_is_raised_here(material: dict[str, object], splits: Splits, tmp_path: Path) -> None:
    config = study_at(material, tmp_path / "none.db", ranks=2)
    with (
        pytest.raises(Exception, match=r"config\.json is empty"),
        open_processes(config, splits, tmp_path, opener=open_refused),
    ):
        raise AssertionError


@pytest.mark.slow
@pytest.mark.usefixtures("_nothing_left")
def test_what_another_rank_alone_refuses_is_raised_here(
    material: dict[str, object], splits: Splits, tmp_path: Path
) -> None:
    config = study_at(material, tmp_path / "none.db", ranks=2)
    with (
        pytest.raises(ModelError, match=r"Rank 1 has no such model\."),
        open_processes(config, splits, tmp_path, opener=open_rank_0_or_refuse),
    ):
        raise AssertionError


def open_rank_0_or_refuse(
    config: StudyConfig, splits: Splits, files: Path, *, rank_info: RankInfo, **_: object
) -> None:
    if rank_info.rank == 1:
        raise ModelError("Rank 1 has no such model.")
    time.sleep(600)


@pytest.mark.slow
@pytest.mark.usefixtures("_nothing_left")
def test_a_rank_that_cannot_be_opened_is_told_by_its_number(
    material: dict[str, object], splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.runners.remote_worker_pool.MOST_STARTS", 2)
    config = study_at(material, tmp_path / "none.db", ranks=2)
    with (
        pytest.raises(TrainingError, match=r"process of rank 1 ended with exit status 7; .* at 2 starts in a row"),
        open_processes(config, splits, tmp_path, opener=open_rank_0_alone),
    ):
        raise AssertionError


def open_rank_0_alone(config: StudyConfig, splits: Splits, files: Path, *, rank_info: RankInfo, **_: object) -> None:
    if rank_info.rank == 1:
        os._exit(7)
    time.sleep(600)


@pytest.mark.slow
@pytest.mark.usefixtures("_nothing_left")
def test_a_rank_that_dies_while_its_worker_waits_takes_it_along(
    material: dict[str, object], splits: Splits, tmp_path: Path
) -> None:
    with open_processes(study_at(material, tmp_path / "none.db", ranks=2), splits, tmp_path) as pool:
        pool.begin(WorkerSettings(precision="fp32"))
        _, other = processes()
        other.kill()
        said = []
        while not said:
            said = list(pool.listen(1.0))
        [(worker, lost)] = said
        assert (worker, "process of rank 1 was killed by signal 9" in lost.reason) == ("cpu-0", True)
        while "cpu-0" not in pool.capacities:
            pool.listen(1.0)
        pool.give("cpu-0", tiny_assignment())
        while not any(isinstance(one, Outcome) for _, one in said):
            said += pool.listen(1.0)
        assert said[-1][1].ending is Ending.COMPLETED
