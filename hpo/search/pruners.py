"""Learning-curve pruning: the rungs at which trials are compared, Optuna's pruners and one of our own."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from optuna import Study, pruners
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import DEFAULT_RUNG_ROWS, StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Milestone
from hpo.space.search_space import SearchSpace

SMALL_SHARE = 0.25
"""Largest ratio of validation rows to training rows of a trial for which its evaluation time is limited."""
MOST_OF_A_TRIAL = 0.1
"""Share of a trial's time that its evaluations may then take."""
ROWS_OF_A_STEP = 3
"""Rows that can be scored in the time of training on one, because a backward pass takes twice as long as a forward
pass."""
LEAST_RUNG_ROWS = 100
"""Rows scored at a rung below which full evaluations are made fewer instead."""


def milestones(*, passes: float, maximum_passes: float, rungs: int, full_reports: int) -> tuple[Milestone, ...]:
    """Return a trial's milestones, ascending by rung.

    A rung is the examples seen divided by those of the study's longest trial, in per mille, so trials with different
    batch sizes, epochs and data fractions are compared at it. Full evaluations are spaced evenly over the trial's own
    length, equally many in every trial, because the maximum of more evaluations has more selection bias. (In a trial
    shorter than `full_reports` per mille, some coincide.) The study's common rungs come in between.

    Args:
        passes: passes of this trial over all training rows (its epochs times its data fraction), at most
            `maximum_passes`.
        maximum_passes: those of the study's longest trial.
        rungs: number of common rungs over the longest trial; 0 for none.
        full_reports: number of full evaluations in a trial.
    """
    length = 1000 * passes / maximum_passes
    full = {max(1, round(length * part / full_reports)) for part in range(1, full_reports + 1)}
    common = {round(1000 * part / rungs) for part in range(1, rungs + 1)} if rungs else set()
    partial = {rung for rung in common if rung < max(full)} - full
    return tuple(Milestone(rung=rung, full=rung in full) for rung in sorted(full | partial))


def fold_milestones(folds: int) -> tuple[Milestone, ...]:
    """Return the milestones of a trial that is trained on `folds` folds: one for each, and one for their mean.

    The last fold is at 999, just before the mean at 1000.
    """
    ends = [min(999, round(1000 * fold / folds)) for fold in range(1, folds + 1)]
    return (*(Milestone(rung=rung, full=False) for rung in ends), Milestone(rung=1000, full=True))


def trial_milestones(
    config: StudyConfig, space: SearchSpace, hyperparameters: Hyperparameters, *, confirms: bool = False
) -> tuple[Milestone, ...]:
    """Return a trial's milestones; a confirmation run is never pruned, so it has full evaluations only."""
    evaluation = config.evaluation
    if evaluation.folds:
        return fold_milestones(evaluation.folds)
    return milestones(
        passes=hyperparameters.epochs * hyperparameters.data_fraction,
        maximum_passes=space.maximum_passes(),
        rungs=0 if confirms else evaluation.rungs,
        full_reports=evaluation.full_reports or int(space.largest("epochs")),
    )


def with_evaluation_defaults(config: StudyConfig, space: SearchSpace, splits: Splits) -> StudyConfig:
    """Return a study with the number of full evaluations of a trial, and the rows scored at a rung, resolved.

    Unset values are the space's largest `epochs`, and 200. If validation is small, full evaluations are reduced until a
    rung has `LEAST_RUNG_ROWS` within `MOST_OF_A_TRIAL`, to at least one; but not if trials depend on them. All trials
    have the same number, so the trial that can afford the fewest decides.

    Args:
        config: the study.
        space: its space.
        splits: its data.
    """
    train_rows, validation_rows = splits.train.rows, splits.validation.rows
    asked, longest = config.evaluation, int(space.largest("epochs"))
    fractions = space.values_or_ends("data_fraction")
    share = max(fractions[0], validation_rows / SMALL_SHARE / train_rows)
    fulls, rows = asked.full_reports or longest, asked.part_rows
    if not asked.folds and share <= fractions[-1]:
        passes = [share * epochs for epochs in range(int(space.values_or_ends("epochs")[0]), longest + 1)]

        def affordable(full_reports: int) -> float:
            """Return the most validation rows scored at a rung, and the most training rows scored."""
            return min(
                _rows_left(one, max(passes), train_rows, validation_rows, full_reports, asked.rungs) for one in passes
            )

        counts = range(longest, 0, -1)
        if asked.full_reports or _follows_scores(space):
            counts = range(fulls, fulls - 1, -1)
        least = min(asked.rung_rows or LEAST_RUNG_ROWS, validation_rows)
        fulls = next((count for count in counts if affordable(count) >= least), counts[-1])
        left = affordable(fulls)
        rows = asked.rung_rows or (max(1, min(DEFAULT_RUNG_ROWS, int(left))) if left > 0 else LEAST_RUNG_ROWS)
    evaluation = asked.model_copy(update={"full_reports": fulls, "rung_rows": rows})
    return config.model_copy(update={"evaluation": evaluation})


def _follows_scores(space: SearchSpace) -> bool:
    """Return true if a trial may stop itself, or lower its rate, by its full evaluations."""
    return space.takes("schedule", "reduce_on_plateau") or space.largest_if_any("early_stopping_patience") is not None


def _rows_left(
    passes: float, longest: float, train_rows: int, validation_rows: int, full_reports: int, rungs: int
) -> float:
    """Return the rows a trial can afford to score at a rung, and of training rows at each full evaluation."""
    made = milestones(passes=passes, maximum_passes=longest, rungs=rungs, full_reports=full_reports)
    affordable = ROWS_OF_A_STEP * passes * train_rows * MOST_OF_A_TRIAL / (1 - MOST_OF_A_TRIAL)
    return (affordable - full_reports * validation_rows) / len(made)


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
    """Pruner of trials that score below the median of the others at their rung, including running and pruned ones.

    Optuna's MedianPruner compares with completed trials only, so it prunes nothing until some have completed; with
    eight workers, none of the first trial of each.
    """

    def __init__(self, *, n_min_trials: int, n_warmup_steps: int) -> None:
        """Prune once `n_min_trials` others have reached a rung, and nothing before rung `n_warmup_steps`."""
        self._n_min_trials = n_min_trials
        self._n_warmup_steps = n_warmup_steps

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return true if `trial` is to be pruned at its last rung."""
        rung = trial.last_step
        if rung is None or rung < self._n_warmup_steps:
            return False
        reached = {one.number: one.intermediate_values.get(rung, math.nan) for one in study.get_trials(deepcopy=False)}
        others = [score for number, score in reached.items() if number != trial.number and not math.isnan(score)]
        # NaN counts as below the median too.
        return len(others) >= self._n_min_trials and not trial.intermediate_values[rung] >= median(others)


class PromotionPruner(BasePruner):
    """Successive halving by promotion (Li et al. 2020, algorithm 2): a trial that may still be the best is never lost.

    At each of its rungs a trial is paused, with its checkpoint, until it is among the best one of `reduction_factor` of
    all that reached the rung; this includes the default. Rungs are the common ones at or after 1000 /
    `reduction_factor`^k.
    """

    def __init__(self, *, first_rung: int, common_rungs: int, reduction_factor: int) -> None:
        """Pause no trial before `first_rung`, in per mille; `common_rungs` are spaced evenly over the longest trial."""
        self._factor = reduction_factor
        levels = [1000 / reduction_factor**power for power in range(1, 11)]
        common = (round(1000 * math.ceil(level * common_rungs / 1000) / common_rungs) for level in levels)
        self.rungs = {rung for rung in common if first_rung <= rung < LAST_RUNG}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return true if `trial` is to be paused at its last rung."""
        return trial.number in {one.number for one in self._beaten([trial], study.get_trials(deepcopy=False))}

    def set_aside(self, trials: Sequence[FrozenTrial], *, no_new_trials: bool = False) -> list[FrozenTrial]:
        """Return the paused ones among `trials` that may be promoted, by the rung they reached, then by score.

        If `no_new_trials` come, the share is rounded up, so that at least one is trained to its end.
        """
        waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
        held = self._beaten(waiting, trials, rounded=math.ceil if no_new_trials else math.floor)
        return sorted(held, key=lambda one: max(one.intermediate_values.items()), reverse=True)

    def _beaten(
        self, among: Sequence[FrozenTrial], trials: Sequence[FrozenTrial], rounded: Callable[[float], int] = math.floor
    ) -> list[FrozenTrial]:
        """Return the trials whose score at their last rung is not among the best there."""
        beaten = []
        for trial in among:
            if (rung := trial.last_step) is not None and rung in self.rungs:
                scores = [one.intermediate_values[rung] for one in trials if rung in one.intermediate_values]
                own = trial.intermediate_values[rung]
                # A NaN counts as better than no score.
                better = sum(score > own or (math.isnan(own) and not math.isnan(score)) for score in scores)
                if better >= rounded(len(scores) / self._factor):
                    beaten.append(trial)
        return beaten


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
    "promotion": Pruner(
        "lets a trial wait with its checkpoint at each rung, until it is among the best of every few that came there",
        "Li et al. 2020 (ASHA), algorithm 2",
        lambda config: PromotionPruner(
            first_rung=config.evaluation.first_rung,
            common_rungs=max(1, config.evaluation.rungs),
            reduction_factor=config.search.reduction_factor,
        ),
    ),
    "hyperband": Pruner(
        "successive halving with a first rung that differs between brackets of trials",
        "Li et al. 2018; Optuna's HyperbandPruner",
        # If Optuna had to infer the maximum, it would prune nothing until a trial has completed.
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
