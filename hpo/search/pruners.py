"""Who gives trials up: Optuna's pruners, with explicit resources on the rung scale (per mille)."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)

from hpo.config.study_file import StudyConfig

LAST_RUNG = 1000
MOST_TRIALS_AT_A_RUNG = 4
"""Finished trials with a score at a rung that the median and the percentile pruner ask for, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruner:
    """One way to give trials up."""

    description: str
    source: str
    build: Callable[[StudyConfig], BasePruner]


def _median(config: StudyConfig) -> BasePruner:
    startup = config.search.pruner_startup_trials
    return MedianPruner(
        n_startup_trials=startup,
        n_warmup_steps=config.evaluation.first_rung,
        n_min_trials=min(MOST_TRIALS_AT_A_RUNG, startup),
    )


def _percentile(config: StudyConfig) -> BasePruner:
    startup = config.search.pruner_startup_trials
    return PercentilePruner(
        config.search.percentile,
        n_startup_trials=startup,
        n_warmup_steps=config.evaluation.first_rung,
        n_min_trials=min(MOST_TRIALS_AT_A_RUNG, startup),
    )


def _successive_halving(config: StudyConfig) -> BasePruner:
    return SuccessiveHalvingPruner(
        min_resource=config.evaluation.first_rung, reduction_factor=config.search.reduction_factor
    )


def _hyperband(config: StudyConfig) -> BasePruner:
    # A maximum that Optuna finds out itself would prune nothing until a trial has completed.
    return HyperbandPruner(
        min_resource=config.evaluation.first_rung,
        max_resource=LAST_RUNG,
        reduction_factor=config.search.reduction_factor,
    )


def _patient(config: StudyConfig) -> BasePruner:
    return PatientPruner(_median(config), patience=config.search.patience)


def _threshold(config: StudyConfig) -> BasePruner:
    return ThresholdPruner(lower=config.search.lowest_score, n_warmup_steps=config.evaluation.first_rung)


def _wilcoxon(config: StudyConfig) -> BasePruner:
    return WilcoxonPruner(p_threshold=config.search.p_threshold)


PRUNERS: Mapping[str, Pruner] = {
    "median": Pruner(
        description="gives up what has never been as good as half of the finished trials were at this rung",
        source="Golovin et al. 2017; Optuna's MedianPruner",
        build=_median,
    ),
    "percentile": Pruner(
        description="gives up what is not among the best part of the finished trials at this rung",
        source="Optuna's PercentilePruner",
        build=_percentile,
    ),
    "successive_halving": Pruner(
        description="lets the best of every few on at the first rung, and at each that is as many times further",
        source="Li et al. 2020 (ASHA); Optuna's SuccessiveHalvingPruner",
        build=_successive_halving,
    ),
    "hyperband": Pruner(
        description="successive halving with a first rung that differs between brackets of trials",
        source="Li et al. 2018; Optuna's HyperbandPruner",
        build=_hyperband,
    ),
    "patient": Pruner(
        description="asks the median pruner only about what has not become better for some evaluations",
        source="Optuna's PatientPruner",
        build=_patient,
    ),
    "threshold": Pruner(
        description="gives up what scores below a fixed bound",
        source="Optuna's ThresholdPruner",
        build=_threshold,
    ),
    "wilcoxon": Pruner(
        description="gives up what a signed-rank test finds worse than the best trial, from five folds on",
        source="Wilcoxon 1945; Optuna's WilcoxonPruner",
        build=_wilcoxon,
    ),
    "none": Pruner(
        description="lets every trial run to its end",
        source="Optuna's NopPruner",
        build=lambda _config: NopPruner(),
    ),
}


def build_pruner(config: StudyConfig) -> BasePruner:
    """Return the study's pruner."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PRUNERS[config.pruner].build(config)
