"""Forecast of a search: trials, time and disk, from a few steps at the extremes of its space."""

import math
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.config.tasks import TASK_FACTS
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError
from hpo.messages import Probe
from hpo.runners.check.warnings import no_room, on_first_loss, on_memory, on_metric
from hpo.search.forecasts import CostModel, fitted_costs
from hpo.search.trial_sizes import Workload, cheapest, dearest
from hpo.space.search_space import SearchSpace
from hpo.tasks.protocol import MOST_TRAIN_ROWS, Baseline
from hpo.tasks.registry import TASKS
from hpo.training.worker import Worker

SECONDS_OF_LINEAR_MODELS = 5.0
LINEAR_SECONDS_PER_ROW = 0.002
SHORT_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A configuration, with the costs of a few of its steps and of a whole trial."""

    hyperparameters: Hyperparameters
    probe: Probe
    steps: int
    """Steps of a trial, over all folds."""
    seconds: float
    """Seconds of a trial; 0 if it does not fit into memory."""

    @property
    def fits(self) -> bool:
        """True if it fits into memory, if need be one row at a time."""
        return self.probe.feasible


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A search over trials that lie between the extremes of its space.

    The first of a pair assumes that all trials are as short as the shortest extreme, the second that all are as long as
    the longest; None if no extreme fits into memory.
    """

    extremes: Mapping[str, Probed]
    """The extremes of the space by name."""
    workers: int
    """Number of trials trained at the same time."""
    trials: int | None
    """Trials in total; None for as many as fit into the time."""
    seconds_left: float | None
    """Seconds until trials must have ended; None without a deadline."""
    device_seconds: float | None
    """Seconds of training, summed over the workers; None without such a limit."""
    kept_weights: int
    """Number of trials whose weights are kept during the search."""
    paused: int = 0
    """Largest number of trials that the pruner keeps paused, with their checkpoints."""

    @property
    def trial_seconds(self) -> tuple[float, float] | None:
        """Seconds of a trial."""
        seconds = [extreme.seconds for extreme in self.extremes.values() if extreme.fits]
        return (min(seconds), max(seconds)) if seconds else None

    @property
    def fitting(self) -> tuple[int, int] | None:
        """Trials that fit into the time, regardless of their number in the budget; None without a time limit too."""
        each = self.trial_seconds
        if each is None or (self.seconds_left is None and self.device_seconds is None):
            return None
        return self._fitting(each[0]), self._fitting(each[1])

    @property
    def search_seconds(self) -> tuple[float, float] | None:
        """Seconds of all trials, if none is pruned; None also if their number has no limit."""
        if self.trials is None or self.trial_seconds is None:
            return None
        rounds = math.ceil(self.trials / self.workers)
        return rounds * self.trial_seconds[0], rounds * self.trial_seconds[1]

    @property
    def disk_bytes(self) -> int:
        """Peak disk usage: two checkpoints of each worker's trial, those of paused trials, and the weights of some."""
        probes = [extreme.probe for extreme in self.extremes.values() if extreme.fits]
        checkpoint = max((probe.checkpoint_bytes for probe in probes), default=0)
        weights = max((probe.weights_bytes for probe in probes), default=0)
        paused = self.paused if self.trials is None else min(self.paused, self.trials)
        return (2 * self.workers + paused) * checkpoint + (self.workers + self.kept_weights) * weights

    def _fitting(self, each: float) -> int:
        of_time = math.inf if self.seconds_left is None else self.workers * (self.seconds_left // each)
        of_devices = math.inf if self.device_seconds is None else self.device_seconds // each
        return int(min(of_time, of_devices))


def final_evaluation_seconds(probes: Collection[Probe], rows: int) -> float:
    """Return a generous estimate of the seconds to score that many rows; 0 for none."""
    if not rows:
        return 0.0
    return 2 * rows * max((probe.seconds_per_scored_row for probe in probes), default=0.0) + 1.0


def baseline_seconds(probes: Collection[Probe], baselines: Iterable[Baseline], splits: Splits) -> float:
    """Return a generous estimate of the seconds of baselines: outputs of the model, and linear models on them."""
    rows, held_out = splits.train.rows, splits.confirmation or splits.validation
    linear = SECONDS_OF_LINEAR_MODELS + LINEAR_SECONDS_PER_ROW * min(rows, MOST_TRAIN_ROWS)
    asked = [min(rows, one.train_rows) + held_out.rows for one in baselines if one.inputs in ("features", "answers")]
    return final_evaluation_seconds(probes, sum(asked)) + linear


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortCheck:
    """The first forecasts of a search."""

    costs: CostModel
    longest: float
    """Seconds of the dearest trial; of the cheapest if the dearest does not fit into memory."""
    shortest: float
    """Seconds of the shorter of both trials."""
    reserve: float
    """Seconds reserved for the test split after the search; 0 without one."""
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
        lead: the worker that takes them.
        config: the study.
        space: its space.
        splits: its data.
        most_seconds: limit, which only the first step of the cheapest may exceed; if a step of the dearest would, both
            are forecast from the cheapest.
        workers: number of the search's workers.

    Raises:
        ConfigurationError: not even one row of the cheapest configuration fits into memory.
    """
    until = time.perf_counter() + most_seconds
    first_loss = TASK_FACTS[config.task.kind].first_loss(len(splits.label_names))
    # The cheapest first, because with little time it is the only one.
    cheap, dear = cheapest(space), dearest(space)
    probes = {cheap: lead.probe(cheap, SHORT_STEPS, most_seconds)}
    # Only a trial finds out whether frozen layers are computed once.
    workload = workload_of(lead, config, space)
    if not probes[cheap].feasible:
        raise ConfigurationError(no_room("cheapest", cheap))
    left = until - time.perf_counter()
    if dear != cheap and longest_step_seconds(fitted_costs(workload, probes), dear) <= left:
        probes[dear] = lead.probe(dear, SHORT_STEPS, left)
    fitting = {values: probe for values, probe in probes.items() if probe.feasible}
    costs = fitted_costs(workload, fitting)
    # If there was no time for the dearest, its costs are computed from the cheapest; if it does not fit, it has none.
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
        baselines=baseline_seconds(fitting.values(), TASKS[config.task.kind].baselines.values(), splits),
        notes=tuple(dict.fromkeys(note for note in notes if note is not None)),
    )


def longest_step_seconds(costs: CostModel, hyperparameters: Hyperparameters) -> float:
    """Return the seconds of a step on the longest texts, with its share of the evaluations; 0 if unknown."""
    lengths = np.minimum(costs.workload.dimensions.train_lengths, hyperparameters.max_length)
    step_seconds = (costs.trial_seconds(hyperparameters) or 0.0) / costs.workload.of(hyperparameters).steps
    return step_seconds * float(lengths.max() / lengths.mean())


def processes_of_device(compute: ComputeConfig, workers: int) -> int:
    """Return the number of this machine's worker processes on one device; 0 if they are on a cluster."""
    on_cpu = compute.device == "cpu" or not torch.cuda.is_available()
    devices = 1 if on_cpu else torch.cuda.device_count()
    return 0 if compute.runner == "ray_tune" else math.ceil(workers * compute.ranks_of_trial / devices)


def workload_of(lead: Worker, config: StudyConfig, space: SearchSpace) -> Workload:
    """Return the workload of a study's trials."""
    dimensions = lead.dimensions(int(space.largest("max_length")))
    return Workload(config=config, space=space, dimensions=dimensions)
