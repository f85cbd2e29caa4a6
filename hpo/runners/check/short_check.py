"""Short check at the start of a search: a few steps at two extremes of the space, for the first forecasts."""

import math
import time
from dataclasses import dataclass

import torch

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.config.tasks import TASK_FACTS
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError
from hpo.runners.check.search_forecast import baseline_seconds, final_evaluation_seconds
from hpo.runners.check.warnings import no_room, on_first_loss, on_memory, on_metric
from hpo.search.extremes import cheapest, dearest
from hpo.search.forecasts import CostModel, fitted_costs
from hpo.search.workload import Workload
from hpo.space.search_space import SearchSpace
from hpo.training.worker import Worker

SHORT_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortCheck:
    """The first forecasts of a search."""

    costs: CostModel
    longest: float
    """Seconds of the dearest trial; of the cheapest, where the dearest does not fit into memory."""
    shortest: float
    """Seconds of the shorter of both trials."""
    reserve: float
    """Seconds to be kept for the test split after the search; 0 without one."""
    baselines: float
    """Seconds that the baselines of a confirmation may take."""
    notes: tuple[str, ...]
    """Sentences for the user."""


def short_check(
    lead: Worker,
    config: StudyConfig,
    space: SearchSpace,
    splits: Splits,
    *,
    most_seconds: float = math.inf,
    workers: int = 1,
) -> ShortCheck:
    """Take a few steps at the dearest and cheapest configuration of the space, and forecast trials from them.

    Args:
        lead: takes them.
        config: the study.
        space: its space.
        splits: its data.
        most_seconds: that it takes, roughly; where a dear step would go beyond, both are forecast from the cheapest.
        workers: how many the search has.

    Raises:
        ConfigurationError: not even one row of the cheapest configuration fits into memory.
    """
    until = time.perf_counter() + most_seconds
    workload = workload_of(lead, config, space)
    first_loss = TASK_FACTS[config.task.name].first_loss(len(splits.label_names))
    # The cheapest first: where time is short, it is the one that can be had.
    cheap, dear = cheapest(space), dearest(space)
    probes = {cheap: lead.probe(cheap, SHORT_STEPS, most_seconds)}
    if not probes[cheap].feasible:
        raise ConfigurationError(no_room("cheapest", cheap))
    left = until - time.perf_counter()
    trial_seconds = fitted_costs(workload, probes).trial_seconds(dear) or 0.0
    if dear != cheap and trial_seconds / workload.of(dear).steps <= left:
        probes[dear] = lead.probe(dear, SHORT_STEPS, left)
    fitting = {values: probe for values, probe in probes.items() if probe.feasible}
    costs, held_out = fitted_costs(workload, fitting), splits.confirmation or splits.validation
    # Where there was no time for the dearest, its costs follow from the cheapest; where it does not fit, it has none.
    seconds = [
        costs.trial_seconds(one) or 0.0 for one in ((cheap, dear) if fitting.keys() == probes.keys() else fitting)
    ]
    notes = (
        on_memory(list(fitting.values()), processes_of_device(config.compute, workers)),
        None if fitting.keys() == probes.keys() else no_room("dearest", dear),
        *(on_first_loss(probe, first_loss) for probe in fitting.values()),
        *map(on_metric, fitting.values()),
    )
    return ShortCheck(
        costs=costs,
        longest=seconds[-1],
        shortest=min(seconds),
        reserve=final_evaluation_seconds(fitting.values(), splits.test.rows if splits.test else 0),
        baselines=baseline_seconds(fitting.values(), splits.train.rows, held_out.rows),
        notes=tuple(dict.fromkeys(note for note in notes if note is not None)),
    )


def processes_of_device(compute: ComputeConfig, workers: int) -> int:
    """Return how many processes of this machine's workers train on one device; 0 where they train on a cluster."""
    on_cpu = compute.device == "cpu" or not torch.cuda.is_available()
    devices = 1 if on_cpu else torch.cuda.device_count()
    return 0 if compute.runner == "ray_tune" else math.ceil(workers * compute.ranks_of_trial / devices)


def workload_of(lead: Worker, config: StudyConfig, space: SearchSpace) -> Workload:
    """Return the workload of a study's trials."""
    dimensions = lead.dimensions(int(space.largest("max_length")))
    return Workload(config=config, space=space, dimensions=dimensions)
