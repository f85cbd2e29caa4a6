"""What a trial will take, from what the trials most like it took."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Probe
from hpo.training.passes import size_of

MOST_ALIKE = 4
"""Trials that are asked. The dearest of four stands for the 0.8 quantile: of five that are alike each is as likely as
the others to be the dearest, so the next one takes longer once in five times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How long a trial took to come how far."""

    hyperparameters: Hyperparameters
    rung: int
    """Per mille of the study's longest trial; at least 1."""
    seconds: float
    """Training and evaluation time up to there."""

    @property
    def rate(self) -> float:
        """Seconds for each per mille."""
        return self.seconds / self.rung


@dataclass(frozen=True, slots=True)
class Costs:
    """What trials take on the devices of a study."""

    seen: Sequence[Seen]
    """What trials took, the last seen at the end."""
    expected: Sequence[Seen] = ()
    """What a probe says of some; it counts for sizes of which no trial was seen, and no more than trials took."""

    def seconds(self, hyperparameters: Hyperparameters, last_rung: int) -> float | None:
        """Return what a trial takes to `last_rung`, on the high side: what is begun must end in time.

        Those of the same method and length of texts tell, or else of the same method, or else all: of these the dearest
        among the four most alike in batch, layers, passes and optimizer. A quantile over a whole size takes trials of
        other batches and depths for its like; a fitted line would let a dearer trial lower what another is expected
        to take.

        Args:
            hyperparameters: of the trial.
            last_rung: its end, in per mille of the study's longest trial.

        Returns:
            Seconds of training and evaluation; None where nothing is known.
        """
        # Of those that are as near the last seen come first: a device may be busier than it was.
        latest_first = self._telling(hyperparameters)[::-1]
        nearest = sorted(latest_first, key=lambda one: _distance(one.hyperparameters, hyperparameters))
        rates = [one.rate for one in nearest[:MOST_ALIKE]]
        return max(rates) * last_rung if rates else None

    def _telling(self, hyperparameters: Hyperparameters) -> Sequence[Seen]:
        """Return the trials that tell most, all of them alike in what decides most."""
        size, method = size_of(hyperparameters), hyperparameters.method
        if of_size := [one for one in self.seen if size_of(one.hyperparameters) == size]:
            return of_size
        known = [*self._corrected(), *self.seen]
        of_size = [one for one in known if size_of(one.hyperparameters) == size]
        return of_size or [one for one in known if one.hyperparameters.method == method] or known

    def _corrected(self) -> Sequence[Seen]:
        """Return what the probe said, less by as much as it said too much of the trials that ran since.

        A busy machine makes a few steps look dear. That a trial took longer may be due to what does not grow with it.
        """
        probed = Costs((), self.expected)
        said = [(one.seconds, probed.seconds(one.hyperparameters, one.rung)) for one in self.seen]
        factor = min(1.0, max((took / expected for took, expected in said if expected), default=1.0))
        return [replace(one, seconds=factor * one.seconds) for one in self.expected]


def expected_seconds(probe: Probe, *, steps: int, scored_rows: int) -> float:
    """Return what a trial of so many optimizer steps takes, with evaluations of so many rows in all.

    Args:
        probe: of a configuration that fits into memory.
        steps: optimizer steps of the whole trial.
        scored_rows: rows scored in it, each as often as it is scored.
    """
    assert probe.feasible, "what does not fit into memory tells no time"
    return steps * probe.seconds_per_step + scored_rows * probe.seconds_per_scored_row


def _distance(one: Hyperparameters, other: Hyperparameters) -> float:
    """Return how unlike two trials of a size are in what a pass over the texts takes; 1 is a batch twice as large.

    Layers change that in proportion, a batch much less, and passes only by what evaluations take beside them.
    """
    return (
        _apart(one.batch_size, other.batch_size)
        + 2 * _apart(one.kept_layers, other.kept_layers)
        + 2 * _apart(one.trained_layers, other.trained_layers)
        + _apart(one.epochs * one.data_fraction, other.epochs * other.data_fraction) / 2
        + (one.optimizer != other.optimizer) / 4
    )


def _apart(one: float | None, other: float | None) -> float:
    """Return how many times one is twice the other; 1 where either is None, which stands for all layers."""
    if one == other:
        return 0.0
    return 1.0 if one is None or other is None else abs(math.log2(one / other))
