"""Baselines: models without fine-tuning, whose scores show whether fine-tuning was worth it.

Each is trained on the study's training rows and evaluated on the rows of its verdict. To add one: an entry in the
`baselines` of a task.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from hpo.data.batching import Batch, Rows
from hpo.data.sources import Examples
from hpo.data.stratify import stratified_sample
from hpo.errors import HpoError, TrainingError, error_line
from hpo.messages import HeldOutEvaluation, Precision
from hpo.tasks.held_out import mean_held_out
from hpo.tasks.protocol import Fits
from hpo.training.context import TrainingContext
from hpo.training.evaluation import outputs

# scikit-learn is imported where it is used: every worker imports this file, and would start a second later.
Inputs = tuple[Any, Any]
"""Two matrices: features of the rows to train on, and of the rows to predict."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselineRows:
    """Training rows to train on, and rows to predict."""

    train: Rows
    examples: Examples
    """Split from which `predicted` takes rows."""
    predicted: Rows
    fold: int | None = None
    """Training rows of the fold; None for all."""


def _nothing(_context: TrainingContext, _max_length: int, rows: BaselineRows) -> Inputs:
    return np.zeros((rows.train.size, 1)), np.zeros((rows.predicted.size, 1))


def _words(context: TrainingContext, _max_length: int, rows: BaselineRows) -> Inputs:
    """Return TF-IDF of words and pairs of words (Joachims 1998; Wang and Manning 2012)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\S+")
    train = vectorizer.fit_transform(_texts(context.splits.train, rows.train))
    return train, vectorizer.transform(_texts(rows.examples, rows.predicted))


def _features(context: TrainingContext, max_length: int, rows: BaselineRows) -> Inputs:
    """Return the pretrained model's mean last layer, each of its numbers scaled to variance 1 in training."""
    from sklearn.preprocessing import StandardScaler

    train, predicted = _of_pretrained(context, max_length, rows, context.model.features)
    scaler = StandardScaler()
    return scaler.fit_transform(train.double().numpy()), scaler.transform(predicted.double().numpy())


def _answers(context: TrainingContext, max_length: int, rows: BaselineRows) -> Inputs:
    """Return the predictions of the untuned pretrained model."""
    train, predicted = _of_pretrained(context, max_length, rows, context.model.logits)
    return context.task.predictions(train), context.task.predictions(predicted)


def _of_pretrained(
    context: TrainingContext, max_length: int, rows: BaselineRows, ask: Callable[[Batch, Precision], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return outputs of the pretrained model for the rows to train on and for those to predict."""
    context.model.reset(context.config.seed)
    splits = context.tokenized(max_length)
    asked = ((splits["train"], rows.train), (splits.get("confirmation", splits["validation"]), rows.predicted))
    train, predicted = (
        outputs(context.model, split, chosen, lambda batch: ask(batch, context.precision)) for split, chosen in asked
    )
    return train, predicted


INPUTS: Mapping[str, Callable[[TrainingContext, int, BaselineRows], Inputs]] = {
    "nothing": _nothing,
    "words": _words,
    "features": _features,
    "answers": _answers,
}
"""Features of a baseline -> function that computes them for the rows to train on and those to predict."""


def evaluate_baseline(context: TrainingContext, name: str, max_length: int) -> HeldOutEvaluation:
    """Train a baseline and evaluate it on the rows of the verdict; with folds, return the mean.

    Args:
        context: its data and model; the model is left as pretrained.
        name: one of its task's.
        max_length: most tokens of a text for the model.

    Raises:
        ModelError: the model cannot read as many tokens.
        TrainingError: the baseline cannot be computed for these texts or this model: no word occurs in two texts, or
            memory ran out.
    """
    splits = context.splits
    held = splits.confirmation or splits.validation
    parts = [
        BaselineRows(train=one.train, examples=splits.train, predicted=one.validation, fold=fold)
        for fold, one in enumerate(splits.folds)
    ]
    whole = BaselineRows(train=np.arange(splits.train.rows), examples=held, predicted=np.arange(held.rows))
    try:
        evaluations = [_evaluated(context, name, max_length, rows) for rows in parts or [whole]]
    except HpoError:
        raise
    except Exception as error:
        # Any error, as for a trial, because the verdict does not need the baseline.
        logger.debug("The baseline %s failed.", name, exc_info=True)
        raise TrainingError(f"The baseline {name} failed: {error_line(error)}") from None
    return mean_held_out(evaluations) if len(evaluations) > 1 else evaluations[0]


def _evaluated(context: TrainingContext, name: str, max_length: int, rows: BaselineRows) -> HeldOutEvaluation:
    task, baseline = context.task_of(rows.fold), context.task.baselines[name]
    sample = stratified_sample(context.train_strata[rows.train], baseline.train_rows, context.config.seed)
    chosen = rows.train[sample]
    rows = replace(rows, train=chosen)
    of_train, of_predicted = INPUTS[baseline.inputs](context, max_length, rows)
    fitted = baseline.estimator().fit(of_train, context.train_targets[rows.train])
    true = task.targets(rows.examples.labels)[rows.predicted]
    answers = task.with_targets(true, task.baseline_predictions(fitted, of_predicted))
    if isinstance(task, Fits):
        own = task.with_targets(context.train_targets[rows.train], task.baseline_predictions(fitted, of_train))
        answers = task.with_fitted(answers, task.fit(own))
    return context.held_out_evaluation(rows.examples, answers, rows.predicted)


def _texts(examples: Examples, rows: Rows) -> list[str]:
    pairs = examples.pairs or [""] * examples.rows
    return [f"{examples.texts[row]} {pairs[row]}" for row in rows]
