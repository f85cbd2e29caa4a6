"""A few steps at both ends of the space: what a search expects of its trials before it has seen one."""

import math
import time
from dataclasses import dataclass

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.config.tasks import TASK_FACTS
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError
from hpo.messages import Probe
from hpo.runners.checking.doubts import no_room, on_first_loss
from hpo.runners.checking.forecast import Probed, baseline_seconds, reading_seconds
from hpo.runners.workforce import LeadWorker
from hpo.search.corners import cheapest, dearest
from hpo.search.costs import Seen
from hpo.search.extent import extent_of
from hpo.space.search_space import SearchSpace

SHORT_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortCheck:
    """What a search expects of its trials."""

    dearest: Seen
    """What a trial takes at the dear end of the space; at the cheap one, where that one does not fit into memory."""
    cheapest: Seen
    """What a trial takes at the cheap end."""
    reserve: float
    """Seconds to be kept for reading the test split after the search; 0 without one."""
    baselines: float
    """Seconds that the baselines of a confirmation may take."""
    notes: tuple[str, ...]
    """Sentences for the user."""


def short_check(
    lead: LeadWorker,
    config: StudyConfig,
    space: SearchSpace,
    splits: Splits,
    *,
    most_seconds: float = math.inf,
    row_seconds: float = 0.0,
) -> ShortCheck:
    """Take a few steps at both ends of the space, and say what they promise.

    Args:
        lead: takes them.
        config: the study.
        space: its space.
        splits: its data.
        most_seconds: that it takes, roughly; an end of which a step would take longer is reckoned from `row_seconds`.
        row_seconds: what is known of one row of the longest texts, forward and backward; 0 where nothing is.

    Raises:
        ConfigurationError: not even one text of the cheapest configuration fits into memory.
    """
    until = time.perf_counter() + most_seconds
    expected = TASK_FACTS[config.task.name].first_loss(len(splits.label_names))

    def looked_at(hyperparameters: Hyperparameters) -> Probed:
        left = until - time.perf_counter()
        if not row_seconds or row_seconds * hyperparameters.batch_size <= left:
            return probed(lead, config, space, splits, hyperparameters, SHORT_STEPS, left)
        extent = extent_of(config, space, splits, hyperparameters)
        reckoned = _reckoned(hyperparameters.batch_size, row_seconds, expected)
        return Probed(hyperparameters=hyperparameters, extent=extent, probe=reckoned)

    # The cheapest first: where time is short, it is the one that can be had.
    cheap = looked_at(cheapest(space))
    if not cheap.fits:
        raise ConfigurationError(no_room("cheapest", cheap.hyperparameters))
    dear = looked_at(dearest(space))
    fitting = [end for end in (dear, cheap) if end.fits]
    notes = (
        None if dear.fits else no_room("dearest", dear.hyperparameters),
        *(on_first_loss(end.probe, expected) for end in fitting),
    )
    probes = [end.probe for end in fitting]
    read = splits.confirmation or splits.validation
    return ShortCheck(
        dearest=fitting[0].seen,
        cheapest=cheap.seen,
        reserve=reading_seconds(probes, splits.test.rows if splits.test else 0),
        baselines=baseline_seconds(probes, splits.train.rows, read.rows),
        notes=tuple(dict.fromkeys(note for note in notes if note is not None)),
    )


def probed(
    lead: LeadWorker,
    config: StudyConfig,
    space: SearchSpace,
    splits: Splits,
    hyperparameters: Hyperparameters,
    steps: int,
    most_seconds: float = math.inf,
) -> Probed:
    """Take `steps` steps of a configuration of `space`, fewer where there are not so many seconds for them."""
    return Probed(
        hyperparameters=hyperparameters,
        extent=extent_of(config, space, splits, hyperparameters),
        probe=lead.probe(hyperparameters, steps, most_seconds),
    )


def _reckoned(rows: int, row_seconds: float, first_loss: float | None) -> Probe:
    """Return what a step of so many rows costs if each takes so long, forward and backward; the rest is not known."""
    return Probe(
        feasible=True,
        rows_at_once=None,
        seconds_per_step=rows * row_seconds,
        rows_per_step=rows,
        # The backward pass takes about twice as long as the forward pass.
        seconds_per_scored_row=row_seconds / 3,
        peak_memory_bytes=0,
        checkpoint_bytes=0,
        weights_bytes=0,
        first_loss=first_loss or 0.0,
    )
