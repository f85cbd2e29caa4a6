"""Learning-curve pruning: Optuna's pruners and one of our own, with resources on the rung scale (per mille)."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from optuna import Study, pruners
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from hpo.config.study_file import StudyConfig

LAST_RUNG = 1000
MAX_TRIALS_AT_A_RUNG = 4
"""Most finished trials with a score at a rung that the median and the percentile pruner wait for."""


@dataclass(frozen=True, slots=True)
class Pruner:
    """One way to prune trials."""

    description: str
    source: str
    build: Callable[[StudyConfig], BasePruner]


class AsynchronousMedianPruner(BasePruner):
    """Prunes what scores below the median of the other trials at its rung, running and pruned ones among them.

    Optuna's MedianPruner compares with completed trials alone, so it prunes nothing until some have completed, and of
    eight workers none before its second trial.
    """

    def __init__(self, *, n_min_trials: int, n_warmup_steps: int) -> None:
        """Prune once `n_min_trials` others have come to a rung, and nothing before rung `n_warmup_steps`."""
        self._n_min_trials = n_min_trials
        self._n_warmup_steps = n_warmup_steps

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether to prune `trial` at its last rung."""
        rung = trial.last_step
        if rung is None or rung < self._n_warmup_steps:
            return False
        reached = {one.number: one.intermediate_values.get(rung, math.nan) for one in study.get_trials(deepcopy=False)}
        others = [score for number, score in reached.items() if number != trial.number and not math.isnan(score)]
        # What is NaN is not as good as the median either.
        return len(others) >= self._n_min_trials and not trial.intermediate_values[rung] >= median(others)


def _asynchronous_median(config: StudyConfig) -> BasePruner:
    return AsynchronousMedianPruner(
        n_min_trials=min(MAX_TRIALS_AT_A_RUNG, config.search.pruner_startup_trials),
        n_warmup_steps=config.evaluation.first_rung,
    )


def _median(config: StudyConfig) -> BasePruner:
    return pruners.MedianPruner(**_among_finished(config))


def _among_finished(config: StudyConfig) -> dict[str, int]:
    startup, first = config.search.pruner_startup_trials, config.evaluation.first_rung
    fewest = min(MAX_TRIALS_AT_A_RUNG, startup)
    return {"n_startup_trials": startup, "n_warmup_steps": first, "n_min_trials": fewest}


def _halving(config: StudyConfig) -> dict[str, int]:
    return {"min_resource": config.evaluation.first_rung, "reduction_factor": config.search.reduction_factor}


PRUNERS: Mapping[str, Pruner] = {
    "asynchronous_median": Pruner(
        "prunes what is below the median of the others at this rung, running and pruned ones among them",
        "the rule of Li et al. 2020 (ASHA) that keeps half, at every rung",
        _asynchronous_median,
    ),
    "median": Pruner(
        "prunes what has never been as good as half of the finished trials were at this rung",
        "Golovin et al. 2017; Optuna's MedianPruner",
        _median,
    ),
    "percentile": Pruner(
        "prunes what is not among the best part of the finished trials at this rung",
        "Optuna's PercentilePruner",
        lambda config: pruners.PercentilePruner(config.search.percentile, **_among_finished(config)),
    ),
    "successive_halving": Pruner(
        "lets the best of every few on at the first rung, and at each that is as many times further",
        "Li et al. 2020 (ASHA); Optuna's SuccessiveHalvingPruner",
        lambda config: pruners.SuccessiveHalvingPruner(**_halving(config)),
    ),
    "hyperband": Pruner(
        "successive halving with a first rung that differs between brackets of trials",
        "Li et al. 2018; Optuna's HyperbandPruner",
        # A maximum that Optuna finds out itself would prune nothing until a trial has completed.
        lambda config: pruners.HyperbandPruner(max_resource=LAST_RUNG, **_halving(config)),
    ),
    "patient": Pruner(
        "asks the median pruner only about what has not become better for some evaluations",
        "Optuna's PatientPruner",
        lambda config: pruners.PatientPruner(_median(config), patience=config.search.patience),
    ),
    "threshold": Pruner(
        "prunes what scores below a fixed bound",
        "Optuna's ThresholdPruner",
        lambda config: pruners.ThresholdPruner(
            lower=config.search.lowest_score, n_warmup_steps=config.evaluation.first_rung
        ),
    ),
    "wilcoxon": Pruner(
        "prunes what a signed-rank test finds worse than the best trial, from five folds on",
        "Wilcoxon 1945; Optuna's WilcoxonPruner",
        lambda config: pruners.WilcoxonPruner(p_threshold=config.search.p_threshold),
    ),
    "none": Pruner("lets every trial run to its end", "Optuna's NopPruner", lambda _config: pruners.NopPruner()),
}


def build_pruner(config: StudyConfig) -> BasePruner:
    """Return the study's pruner."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return PRUNERS[config.pruner].build(config)
