"""How much a trial has to do: its optimizer steps and the rows it scores, told from the data before any training."""

from dataclasses import dataclass

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Assignment
from hpo.search.assignments import build_assignment
from hpo.space.search_space import SearchSpace
from hpo.training.milestones import milestone_steps, steps_per_epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What a trial does that is neither pruned nor stops itself early."""

    steps: int
    """Optimizer steps, over all folds."""
    scored_rows: int
    """Rows scored in all its evaluations."""
    rung: int
    """Where it ends, in per mille of the study's longest trial."""


def extent_of(config: StudyConfig, space: SearchSpace, splits: Splits, hyperparameters: Hyperparameters) -> Extent:
    """Return how much a trial under `hyperparameters`, a configuration of `space`, has to do."""
    assignment = build_assignment(config, space, hyperparameters, trial=0, attempt=1, seed=0, score_to_beat=None)
    done = _with_folds(config, splits, hyperparameters) if splits.folds else _of_one(config, splits, assignment)
    steps, scored_rows = done
    return Extent(steps=steps, scored_rows=scored_rows, rung=assignment.milestones[-1].rung)


def _of_one(config: StudyConfig, splits: Splits, assignment: Assignment) -> tuple[int, int]:
    hyperparameters = assignment.hyperparameters
    rows, batch = _trained_rows(splits, hyperparameters, splits.train.rows), hyperparameters.batch_size
    reached = milestone_steps(
        assignment.milestones,
        maximum_examples=assignment.maximum_passes * splits.train.rows,
        train_rows=rows,
        batch_size=batch,
        epochs=hyperparameters.epochs,
    )
    validation = splits.validation.rows
    part = min(config.evaluation.rung_rows, validation)
    # With all of validation as many training rows are scored as are of a part, at most: only at a new best.
    scored = sum(validation + part if milestone.full else part for milestone in reached.values())
    return hyperparameters.epochs * steps_per_epoch(rows, batch), scored


def _with_folds(config: StudyConfig, splits: Splits, hyperparameters: Hyperparameters) -> tuple[int, int]:
    steps = scored = 0
    for fold in splits.folds:
        rows, left_out = _trained_rows(splits, hyperparameters, fold.train.size), fold.validation.size
        steps += hyperparameters.epochs * steps_per_epoch(rows, hyperparameters.batch_size)
        scored += left_out + min(config.evaluation.rung_rows, left_out)
    return steps, scored


def _trained_rows(splits: Splits, hyperparameters: Hyperparameters, rows: int) -> int:
    """Return how many of `rows` a trial sees in each epoch: its share of them, at least one of each class."""
    return max(round(hyperparameters.data_fraction * rows), min(rows, len(splits.label_names)))
