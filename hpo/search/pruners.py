"""Who gives trials up: Optuna's pruners, with explicit resources on the rung scale (per mille)."""

from collections.abc import Callable, Mapping

from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from hpo.config.study_file import StudyConfig


def _median(config: StudyConfig) -> BasePruner:
    return MedianPruner(
        n_startup_trials=config.search.pruner_startup_trials,
        n_warmup_steps=config.evaluation.first_rung,
        n_min_trials=min(4, config.search.pruner_startup_trials),
    )


def _successive_halving(config: StudyConfig) -> BasePruner:
    return SuccessiveHalvingPruner(
        min_resource=config.evaluation.first_rung, reduction_factor=config.search.reduction_factor
    )


PRUNERS: Mapping[str, Callable[[StudyConfig], BasePruner]] = {
    "median": _median,
    "successive_halving": _successive_halving,
    "none": lambda _config: NopPruner(),
}


def build_pruner(config: StudyConfig) -> BasePruner:
    """Return the study's pruner."""
    return PRUNERS[config.search.pruner](config)
