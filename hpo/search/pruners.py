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
"""Validation rows over training rows of a trial, up to which its evaluations are limited in time."""
MOST_OF_A_TRIAL = 0.1
"""Share of a trial's time that its evaluations then take at most."""
ROWS_OF_A_STEP = 3
"""Rows that are scored in the time of one that is trained on: a backward pass takes twice as long as a forward pass."""
LEAST_RUNG_ROWS = 100
"""Rows of a part that are worth fewer full evaluations."""


def milestones(*, passes: float, maximum_passes: float, rungs: int, full_reports: int) -> tuple[Milestone, ...]:
    """Return a trial's milestones, rising in rung.

    A rung is examples seen over those of the study's longest trial, in per mille, so trials of other batch sizes,
    epochs and data fractions compare at it. Full evaluations are spread evenly over the trial's own length, as many in
    every trial: the maximum of more evaluations has more selection bias. (Of a trial shorter than `full_reports`
    per mille some fall together.) Between them stand the study's common rungs.

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

    The last fold stands one below the mean, which takes 1000.
    """
    ends = [min(999, round(1000 * fold / folds)) for fold in range(1, folds + 1)]
    return (*(Milestone(rung=rung, full=False) for rung in ends), Milestone(rung=1000, full=True))


def trial_milestones(
    config: StudyConfig, space: SearchSpace, hyperparameters: Hyperparameters, *, confirms: bool = False
) -> tuple[Milestone, ...]:
    """Return a trial's milestones; a run that confirms is never pruned, so it has full evaluations only."""
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
    """Return a study that says how many full evaluations a trial has, and of how many rows its parts are.

    What it leaves open is the space's largest `epochs`, and 200. Where validation is small, there are as many full
    evaluations as leave `LEAST_RUNG_ROWS` to each part within `MOST_OF_A_TRIAL`, at least one; or all of them where
    trials follow them. All trials have the same, so those are counted that can pay for the fewest.

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
            """Return the most rows of a part that is scored, and of training rows."""
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
    """Return whether a trial may stop itself, or lower its rate, by its full evaluations."""
    return space.takes("schedule", "reduce_on_plateau") or space.largest_if_any("early_stopping_patience") is not None


def _rows_left(
    passes: float, longest: float, train_rows: int, validation_rows: int, full_reports: int, rungs: int
) -> float:
    """Return how many rows a trial can afford to score in each part, and of training rows at each full evaluation."""
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


class PromotionPruner(BasePruner):
    """Successive halving by promotion (Li et al. 2020, algorithm 2): no trial is lost that may still be the best.

    At each of its rungs a trial waits, with its checkpoint, until it is among the best one of `reduction_factor` of
    all that came there; the default too. Rungs are the common ones at or after 1000 / `reduction_factor`^k.
    """

    def __init__(self, *, first_rung: int, common_rungs: int, reduction_factor: int) -> None:
        """Let no trial wait before `first_rung`, in per mille; `common_rungs` stand evenly over the longest trial."""
        self._factor = reduction_factor
        levels = [1000 / reduction_factor**power for power in range(1, 11)]
        common = (round(1000 * math.ceil(level * common_rungs / 1000) / common_rungs) for level in levels)
        self.rungs = {rung for rung in common if first_rung <= rung < LAST_RUNG}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether `trial` is to wait at its last rung."""
        return trial.number in {one.number for one in self._beaten([trial], study.get_trials(deepcopy=False))}

    def set_aside(self, trials: Sequence[FrozenTrial], *, no_new_trials: bool = False) -> list[FrozenTrial]:
        """Return which of the waiting `trials` wait for a place, those first that came furthest, and of them the best.

        Where no new trial comes, `no_new_trials`, the share is rounded up, so that one comes to its end.
        """
        waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
        held = self._beaten(waiting, trials, rounded=math.ceil if no_new_trials else math.floor)
        return sorted(held, key=lambda one: max(one.intermediate_values.items()), reverse=True)

    def _beaten(
        self, among: Sequence[FrozenTrial], trials: Sequence[FrozenTrial], rounded: Callable[[float], int] = math.floor
    ) -> list[FrozenTrial]:
        """Return those whose score at their last rung is not among the best there."""
        beaten = []
        for trial in among:
            if (rung := trial.last_step) is not None and rung in self.rungs:
                scores = [one.intermediate_values[rung] for one in trials if rung in one.intermediate_values]
                own = trial.intermediate_values[rung]
                # What is NaN is better than nothing.
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
