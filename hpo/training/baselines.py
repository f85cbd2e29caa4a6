"""Baselines, which are scored without fine-tuning: the steps of a ladder that says whether it was worth it.

Each is trained on the study's training rows and read on the rows that its verdict is about. To add one: its line among
the `baselines` of a task.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.data.batching import Rows
from hpo.data.sources import Examples
from hpo.data.stratify import stratified_sample
from hpo.data.tokenization import TokenizedSplit
from hpo.distributed.rank_group import told_of
from hpo.errors import HpoError, TrainingError
from hpo.messages import HeldOutEvaluation
from hpo.tasks.held_out import mean_held_out
from hpo.tasks.protocol import Fits
from hpo.training.context import TrainingContext
from hpo.training.evaluation import answers

# scikit-learn is imported where it is used: every worker imports this file, which would take it a second longer.
MOST_TRAIN_ROWS = 20_000
"""Rows that a baseline is trained on, a stratified part where there are more: it is to take minutes at most."""

Inputs = tuple[Any, ...]
"""Two matrices: what is seen of the rows to train on, and of those to predict."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselineData:
    """Rows to train on and rows to predict."""

    train: Examples
    train_rows: Rows
    read: Examples
    read_rows: Rows
    fold: int | None
    """Which these are of; None of all training rows."""


def _nothing(_context: TrainingContext, _max_length: int, material: BaselineData) -> Inputs:
    return tuple(np.zeros((len(rows), 1)) for rows in (material.train_rows, material.read_rows))


def _words(_context: TrainingContext, _max_length: int, material: BaselineData) -> Inputs:
    """Return TF-IDF of words and pairs of words (Joachims 1998; Wang and Manning 2012)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\S+")
    train = vectorizer.fit_transform(_texts(material.train, material.train_rows))
    return train, vectorizer.transform(_texts(material.read, material.read_rows))


def _features(context: TrainingContext, max_length: int, material: BaselineData) -> Inputs:
    """Return the pretrained model's mean last layer, each of its numbers scaled to variance 1 in training."""
    from sklearn.preprocessing import StandardScaler

    context.model.reset(context.config.seed)
    splits, scaler = context.tokenized(max_length), StandardScaler()

    def features(split: TokenizedSplit, rows: Rows) -> NDArray[np.float64]:
        found = answers(context.model, split, rows, lambda batch: context.model.features(batch, context.precision))
        return found.double().numpy()

    train = scaler.fit_transform(features(splits.train, material.train_rows))
    return train, scaler.transform(features(splits.confirmation or splits.validation, material.read_rows))


INPUTS: Mapping[str, Callable[[TrainingContext, int, BaselineData], Inputs]] = {
    "nothing": _nothing,
    "words": _words,
    "features": _features,
}
"""What a baseline sees -> that of the rows to train on and of those to predict."""


def evaluate_baseline(context: TrainingContext, name: str, max_length: int) -> HeldOutEvaluation:
    """Train a baseline and read it; of folds the mean.

    Args:
        bench: its data and model; the model is left as pretrained.
        name: one of its task's.
        max_length: tokens after which the model's texts are cut.

    Raises:
        ModelError: the model cannot read as many tokens.
        TrainingError: it cannot be had of these texts or this model: no word stands in two texts, or memory ran out.
    """
    try:
        held_out_evaluations = [_read(context, name, max_length, material) for material in _materials(context)]
    except HpoError:
        raise
    except Exception as error:
        # Whatever it dies of, as with a trial: the verdict can do without it.
        logger.debug("The baseline %s failed.", name, exc_info=True)
        raise TrainingError(f"The baseline {name} failed: {told_of(error)}") from None
    return mean_held_out(held_out_evaluations) if len(held_out_evaluations) > 1 else held_out_evaluations[0]


def _materials(context: TrainingContext) -> list[BaselineData]:
    splits = context.splits
    if splits.folds:
        return [_material(context, one.train, splits.train, one.validation, n) for n, one in enumerate(splits.folds)]
    read = splits.confirmation or splits.validation
    return [_material(context, np.arange(splits.train.rows), read, np.arange(read.rows))]


def _material(
    context: TrainingContext, rows: Rows, read: Examples, read_rows: Rows, fold: int | None = None
) -> BaselineData:
    chosen = rows[stratified_sample(context.train_strata[rows], MOST_TRAIN_ROWS, context.config.seed)]
    return BaselineData(train=context.splits.train, train_rows=chosen, read=read, read_rows=read_rows, fold=fold)


def _read(context: TrainingContext, name: str, max_length: int, material: BaselineData) -> HeldOutEvaluation:
    task, baseline = context.task_of(material.fold), context.task.baselines[name]
    of_train, of_read = INPUTS[baseline.inputs](context, max_length, material)
    fitted = baseline.estimator().fit(of_train, context.train_targets[material.train_rows])
    true = task.targets(material.read.labels)[material.read_rows]
    answers = task.with_targets(true, task.baseline_predictions(fitted, of_read))
    if isinstance(task, Fits):
        own = task.with_targets(context.train_targets[material.train_rows], task.baseline_predictions(fitted, of_train))
        answers = task.with_fitted(answers, task.fit(own))
    return context.read(material.read, answers, material.read_rows)


def _texts(examples: Examples, rows: Rows) -> list[str]:
    pairs = examples.pairs or [""] * examples.rows
    return [f"{examples.texts[row]} {pairs[row]}" for row in rows]
