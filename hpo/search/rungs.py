"""Where a trial is evaluated: rungs comparable between trials, and as many full evaluations in each."""

from hpo.messages import Milestone


def milestones(*, epochs: int, maximum_epochs: int, rungs: int, full_reports: int) -> tuple[Milestone, ...]:
    """Return a trial's milestones, rising in rung.

    A rung is examples seen over those of the study's longest trial, in per mille, so trials of other batch sizes and
    epochs compare at it. Full evaluations are spread evenly over the trial's own length, as many in every trial: a
    trial that is looked at more often has the luckier maximum. (Of a trial shorter than `full_reports` per mille some
    fall together.) Between them stand the study's common rungs.

    Args:
        epochs: epochs of this trial, at most `maximum_epochs`.
        maximum_epochs: epochs of the study's longest trial.
        rungs: number of common rungs over the longest trial; 0 for none.
        full_reports: number of full evaluations in a trial.
    """
    length = 1000 * epochs / maximum_epochs
    full = {max(1, round(length * part / full_reports)) for part in range(1, full_reports + 1)}
    common = {round(1000 * part / rungs) for part in range(1, rungs + 1)} if rungs else set()
    partial = {rung for rung in common if rung < max(full)} - full
    return tuple(Milestone(rung=rung, full=rung in full) for rung in sorted(full | partial))
