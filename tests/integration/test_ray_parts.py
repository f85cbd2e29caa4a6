"""Assumptions about Ray itself, on a real one: how it serves many calls, and how it shares out GPUs."""

import os
import pickle
from collections.abc import Iterator

import pytest

from hpo.runners.ray.setup import TrialResources, set_up_ray

pytest.importorskip("ray", reason="Ray is not installed: pip install 'llm-hpo[ray]'")
set_up_ray()

import ray  # noqa: E402
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group  # noqa: E402

from hpo.runners.ray import cluster_worker  # noqa: E402
from hpo.runners.ray.connection import machines_of_cluster  # noqa: E402
from hpo.runners.ray.tune_launcher import TuneLauncher  # noqa: E402

PARKED = 1200
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One machine that says it has four GPUs."""
    ray.init(address="local", num_cpus=2, num_gpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_workers_that_wait_at_the_mailbox_keep_no_message_from_others() -> None:
    """Calls of workers that have died wait there too: Ray by itself serves a thousand calls, and the next one never."""
    launcher = TuneLauncher(TrialResources(rank={"CPU": 1}, ranks=1), asked=0)
    waiting = [launcher.mailbox.get.remote(f"worker-{n}") for n in range(PARKED)]
    for n in (0, PARKED - 1):
        launcher.tell(f"worker-{n}", f"to {n}")
        assert [pickle.loads(message) for message in ray.get(waiting[n], timeout=60)] == [f"to {n}"]
    ray.kill(launcher.mailbox)


@pytest.mark.parametrize("part", [0.6, 0.3333])
def test_parts_of_gpus_are_counted_as_ray_places_them(part: float) -> None:
    resources = TrialResources(rank={"GPU": part}, ranks=1)
    expected = resources.fits(machines_of_cluster())
    groups: list[PlacementGroup] = [placement_group([dict(resources.rank)]) for _ in range(expected + 1)]
    try:
        assert all(group.wait(30) for group in groups[:-1])
        assert not groups[-1].wait(1)
    finally:
        for group in groups:
            remove_placement_group(group)


@pytest.mark.slow
def test_a_worker_sees_its_own_gpu_where_ray_is_told_not_to_hide_the_others() -> None:
    """Its first GPU, on which it trains, would be that of all workers."""

    class Seeing:
        def seen(self) -> tuple[str | None, str | None]:
            before = os.environ.get("CUDA_VISIBLE_DEVICES")
            cluster_worker.see_own_gpus()
            return before, os.environ.get("CUDA_VISIBLE_DEVICES")

    taken = placement_group([{"GPU": 1}])
    assert taken.wait(30)
    environment = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
    actor = ray.remote(num_cpus=0, num_gpus=1, runtime_env=environment)(Seeing).remote()
    before, after = ray.get(actor.seen.remote(), timeout=120)
    assert before in (None, "")
    assert after == "1"
