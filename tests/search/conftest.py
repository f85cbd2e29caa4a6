"""A clock that stands still, and what is asked of a coordinator by it."""

import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Assignment, Probe, Timed
from hpo.search.coordinator import Coordinator
from hpo.search.forecasts import CostModel, fitted_costs
from hpo.search.trial_sizes import Workload
from hpo.space.search_space import SearchSpace
from tests.search.scripted import CPU, SPACE, study_at

START = 1_800_000_000.0
SECONDS_OF_LONGEST = 10.0
"""A report at 1000 per mille tells ten seconds: see `report_at`."""


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def asked(coordinator: Coordinator, name: str, starts_in: float = 0.0) -> Assignment | None:
    return coordinator.next_assignment(name, CPU, starts_in=starts_in)


def length(assignment: Assignment) -> float:
    return SECONDS_OF_LONGEST * assignment.milestones[-1].rung / 1000


def probed(seconds: float) -> CostModel:
    """Return what a probe says of trials, of which the longest takes so long: three epochs of a thousand rows."""
    workload = Workload(config=study_at("sqlite://"), space=SearchSpace.from_mapping(SPACE, "scripted"))
    step = Timed(trained_tokens=16, updates=1, seconds=seconds * 16 / 3000)
    probe = Probe(
        feasible=True,
        micro_batch_size=None,
        seconds_per_step=step.seconds,
        seconds_per_scored_row=0.0,
        timed=(step,),
        peak_memory_bytes=0,
        checkpoint_bytes=0,
        weights_bytes=0,
        first_loss=0.7,
    )
    return fitted_costs(workload, {Hyperparameters(): probe})
