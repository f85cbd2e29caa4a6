"""Parameters that a sampler which takes long proposes outside of a transaction, for the trial that they then become.

Inside of one it would hold the lease's row, or SQLite's file, while it computes: the lease lapses meanwhile, and a
PostgreSQL server ends a transaction in which nothing is asked.
"""

import copy
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hpo.space.search_space import SearchSpace
from hpo.store.transactions import quiet_optuna


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """In the place of a trial: one is to be proposed first, outside of the transaction, and then asked for again."""

    propose: Callable[[], None]


def proposed_ahead(study: Study, trials: Sequence[FrozenTrial], number: int, space: SearchSpace) -> dict[str, Any]:
    """Return what the sampler of `study` proposes for a trial to come, by the names that it samples under.

    Args:
        study: nothing is read of its trials, nor written.
        trials: its trials.
        number: of the trial to come, by which the sampler is seeded.
        space: of which the parameters are.
    """
    with quiet_optuna():
        drawn = optuna.create_study(sampler=_Ahead(study, trials, number))
        trial = drawn.ask()
    space.suggest(trial)
    return trial.params


class _KnownTrials:
    """A study's storage, which shows the trials that are known."""

    def __init__(self, storage: Any, trials: Sequence[FrozenTrial]) -> None:
        self._storage, self._trials = storage, trials

    def get_all_trials(
        self, _study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        shown = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown

    def set_trial_system_attr(self, _trial_id: int, _key: str, _value: Any) -> None:
        """Drop what is noted of a trial that is not there yet: GP notes its parameters, which it is then given."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


class _KnownStudy(Study):
    """A study with the trials that are known."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        vars(self).update(vars(study))
        self._storage: Any = _KnownTrials(study._storage, trials)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002 (nothing is read)
    ) -> list[FrozenTrial]:
        shown: list[FrozenTrial] = self._storage.get_all_trials(self._study_id, deepcopy, states)
        return shown


class _Ahead(BaseSampler):
    """The sampler of one study, asked by another for a trial of the first."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial], number: int) -> None:
        self._sampler, self._study, self._number = study.sampler, _KnownStudy(study, trials), number

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:  # noqa: ARG002
        self._sampler.before_trial(self._study, self._known(trial))

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(self._study, self._known(trial))

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(self._study, self._known(trial), search_space)

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(self._study, self._known(trial), param_name, param_distribution)

    def _known(self, trial: FrozenTrial) -> FrozenTrial:
        known = copy.copy(trial)
        known.number = self._number
        return known
