"""Grid search: every combination of a discrete space once, in the order written or in a random one.

Optuna's own grid and brute force raise on conditional parameters that a trial does not have, and when nothing is left
they call `study.stop()` inside `tell`, an error outside `optimize`. Here, the end is known before a trial begins, and
is a normal end. The combinations tried are read from the study each time, so parallel trials, a rollback and a restart
change nothing.
"""

import random
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hpo.space.domains import Value
from hpo.space.search_space import SearchSpace

Combination = dict[str, Value]
"""One combination in Optuna's form: without constants, by sampled names."""

ENUMERATIONS = ("grid", "brute_force")
"""Samplers that try every combination once."""


class EnumeratingSampler(BaseSampler):
    """A sampler that gives each trial the first combination of a space that no trial of the study has."""

    def __init__(self, space: SearchSpace, *, otherwise: BaseSampler, shuffled_by: int | None = None) -> None:
        """List the combinations of `space`, shuffled by a seed or as written.

        Args:
            space: the space.
            otherwise: sampler of the values that an enqueued trial leaves open, if no combination matches.
            shuffled_by: a seed; None for the order written.

        Raises:
            SpaceError: a parameter with a continuous range.
        """
        combinations = [space.sampled(values) for values in space.combinations()]
        if shuffled_by is not None:
            random.Random(shuffled_by).shuffle(combinations)
        self._combinations = {combination_key(combination): combination for combination in combinations}
        self._otherwise = otherwise
        self._chosen: Combination = {}

    def next_untried(self, trials: Iterable[FrozenTrial]) -> Combination | None:
        """Return the first combination that none of `trials` has, whatever its state; None if all were tried."""
        tried = {combination_key(trial.params) for trial in trials}
        return next((combination for key, combination in self._combinations.items() if key not in tried), None)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose the combination of `trial`."""
        self._chosen = self.next_untried(study.get_trials(deepcopy=False)) or {}
        self._otherwise.before_trial(study, trial)

    def infer_relative_search_space(self, _study: Study, _trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return no parameters, because none is modelled."""
        return {}

    def sample_relative(self, *_asked: Any) -> dict[str, Any]:
        """Propose no parameters jointly."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the combination's value."""
        if param_name in self._chosen:
            return self._chosen[param_name]
        return self._otherwise.sample_independent(study, trial, param_name, param_distribution)


def combination_key(combination: Mapping[str, Any]) -> Hashable:
    """Return a key that is equal for equal combinations.

    Other samplers, and Optuna for values that an enqueued trial leaves open, may have 0.15000000000000002 for 0.15.
    """
    return frozenset(
        (name, float(f"{value:.12g}") if isinstance(value, float) else value) for name, value in combination.items()
    )
