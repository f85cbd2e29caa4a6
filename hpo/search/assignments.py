"""Trial assignments: a configuration with its evaluations and its seed."""

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.messages import Assignment, Demands
from hpo.search.rungs import fold_milestones, milestones
from hpo.search.samplers import derived_seed
from hpo.space.search_space import SearchSpace


def build_assignment(
    config: StudyConfig,
    space: SearchSpace,
    hyperparameters: Hyperparameters,
    *,
    trial: int,
    attempt: int,
    seed: int,
    score_to_beat: float | None,
    micro_batch_size: int | None = None,
    limit_seconds: float | None = None,
    confirms: int | None = None,
    alone: bool = False,
) -> Assignment:
    """Return one attempt at `trial`, complete."""
    evaluation, most = config.evaluation, maximum_passes(space)
    if evaluation.folds:
        planned = fold_milestones(evaluation.folds)
    else:
        planned = milestones(
            passes=hyperparameters.epochs * hyperparameters.data_fraction,
            maximum_passes=most,
            # Nothing prunes a run that confirms, so it needs no rungs between its full evaluations.
            rungs=evaluation.rungs if confirms is None else 0,
            full_reports=evaluation.full_reports or int(space.largest("epochs")),
        )
    return Assignment(
        trial=trial, attempt=attempt, hyperparameters=hyperparameters, seed=seed, milestones=planned,
        maximum_passes=most, score_to_beat=score_to_beat, micro_batch_size=micro_batch_size,
        limit_seconds=limit_seconds, confirms=confirms, alone=alone,
    )  # fmt: skip


def maximum_passes(space: SearchSpace) -> float:
    """Return the passes over all training rows of the study's longest trial."""
    return space.largest("epochs") * space.largest("data_fraction")


def demands_of(space: SearchSpace) -> Demands:
    """Return the most that a configuration of `space` asks of the model."""
    most = space.largest_if_any
    layers = {name: most(name) for name in ("trained_layers", "kept_layers")}
    return Demands(
        max_length=int(space.largest("max_length")),
        **{name: None if number is None else int(number) for name, number in layers.items()},
        dropout=most("dropout") is not None,
        attention_dropout=most("attention_dropout") is not None,
        token_masking=bool(most("token_masking")),
        word_swap=bool(most("word_swap")),
    )


def seed_of(config: StudyConfig, trial: int, hyperparameters: Hyperparameters) -> int:
    """Return a trial's seed: the one its space names, else one that follows from the study's seed and its number."""
    own = hyperparameters.seed
    return derived_seed(config.seed, "trial", trial) if own is None else own
