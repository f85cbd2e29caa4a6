"""Where a trial is evaluated: rungs comparable between trials, and as many full evaluations in each."""

from hpo.messages import Milestone


def milestones(*, passes: float, maximum_passes: float, rungs: int, full_reports: int) -> tuple[Milestone, ...]:
    """Return a trial's milestones, rising in rung.

    A rung is examples seen over those of the study's longest trial, in per mille, so trials of other batch sizes,
    epochs and data fractions compare at it. Full evaluations are spread evenly over the trial's own length, as many in
    every trial: a trial that is looked at more often has the luckier maximum. (Of a trial shorter than `full_reports`
    per mille some fall together.) Between them stand the study's common rungs.

    Args:
        passes: passes of this trial over all training texts (its epochs times its data fraction), at most
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
