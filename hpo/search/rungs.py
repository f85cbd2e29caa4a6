"""Evaluation schedule: rungs comparable between trials, and as many full evaluations as a study can afford."""

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
