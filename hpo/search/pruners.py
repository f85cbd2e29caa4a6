"""Learning-curve pruning: the rungs at which trials are compared, Optuna's pruners and one of our own."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from optuna import Study, pruners
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import DEFAULT_RUNG_ROWS, StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Milestone
from hpo.space.search_space import SearchSpace
from hpo.store.study_store import RUNGS_ATTRIBUTE
from hpo.store.trial_cache import is_default

LAST_RUNG = 1000
"""Rung at the end of the longest trial."""
LATEST_SHARE = 900
"""Share of a trial, in per mille, from which on `promotion` does not pause it: it would save little, and lose the
score at the end."""
SMALL_SHARE = 0.25
"""Ratio of validation rows to training rows of a trial up to which validation counts as small."""
MOST_IF_SMALL, MOST_OF_A_TRIAL = 0.1, 1 / 3
"""Share of a trial's time that its evaluations may take if validation is small, and otherwise."""
ROWS_OF_A_STEP = 3
"""Rows that can be scored in the time of training on one, because a backward pass takes twice as long as a forward
pass."""
LEAST_RUNG_ROWS = 100
"""Rows scored at a rung below which full evaluations are made fewer instead."""


def milestones(
    *, passes: float, maximum_passes: float, common: Iterable[int], full_reports: int
) -> tuple[Milestone, ...]:
    """Return a trial's milestones, ascending by rung.

    A rung is the examples seen divided by those of the study's longest trial, in per mille, so trials with different
    batch sizes, epochs and data fractions are compared at it. Full evaluations are spaced evenly over the trial's own
    length, equally many in every trial, because the maximum of more evaluations has more selection bias. (In a trial
    shorter than `full_reports` per mille, some coincide.) The study's common rungs come in between.

    Args:
        passes: passes of this trial over all training rows (its epochs times its data fraction), at most
            `maximum_passes`.
        maximum_passes: those of the study's longest trial.
        common: rungs that all trials have in common, up to their ends.
        full_reports: number of full evaluations in a trial.
    """
    length = 1000 * passes / maximum_passes
    full = {max(1, round(length * part / full_reports)) for part in range(1, full_reports + 1)}
    partial = {rung for rung in common if rung < max(full)} - full
    return tuple(Milestone(rung=rung, full=rung in full) for rung in sorted(full | partial))


def passes_of(hyperparameters: Hyperparameters) -> float:
    """Return the passes over all training rows that a trial takes."""
    return hyperparameters.epochs * hyperparameters.data_fraction


def first_rung(config: StudyConfig) -> int:
    """Return the share of training, in per mille, before which no trial is paused or pruned."""
    return config.evaluation.first_rung or (62 if config.pruner == "promotion" else 125)


def reduction_factor(config: StudyConfig) -> int:
    """Return the number of trials of which one is kept at each rung."""
    return config.search.reduction_factor or (2 if config.pruner == "promotion" else 3)


def evenly_spaced(rungs: int) -> tuple[int, ...]:
    """Return that many rungs, of which the last is at the end of the longest trial."""
    return tuple(round(LAST_RUNG * part / rungs) for part in range(1, rungs + 1))


def partial_rungs(config: StudyConfig, passes: float, maximum_passes: float) -> tuple[int, ...]:
    """Return the rungs of a trial beside its full evaluations, ascending.

    Those of promotion are at the same shares of each trial: the first, and each `reduction_factor` times the one
    before. After the same number of examples, a long trial would still have a higher learning rate than a short one.

    Args:
        config: the study.
        passes: passes of this trial over all training rows.
        maximum_passes: those of the study's longest trial.
    """
    if config.pruner != "promotion":
        return evenly_spaced(config.evaluation.rungs)
    first, factor = first_rung(config), reduction_factor(config)
    shares = (first * factor**power for power in range(10))
    before_end = itertools.takewhile(lambda share: share < LATEST_SHARE, shares)
    # In a very short trial several are at 1, and each counts, because trials are compared at the same share.
    return tuple(max(1, round(share * passes / maximum_passes)) for share in before_end)


def promotion_rungs(config: StudyConfig, space: SearchSpace, hyperparameters: Hyperparameters) -> tuple[int, ...]:
    """Return the rungs at which a trial may be paused; none with other pruners than promotion."""
    if config.pruner != "promotion":
        return ()
    return partial_rungs(config, passes_of(hyperparameters), space.maximum_passes())


def most_paused(config: StudyConfig) -> int:
    """Return the largest number of trials that the pruner keeps paused: none with other pruners than promotion."""
    return PLACES_PAUSED * len(partial_rungs(config, 1, 1)) if config.pruner == "promotion" else 0


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
    passes, longest = passes_of(hyperparameters), space.maximum_passes()
    return milestones(
        passes=passes,
        maximum_passes=longest,
        common=() if confirms else partial_rungs(config, passes, longest),
        full_reports=evaluation.full_reports or int(space.largest("epochs")),
    )


def with_evaluation_defaults(config: StudyConfig, space: SearchSpace, splits: Splits) -> StudyConfig:
    """Return a study with the number of full evaluations of a trial, and the rows scored at a rung, resolved.

    Unset values are the space's largest `epochs`, and 200. Full evaluations are reduced until a rung has
    `LEAST_RUNG_ROWS` within the share of a trial that evaluations may take, to at least one; but not if trials depend
    on them. Only small validation has fewer rows at a rung. All trials have the same number, so the trial that can
    afford the fewest decides.

    Args:
        config: the study.
        space: its space.
        splits: its data.
    """
    train_rows, validation_rows = splits.train.rows, splits.validation.rows
    asked, longest = config.evaluation, int(space.largest("epochs"))
    fulls, rows = asked.full_reports or longest, asked.part_rows
    if not asked.folds:
        fractions, small_from = space.values_or_ends("data_fraction"), validation_rows / SMALL_SHARE / train_rows
        shares = {fractions[0], min(max(small_from, fractions[0]), fractions[-1])}
        trials = [
            (share * epochs, MOST_IF_SMALL if share >= small_from else MOST_OF_A_TRIAL)
            for share in shares
            for epochs in range(int(space.values_or_ends("epochs")[0]), longest + 1)
        ]

        def affordable(full_reports: int) -> float:
            """Return the most validation rows scored at a rung, and the most training rows scored."""
            return min(
                _rows_left(config, passes, max(trials)[0], most, splits, full_reports) for passes, most in trials
            )

        counts = range(longest, 0, -1)
        if asked.full_reports or _follows_scores(space):
            counts = range(fulls, fulls - 1, -1)
        least = min(asked.rung_rows or LEAST_RUNG_ROWS, validation_rows)
        fulls = next((count for count in counts if affordable(count) >= least), counts[-1])
        left = affordable(fulls)
        fewest = 1 if left > 0 and fractions[-1] >= small_from else LEAST_RUNG_ROWS
        rows = asked.rung_rows or max(fewest, min(DEFAULT_RUNG_ROWS, int(left)))
    evaluation = asked.model_copy(update={"full_reports": fulls, "rung_rows": rows})
    return config.model_copy(update={"evaluation": evaluation})


def _follows_scores(space: SearchSpace) -> bool:
    """Return true if a trial may stop itself, or lower its rate, by its full evaluations."""
    return space.takes("schedule", "reduce_on_plateau") or space.largest_if_any("early_stopping_patience") is not None


def _rows_left(
    config: StudyConfig, passes: float, longest: float, most: float, splits: Splits, full_reports: int
) -> float:
    """Return the rows a trial can afford to score at a rung, and of training rows at each full evaluation."""
    partial = partial_rungs(config, passes, longest)
    made = milestones(passes=passes, maximum_passes=longest, common=partial, full_reports=full_reports)
    affordable = ROWS_OF_A_STEP * passes * splits.train.rows * most / (1 - most)
    return (affordable - full_reports * splits.validation.rows) / len(made)


MAX_TRIALS_AT_A_RUNG = 4
"""Most finished trials with a score at a rung that the median and the percentile pruner wait for."""
PLACES_PAUSED = 4
"""Places below the last promoted trial of a rung whose trials are paused; trials below them are pruned."""


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
    """Successive halving by promotion (Li et al. 2020, algorithm 2), with a limit on the number of checkpoints.

    At each of its rungs a trial is paused, with its checkpoint, unless it is among the best one of `reduction_factor`
    of all that reached that share of their training; it is promoted once it is. A trial more than `PLACES_PAUSED`
    places below those is pruned. The default is paused, but not pruned, because the others are compared with it.
    """

    def __init__(self, *, reduction_factor: int) -> None:
        """Promote one of `reduction_factor` trials at each of their rungs, which are in their user attributes."""
        self._factor = reduction_factor

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return true if `trial` is to be paused or pruned at its last rung."""
        return self._places_below([trial], study.get_trials(deepcopy=False))[trial.number] > 0

    def pauses(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Return true if a trial that is not promoted at its last rung is paused rather than pruned."""
        return self._places_below([trial], trials)[trial.number] <= PLACES_PAUSED

    def held_back(
        self, waiting: Sequence[FrozenTrial], trials: Sequence[FrozenTrial], *, places: int = 0, at_least: int = 0
    ) -> list[FrozenTrial]:
        """Return the paused ones among `waiting` that are not promoted: the furthest first, then the best.

        Args:
            waiting: trials that are paused, or not begun.
            trials: all trials of the study.
            places: only those more than this many places below the last promoted one.
            at_least: least number of promoted trials at each rung.
        """
        below = self._places_below(waiting, trials, at_least)
        held = (trial for trial in waiting if below[trial.number] > places)
        return sorted(held, key=lambda one: max(scores_at_rungs(one).items()), reverse=True)

    def _places_below(
        self, some: Sequence[FrozenTrial], trials: Sequence[FrozenTrial], at_least: int = 0
    ) -> dict[int, int]:
        """Return by number how many places below the last promoted one at its last rung each trial is; 0 if promoted.

        A NaN counts as the lowest score.
        """
        own = {trial.number: scores_at_rungs(trial) for trial in some}
        scores: dict[int, list[float]] = {max(known): [] for known in own.values() if known}
        for trial in trials:
            for place in scores:
                if (score := _score_at(trial, place)) is not None:
                    scores[place].append(score)
        below = dict.fromkeys(own, 0)
        for trial in some:
            known = own[trial.number]
            place = max(known, default=-1)
            if known and trial.last_step == rungs_of(trial)[place]:
                better = sum(score > known[place] for score in scores[place])
                promoted = max(at_least, len(scores[place]) // self._factor)
                most = PLACES_PAUSED if is_default(trial) else len(scores[place])
                below[trial.number] = max(0, min(most, better + 1 - promoted))
        return below


def rungs_of(trial: FrozenTrial) -> Sequence[int]:
    """Return the rungs at which a trial may be paused; none before it began."""
    rungs: Sequence[int] = trial.user_attrs.get(RUNGS_ATTRIBUTE, ())
    return rungs


def scores_at_rungs(trial: FrozenTrial) -> dict[int, float]:
    """Return index of a rung, from 0 -> score there, for the rungs that a trial has reached."""
    reached = ((place, _score_at(trial, place)) for place in range(len(rungs_of(trial))))
    return {place: score for place, score in reached if score is not None}


def _score_at(trial: FrozenTrial, place: int) -> float | None:
    """Return the score at one of a trial's rungs, with the lowest for NaN; None if it has not reached it."""
    rungs = rungs_of(trial)
    score = trial.intermediate_values.get(rungs[place]) if place < len(rungs) else None
    return -math.inf if score is not None and math.isnan(score) else score


def _asynchronous_median(config: StudyConfig) -> BasePruner:
    return AsynchronousMedianPruner(
        n_min_trials=min(MAX_TRIALS_AT_A_RUNG, config.search.pruner_startup_trials),
        n_warmup_steps=first_rung(config),
    )


def _median(config: StudyConfig) -> BasePruner:
    return pruners.MedianPruner(**_among_finished(config))


def _among_finished(config: StudyConfig) -> dict[str, int]:
    startup, first = config.search.pruner_startup_trials, first_rung(config)
    fewest = min(MAX_TRIALS_AT_A_RUNG, startup)
    return {"n_startup_trials": startup, "n_warmup_steps": first, "n_min_trials": fewest}


def _halving(config: StudyConfig) -> dict[str, int]:
    return {"min_resource": first_rung(config), "reduction_factor": reduction_factor(config)}


PRUNERS: Mapping[str, Pruner] = {
    "asynchronous_median": Pruner(
        "prunes a trial that scores below the median of the other trials at its rung, running and pruned ones included",
        "the rule of Li et al. 2020 (ASHA) that keeps half, at every rung",
        _asynchronous_median,
    ),
    "median": Pruner(
        "prunes a trial whose best score so far is below the median of the completed trials at its rung",
        "Golovin et al. 2017; Optuna's MedianPruner",
        _median,
    ),
    "percentile": Pruner(
        "prunes a trial whose best score so far is not among the best `percentile` percent of the completed trials at "
        "its rung",
        "Optuna's PercentilePruner",
        lambda config: pruners.PercentilePruner(config.search.percentile, **_among_finished(config)),
    ),
    "successive_halving": Pruner(
        "continues the best 1 in `reduction_factor` at each rung; each rung is `reduction_factor` times as far as the "
        "one before",
        "Li et al. 2020 (ASHA); Optuna's SuccessiveHalvingPruner",
        lambda config: pruners.SuccessiveHalvingPruner(**_halving(config)),
    ),
    "promotion": Pruner(
        "pauses a trial at each rung, with its checkpoint, until it is among the best 1 in `reduction_factor` of the "
        "trials that reached that share of their training; prunes trials far below those; each rung is "
        "`reduction_factor` times as far as the one before",
        "Li et al. 2020 (ASHA), algorithm 2",
        lambda config: PromotionPruner(reduction_factor=reduction_factor(config)),
    ),
    "hyperband": Pruner(
        "successive halving with a first rung that differs between brackets of trials",
        "Li et al. 2018; Optuna's HyperbandPruner",
        # If Optuna had to infer the maximum, it would prune nothing until a trial has completed.
        lambda config: pruners.HyperbandPruner(max_resource=LAST_RUNG, **_halving(config)),
    ),
    "patient": Pruner(
        "`median`, but only for trials that have not improved for `patience` evaluations",
        "Optuna's PatientPruner",
        lambda config: pruners.PatientPruner(_median(config), patience=config.search.patience),
    ),
    "threshold": Pruner(
        "prunes a trial that scores below `lowest_score`",
        "Optuna's ThresholdPruner",
        lambda config: pruners.ThresholdPruner(lower=config.search.lowest_score, n_warmup_steps=first_rung(config)),
    ),
    "wilcoxon": Pruner(
        "prunes a trial that a signed-rank test finds worse than the best trial, from five folds on",
        "Wilcoxon 1945; Optuna's WilcoxonPruner",
        lambda config: pruners.WilcoxonPruner(p_threshold=config.search.p_threshold),
    ),
    "none": Pruner("trains every trial to its end", "Optuna's NopPruner", lambda _config: pruners.NopPruner()),
}


def build_pruner(config: StudyConfig) -> BasePruner:
    """Return the study's pruner."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return PRUNERS[config.pruner].build(config)
