"""Upcoming trial: what a sampler proposes for a trial that the store does not have yet; nothing is written.

A slow sampler proposes outside the store's transaction. Inside, it would hold the lease's row, or SQLite's file, while
it computes: the lease would expire, and a PostgreSQL server ends an idle transaction.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna import Study
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from hpo.config.hyperparameters import Hyperparameters
from hpo.search.samplers import FixedTrials
from hpo.space.search_space import SearchSpace
from hpo.store.optuna_adapter import quiet_optuna, row_of, storage_of

MAX_DRAWS = 50
"""Most random configurations that are drawn for a trial."""


def proposed_parameters(study: Study, trials: Sequence[FrozenTrial], number: int, space: SearchSpace) -> dict[str, Any]:
    """Return the parameters that the sampler of `study` proposes for a future trial, by sampled names.

    Args:
        study: neither read nor written here.
        trials: its trials.
        number: number of the future trial, which seeds the sampler.
        space: the study's.
    """
    storage = _UpcomingTrial(storage_of(study), trials, number)
    asked = optuna.load_study(study_name=study.study_name, storage=storage, sampler=study.sampler, pruner=NopPruner())
    trial = Trial(asked, row_of(storage.trial))
    space.suggest(trial)
    return trial.params


class _UpcomingTrial(FixedTrials):
    """A study's storage with its known trials and one future trial; nothing is written to it."""

    def __init__(self, backend: BaseStorage, trials: Sequence[FrozenTrial], number: int) -> None:
        super().__init__(backend, trials)
        self.trial = create_trial(state=TrialState.RUNNING)
        self.trial.number = number

    def get_trial(self, _trial_id: int) -> FrozenTrial:
        return self.trial

    def set_trial_param(self, *_param: Any) -> None:
        """Do nothing: the caller that suggests a parameter keeps it."""

    def set_trial_system_attr(self, *_attribute: Any) -> None:
        """Do nothing: the parameters that GP records are given to the trial afterwards."""


class RandomDraws:
    """Random configurations for one trial to come, in an order that its seed fixes; each is drawn once."""

    def __init__(self, number: int, seed: int, space: SearchSpace) -> None:
        self.number = number
        self._space = space
        self._drawn: list[tuple[dict[str, Any], Hyperparameters]] = []
        with quiet_optuna():
            self._study = optuna.create_study(sampler=RandomSampler(seed=seed))

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Hyperparameters]]:
        """Yield `MAX_DRAWS` configurations: parameters by their sampled names, and what is trained."""
        for place in range(MAX_DRAWS):
            if place == len(self._drawn):
                trial = self._study.ask()
                values = self._space.suggest(trial)
                self._drawn.append((trial.params, self._space.hyperparameters(values)))
            yield self._drawn[place]
