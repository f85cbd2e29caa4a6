"""Forecast of a search: trials, time and disk, from a few steps at the extremes of its space."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Probe
from hpo.training.baselines import MOST_TRAIN_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A configuration, the costs of a few of its steps, and of a whole trial."""

    hyperparameters: Hyperparameters
    probe: Probe
    steps: int
    """Of a trial, over all folds."""
    seconds: float
    """What a trial takes; 0 where it does not fit into memory."""

    @property
    def fits(self) -> bool:
        """Whether it fits into memory, if need be one row at a time."""
        return self.probe.feasible


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A search over trials that lie between the extremes of its space.

    Of a pair the first is as if all trials were as short as the shortest extreme, the second as if all were as long as
    the longest; None where no extreme fits into memory.
    """

    extremes: Mapping[str, Probed]
    """The extremes of the space by name."""
    workers: int
    """Trials side by side."""
    trials: int | None
    """Trials in all; None for as many as fit into the time."""
    seconds_left: float | None
    """Until trials must have ended; None without a deadline."""
    device_seconds: float | None
    """Seconds of training, summed over the workers; None without such a limit."""
    kept_weights: int
    """Of how many trials the weights are kept while the search runs."""

    @property
    def trial_seconds(self) -> tuple[float, float] | None:
        """What a trial takes."""
        seconds = [extreme.seconds for extreme in self.extremes.values() if extreme.fits]
        return (min(seconds), max(seconds)) if seconds else None

    @property
    def fitting(self) -> tuple[int, int] | None:
        """Trials that fit into the time, were there no limit to their number; None also where there is no such time."""
        each = self.trial_seconds
        if each is None or (self.seconds_left is None and self.device_seconds is None):
            return None
        return self._fitting(each[0]), self._fitting(each[1])

    @property
    def search_seconds(self) -> tuple[float, float] | None:
        """What all trials take, if none is pruned; None also where their number has no limit."""
        if self.trials is None or self.trial_seconds is None:
            return None
        rounds = math.ceil(self.trials / self.workers)
        return rounds * self.trial_seconds[0], rounds * self.trial_seconds[1]

    @property
    def disk_bytes(self) -> int:
        """Most that lies on the disk: two checkpoints of each worker's trial, the weights it writes, and those kept."""
        probes = [extreme.probe for extreme in self.extremes.values() if extreme.fits]
        checkpoint = max((probe.checkpoint_bytes for probe in probes), default=0)
        weights = max((probe.weights_bytes for probe in probes), default=0)
        return 2 * self.workers * checkpoint + (self.workers + self.kept_weights) * weights

    def _fitting(self, each: float) -> int:
        of_time = math.inf if self.seconds_left is None else self.workers * (self.seconds_left // each)
        of_devices = math.inf if self.device_seconds is None else self.device_seconds // each
        return int(min(of_time, of_devices))


def final_evaluation_seconds(probes: Collection[Probe], rows: int) -> float:
    """Return the seconds that scoring so many rows takes, amply; 0 for none."""
    if not rows:
        return 0.0
    return 2 * rows * max((probe.seconds_per_scored_row for probe in probes), default=0.0) + 1.0


SECONDS_OF_LINEAR_MODELS = 5.0
LINEAR_SECONDS_PER_ROW = 0.002


def baseline_seconds(probes: Collection[Probe], train_rows: int, rows: int) -> float:
    """Return the seconds that the baselines take, amply: features of all rows, and the linear models over them."""
    trained = min(train_rows, MOST_TRAIN_ROWS)
    linear = SECONDS_OF_LINEAR_MODELS + LINEAR_SECONDS_PER_ROW * trained
    return final_evaluation_seconds(probes, trained + rows) + linear
