"""Who carries trials, how many side by side, and which device each has."""

import pytest

from hpo.config.study_file import ComputeConfig
from hpo.errors import ConfigurationError
from hpo.runners.processes.worker_specs import WorkerSpec, runner_of, worker_specs_of, workers_of


@pytest.mark.parametrize(
    ("seen", "compute", "runner", "workers"),
    [
        (0, {}, "inline", 1),
        (1, {}, "processes", 1),
        (1, {"device": "cpu"}, "inline", 1),
        (4, {}, "processes", 4),
        (4, {"device": "cpu"}, "inline", 1),
        (0, {"workers": 2}, "processes", 2),
        (4, {"workers": 1}, "processes", 1),
        (4, {"runner": "inline"}, "inline", 4),
        (0, {"runner": "processes"}, "processes", 1),
    ],
)
def test_who_carries_trials_and_how_many(gpus, seen: int, compute: dict[str, object], runner: str, workers: int):
    gpus(seen)
    config = ComputeConfig.model_validate(compute)
    assert (runner_of(config), workers_of(config)) == (runner, workers)


def test_a_gpu_that_is_not_there_is_refused(gpus):
    gpus(0)
    with pytest.raises(ConfigurationError, match="torch sees no GPU"):
        runner_of(ComputeConfig(device="cuda"))
    with pytest.raises(ConfigurationError, match="torch sees no GPU"):
        workers_of(ComputeConfig(device="cuda"))


def test_more_workers_than_gpus_share_them_in_turns(gpus):
    gpus(2)
    worker_specs = worker_specs_of(ComputeConfig(workers=3), {})
    assert worker_specs == (
        WorkerSpec(worker="gpu-0", devices=("cuda:0",), visible=("0",), threads=5, gpu_share=0.5),
        WorkerSpec(worker="gpu-1", devices=("cuda:1",), visible=("1",), threads=5, gpu_share=0.5),
        WorkerSpec(worker="gpu-2", devices=("cuda:0",), visible=("0",), threads=5, gpu_share=0.5),
    )


def test_gpus_that_were_chosen_from_outside_are_the_ones_used(gpus):
    gpus(2)
    worker_specs = worker_specs_of(ComputeConfig(threads=3), {"CUDA_VISIBLE_DEVICES": "5, GPU-8f"})
    assert [(spec.devices, spec.visible, spec.threads) for spec in worker_specs] == [
        (("cuda:0",), ("5",), 3),
        (("cuda:1",), ("GPU-8f",), 3),
    ]


def test_each_part_of_a_gpu_that_mig_divides_has_a_worker(gpus):
    """CUDA shows the first of them alone, so torch counts one."""
    gpus(1)
    parts = {"CUDA_VISIBLE_DEVICES": "MIG-5b1e,MIG-9a2c,MIG-77d0"}
    assert workers_of(ComputeConfig(), parts) == 3
    assert [spec.visible for spec in worker_specs_of(ComputeConfig(), parts)] == [
        ("MIG-5b1e",),
        ("MIG-9a2c",),
        ("MIG-77d0",),
    ]
    shared = worker_specs_of(ComputeConfig(gpus_per_trial=0.5), parts)
    assert [spec.visible[0] for spec in shared] == [*parts["CUDA_VISIBLE_DEVICES"].split(",")] * 2


def test_a_process_without_a_gpu_has_its_share_of_the_cores(gpus):
    gpus(0)
    assert worker_specs_of(ComputeConfig(workers=32), {})[31] == WorkerSpec(
        worker="cpu-31", devices=("cpu",), visible=("",), threads=1
    )
