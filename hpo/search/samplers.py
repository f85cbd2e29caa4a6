"""Who proposes configurations: Optuna's samplers, each proposal's randomness fixed by study seed and trial number."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from hpo.config.study_file import StudyConfig

SamplerBuilder = Callable[[int, int], BaseSampler]


def _tpe(seed: int, startup_trials: int) -> BaseSampler:
    """Return TPE that models conditional parameters jointly too, and keeps away from what is running."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=startup_trials, multivariate=True, group=True, constant_liar=True)


# name -> (seed, start-up trials) -> sampler
SAMPLERS: Mapping[str, SamplerBuilder] = {
    "tpe": _tpe,
    "random": lambda seed, _startup: RandomSampler(seed=seed),
}


class PerTrialSampler(BaseSampler):
    """A sampler made afresh for each trial, seeded by (study seed, trial number).

    A seeded Optuna sampler proposes the same again when a search is started again: two `TPESampler(seed=0)` on one
    store proposed the same five trials. Here a trial's randomness is its own, whoever asks and however often.
    """

    def __init__(self, build: SamplerBuilder, *, study_seed: int, startup_trials: int) -> None:
        self._build = build
        self._study_seed = study_seed
        self._startup_trials = startup_trials
        self._current = build(derived_seed(study_seed, "sampler"), startup_trials)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler of `trial`."""
        self._current = self._build(derived_seed(self._study_seed, "sampler", trial.number), self._startup_trials)
        self._current.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are proposed together."""
        return self._current.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the parameters of `search_space` together."""
        return self._current.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Propose one parameter by itself."""
        return self._current.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Let the sampler see how `trial` ended."""
        self._current.after_trial(study, trial, state, values)


def build_sampler(config: StudyConfig) -> BaseSampler:
    """Return the study's sampler."""
    return PerTrialSampler(
        SAMPLERS[config.search.sampler], study_seed=config.seed, startup_trials=startup_trials(config)
    )


def startup_trials(config: StudyConfig) -> int:
    """Return how many trials are drawn at random before TPE proposes.

    A quarter of the budget, between 4 and 10: Optuna's fixed 10 would leave a search of 10 trials wholly random.
    """
    return config.search.startup_trials or min(10, max(4, config.budget.trials // 4))


def derived_seed(study_seed: int, *purpose: object) -> int:
    """Return a seed in 0 .. 2**31 - 1 that depends on nothing but its arguments, equal in every process."""
    text = "/".join(str(part) for part in (study_seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
