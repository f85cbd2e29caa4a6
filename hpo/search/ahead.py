"""Proposals made beside the study: by a sampler that takes long, and at random where time is short.

Inside of a transaction a sampler that takes long would hold the lease's row, or SQLite's file, while it computes: the
lease lapses meanwhile, and a PostgreSQL server ends a transaction in which nothing is asked.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from hpo.config.hyperparameters import Hyperparameters
from hpo.search.windows import ShownTrials
from hpo.space.search_space import SearchSpace
from hpo.store.optuna_adapter import row_of, storage_of
from hpo.store.transactions import quiet_optuna

MOST_DRAWS = 50


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
    storage = _TrialToCome(storage_of(study), trials, number)
    asked = optuna.load_study(study_name=study.study_name, storage=storage, sampler=study.sampler, pruner=NopPruner())
    trial = Trial(asked, row_of(storage.trial))
    space.suggest(trial)
    return trial.params


class _TrialToCome(ShownTrials):
    """A study's storage with the trials that are known, and one that is not there yet, of which nothing is written."""

    def __init__(self, backend: BaseStorage, trials: Sequence[FrozenTrial], number: int) -> None:
        super().__init__(backend, trials)
        self.trial = create_trial(state=TrialState.RUNNING)
        self.trial.number = number

    def get_trial(self, _trial_id: int) -> FrozenTrial:
        return self.trial

    def set_trial_param(self, *_param: Any) -> None:
        """Do nothing: whoever suggests a parameter keeps it."""

    def set_trial_system_attr(self, *_attribute: Any) -> None:
        """Do nothing: GP notes its parameters, which the trial is then given."""


def short_draw(space: SearchSpace, seed: int, fits: Callable[[Hyperparameters], bool]) -> BaseSampler | None:
    """Draw at random until something fits into the time; return a sampler that proposes just that, None if none does.

    What was drawn in vain is in no study, so that no later run has to train it.
    """
    sampler = RandomSampler(seed=seed)
    with quiet_optuna():
        drawn = optuna.create_study(sampler=sampler)
    for _ in range(MOST_DRAWS):
        trial = drawn.ask()
        if fits(space.hyperparameters(space.suggest(trial))):
            return given(trial.params, sampler)
    return None


def given(parameters: dict[str, Any], otherwise: BaseSampler | None = None) -> BaseSampler:
    """Return a sampler that proposes these parameters, by the names that they are sampled under."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return PartialFixedSampler(parameters, otherwise or RandomSampler())
