"""Grid search: every combination of a discrete space once, in the order written or in a random one.

Optuna's own grid and brute force raise on conditional parameters that a trial does not have, and when nothing is left
they call `study.stop()` inside `tell`, an error outside `optimize`. Here that nothing is left is known before a trial
is begun, and is a normal end. What has been tried is read from the study each time, so that several running trials, a
rollback and a restart change nothing.
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

Point = dict[str, Value]
"""One combination as Optuna holds it: without constants, by the names that it samples under."""

ENUMERATIONS = ("grid", "brute_force")
"""Samplers that try every combination once."""


class Enumeration:
    """The combinations of a space, in the order in which they are tried."""

    def __init__(self, space: SearchSpace, *, shuffled_by: int | None = None) -> None:
        """List the combinations of `space`, shuffled by a seed or as written.

        Raises:
            SpaceError: a parameter takes any number of a range.
        """
        points = [space.sampled(values) for values in space.combinations()]
        if shuffled_by is not None:
            random.Random(shuffled_by).shuffle(points)
        self._points = {_key(point): point for point in points}

    def next_untried(self, trials: Iterable[FrozenTrial]) -> Point | None:
        """Return the first combination that none of `trials`, however it ended, has; None if all were tried."""
        tried = {_key(trial.params) for trial in trials}
        return next((point for key, point in self._points.items() if key not in tried), None)


class EnumeratingSampler(BaseSampler):
    """Gives each trial the first combination of an enumeration that no trial of the study has."""

    def __init__(self, enumeration: Enumeration, *, otherwise: BaseSampler) -> None:
        """Take the combinations, and who fills in what an enqueued trial leaves open where no combination does."""
        self.enumeration = enumeration
        self._otherwise = otherwise
        self._point: Point = {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose the combination of `trial`."""
        self._point = self.enumeration.next_untried(study.get_trials(deepcopy=False)) or {}
        self._otherwise.before_trial(study, trial)

    def infer_relative_search_space(self, _study: Study, _trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return that nothing is modelled."""
        return {}

    def sample_relative(self, *_asked: Any) -> dict[str, Any]:
        """Propose nothing that is modelled."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the combination's value."""
        if param_name in self._point:
            return self._point[param_name]
        return self._otherwise.sample_independent(study, trial, param_name, param_distribution)


def _key(point: Mapping[str, Any]) -> Hashable:
    # Other samplers, and Optuna for what an enqueued trial leaves open, have 0.15000000000000002 for 0.15.
    return frozenset(
        (name, float(f"{value:.12g}") if isinstance(value, float) else value) for name, value in point.items()
    )
