"""A configuration drawn at random that is short enough for the time that is left, where what the sampler favours is
not.
"""

import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler

from hpo.config.hyperparameters import Hyperparameters
from hpo.space.search_space import SearchSpace
from hpo.store.transactions import quiet_optuna

MOST_DRAWS = 50


def short_draw(space: SearchSpace, seed: int, fits: Callable[[Hyperparameters], bool]) -> BaseSampler | None:
    """Draw from the space until something fits; return a sampler that proposes just that, None if nothing does.

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PartialFixedSampler(parameters, otherwise or RandomSampler())
