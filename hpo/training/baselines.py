"""What a classifier scores without fine-tuning: the steps of a ladder that says whether it was worth it.

Each is trained on the study's training rows and read on the rows that its verdict is about. To add one: a function
shaped like `_majority`, and its line in `BASELINES`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpo.data.batching import Rows
from hpo.data.sources import Examples
from hpo.data.splits import label_numbers, stratified_part
from hpo.data.tokenization import TokenizedSplit
from hpo.errors import HpoError, TrainingError
from hpo.messages import Reading
from hpo.metrics.predictions import Predictions
from hpo.tasks.reading import mean_reading
from hpo.training.bench import Bench
from hpo.training.evaluation import answers
from hpo.training.gang import told_of

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# scikit-learn is imported where it is used: every worker imports this file, which would take it a second longer.
MOST_TRAIN_ROWS = 20_000
"""Rows that a baseline is trained on, a stratified part where there are more: it is to take minutes at most."""
MOST_ITERATIONS = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """Rows to train on and rows to predict."""

    train: Examples
    train_rows: Rows
    train_labels: NDArray[np.int64]
    """Class of each of the training rows, shape (rows,)."""
    read: Examples
    read_rows: Rows


def _majority(bench: Bench, _max_length: int, material: Material) -> NDArray[np.float64]:
    classes = len(bench.task.label_names)
    shares = np.bincount(material.train_labels, minlength=classes) / len(material.train_labels)
    return np.tile(shares, (len(material.read_rows), 1))


def _tf_idf(bench: Bench, _max_length: int, material: Material) -> NDArray[np.float64]:
    """Return what a linear model over words and pairs of words says (Joachims 1998; Wang and Manning 2012)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\S+"),
        LogisticRegression(C=10.0, max_iter=MOST_ITERATIONS),
    )
    model.fit(_texts(material.train, material.train_rows), material.train_labels)
    return _said(model, _texts(material.read, material.read_rows), bench)


def _frozen_features(bench: Bench, max_length: int, material: Material) -> NDArray[np.float64]:
    """Return what a linear model over the pretrained model's mean last layer says."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    bench.model.reset(bench.config.seed)
    splits = bench.tokenized(max_length)

    def features(split: TokenizedSplit, rows: Rows) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (
            answers(bench.model, split, rows, lambda batch: bench.model.features(batch, bench.precision))
            .double()
            .numpy()
        )
        return found

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=MOST_ITERATIONS))
    model.fit(features(splits.train, material.train_rows), material.train_labels)
    read = splits.confirmation or splits.validation
    return _said(model, features(read, material.read_rows), bench)


def _said(model: "Pipeline", rows: Sequence[str] | NDArray[np.float64], bench: Bench) -> NDArray[np.float64]:
    """Return what a fitted model says of rows; a class that it was not shown, as in a fold of groups, has 0."""
    said = np.zeros((len(rows), len(bench.task.label_names)))
    said[:, model.classes_] = model.predict_proba(rows)
    return said


BASELINES: Mapping[str, Callable[[Bench, int, Material], NDArray[np.float64]]] = {
    "majority class": _majority,
    "TF-IDF and logistic regression": _tf_idf,
    "frozen features and logistic regression": _frozen_features,
}
"""Name -> the probabilities that it gives to the rows that are read, shape (rows, classes)."""


def read_baseline(bench: Bench, name: str, max_length: int) -> Reading:
    """Train a baseline and read it; of folds the mean.

    Args:
        bench: its data and model; the model is left as pretrained.
        name: one of `BASELINES`.
        max_length: tokens after which the model's texts are cut.

    Raises:
        ModelError: the model cannot read as many tokens.
        TrainingError: it cannot be had of these texts or this model: no word stands in two texts, or memory ran out.
    """
    try:
        readings = [_read(bench, name, max_length, material) for material in _materials(bench)]
    except HpoError:
        raise
    except Exception as error:
        # Whatever it dies of, as with a trial: the verdict can do without it.
        logger.debug("The baseline %s failed.", name, exc_info=True)
        raise TrainingError(f"The baseline {name} failed: {told_of(error)}") from None
    return mean_reading(readings) if len(readings) > 1 else readings[0]


def _materials(bench: Bench) -> list[Material]:
    splits = bench.splits
    if splits.folds:
        return [_material(bench, fold.train, splits.train, fold.validation) for fold in splits.folds]
    read = splits.confirmation or splits.validation
    return [_material(bench, np.arange(splits.train.rows), read, np.arange(read.rows))]


def _material(bench: Bench, rows: Rows, read: Examples, read_rows: Rows) -> Material:
    chosen = rows[stratified_part(bench.train_labels[rows], MOST_TRAIN_ROWS, bench.config.seed)]
    return Material(
        train=bench.splits.train,
        train_rows=chosen,
        train_labels=bench.train_labels[chosen],
        read=read,
        read_rows=read_rows,
    )


def _read(bench: Bench, name: str, max_length: int, material: Material) -> Reading:
    said = BASELINES[name](bench, max_length, material)
    true = label_numbers(material.read.labels, bench.task.label_names)[material.read_rows]
    return bench.read(material.read, Predictions.of(true, said), material.read_rows)


def _texts(examples: Examples, rows: Rows) -> list[str]:
    pairs = examples.pairs or [""] * examples.rows
    return [f"{examples.texts[row]} {pairs[row]}" for row in rows]
