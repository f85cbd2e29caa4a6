"""A few steps at both ends of the space: what a search expects of its trials before it has seen one."""

from dataclasses import dataclass

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError
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
    lead: LeadWorker, config: StudyConfig, space: SearchSpace, splits: Splits, steps: int = SHORT_STEPS
) -> ShortCheck:
    """Take `steps` steps at both ends of the space, and say what they promise.

    Raises:
        ConfigurationError: not even one text of the cheapest configuration fits into memory.
    """
    dear, cheap = (probed(lead, config, space, splits, end(space), steps) for end in (dearest, cheapest))
    if not cheap.fits:
        raise ConfigurationError(no_room("cheapest", cheap.hyperparameters))
    fitting = [end for end in (dear, cheap) if end.fits]
    notes = (
        None if dear.fits else no_room("dearest", dear.hyperparameters),
        *(on_first_loss(end.probe, len(splits.label_names)) for end in fitting),
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
) -> Probed:
    """Take `steps` steps of a configuration of `space`."""
    return Probed(
        hyperparameters=hyperparameters,
        extent=extent_of(config, space, splits, hyperparameters),
        probe=lead.probe(hyperparameters, steps),
    )
