"""Makes an assignment out of a configuration: when it is evaluated, and under which seed."""

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.messages import Assignment
from hpo.search.rungs import milestones
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
) -> Assignment:
    """Return one attempt at `trial`, complete."""
    maximum_epochs = int(space.largest("epochs"))
    return Assignment(
        trial=trial,
        attempt=attempt,
        hyperparameters=hyperparameters,
        seed=seed,
        milestones=milestones(
            epochs=hyperparameters.epochs,
            maximum_epochs=maximum_epochs,
            rungs=config.evaluation.rungs,
            full_reports=config.evaluation.full_reports or maximum_epochs,
        ),
        maximum_epochs=maximum_epochs,
        score_to_beat=score_to_beat,
    )


def seed_of(config: StudyConfig, trial: int, hyperparameters: Hyperparameters) -> int:
    """Return a trial's seed: the one its space names, else one that follows from the study's seed and its number."""
    own = hyperparameters.seed
    return derived_seed(config.seed, "trial", trial) if own is None else own
