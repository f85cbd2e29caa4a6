"""What a trial is said to do is what a real one does: its steps, the tokens it trains on and scores, where it ends."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.data.batching import split_by_length, training_batches
from hpo.data.splits import Splits, load_splits
from hpo.messages import Assignment, Dimensions
from hpo.search.pruners import trial_milestones
from hpo.search.trial_sizes import Work, Workload
from hpo.space.search_space import SearchSpace
from hpo.training.worker import open_worker
from tests.models import save_tiny_bert, tiny_study, trained, write_texts

SPACE = SearchSpace.from_mapping(
    {
        "learning_rate": {"value": 1e-3},
        "batch_size": {"values": [8, 16]},
        "epochs": {"min": 1, "max": 2},
        "data_fraction": {"values": [0.3, 1.0]},
        "max_length": {"value": 16},
    },
    "tiny",
)


UNREAD = load_config(
    values={"study": "s", "model": {"name": "none"}, "data": {"train": "none.csv"}, "space": "encoder"}
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


def study(model_folder: Path, folder: Path, **evaluation: Any) -> StudyConfig:
    texts = write_texts(folder / "texts.csv", 90)
    sections = {"rung_rows": 12, "rungs": 4, "first_rung": 250} | evaluation
    return tiny_study(model_folder, texts, evaluation=sections, search={"pruner": "auto"})


def rows_of(config: StudyConfig, splits: Splits, hyperparameters: Hyperparameters) -> Work:
    """Count a trial of texts of one token each, of a model of one layer."""
    dimensions = Dimensions(
        train_rows=splits.train.rows,
        validation_rows=splits.validation.rows,
        folds=tuple((fold.train.size, fold.validation.size) for fold in splits.folds),
        least_rows=2,
        layers=1,
    )
    return Workload(config=config, space=SPACE, dimensions=dimensions).of(hyperparameters)


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("values", [
    {"batch_size": 8, "epochs": 2, "data_fraction": 1.0},
    {"batch_size": 16, "epochs": 1, "data_fraction": 0.3},
])  # fmt: skip
def test_a_trial_does_what_was_said(
    model_folder: Path, tmp_path: Path, folds: int | None, values: dict[str, Any]
) -> None:
    config = study(model_folder, tmp_path, folds=folds)
    splits = load_splits(config.data, config.seed, folds=folds)
    hyperparameters = SPACE.hyperparameters({"learning_rate": 1e-3, "max_length": 16} | values)
    work = rows_of(config, splits, hyperparameters)
    assignment = Assignment(
        trial=0, attempt=1, hyperparameters=hyperparameters, seed=7, maximum_passes=SPACE.maximum_passes(),
        milestones=trial_milestones(config, SPACE, hyperparameters),
    )  # fmt: skip
    reports, _ = trained(open_worker(config, splits), assignment)
    scored = reports[:-1] if folds else reports  # With folds the last one is their mean.
    assert work.rungs == tuple(report.rung for report in scored)
    of_each = [report.validation.rows + (report.train.rows if report.train else 0) for report in scored]
    # Training rows, twelve, are scored at a new best only, and are counted wherever there may be one.
    assert set(np.diff(work.scored, prepend=0) - of_each) <= {0, 12}
    # Each fold counts its steps anew.
    assert work.steps == (sum(report.step for report in scored) if folds else reports[-1].step)
    assert work.total[0] == reports[-1].examples_seen
    at = np.cumsum([report.step for report in scored]) if folds else [report.step for report in scored]
    assert work.shares.tolist() == [step / work.steps for step in at]


def test_evaluations_that_fall_on_one_step_are_one(model_folder: Path, tmp_path: Path) -> None:
    config = study(model_folder, tmp_path, rungs=100, rung_rows=5)
    splits = load_splits(config.data, config.seed)
    values = {"learning_rate": 1e-3, "max_length": 16, "batch_size": 16, "epochs": 1, "data_fraction": 0.3}
    work = rows_of(config, splits, SPACE.hyperparameters(values))
    assert work.steps == 2
    # Two full evaluations, the one at each step, each with 5 training rows; all parts fall on these steps too.
    assert work.total[2] == 2 * (splits.validation.rows + 5)


def test_tokens_of_a_step_are_those_of_its_batches_as_they_are_divided() -> None:
    """Of texts of 4 and of 30 tokens, half of each: counted over all batches of an epoch, each divided by length."""
    lengths = np.random.default_rng(0).permutation(np.repeat([4, 30], 400))
    batches = [lengths[rows] for rows in training_batches(800, 16, seed=1, epoch=0)]
    space = SearchSpace.from_mapping({"batch_size": {"value": 16}, "epochs": {"value": 1}}, "one")
    dimensions = Dimensions(train_rows=800, train_lengths=tuple(sorted(lengths.tolist())), layers=6, pass_tokens=20)
    workload = Workload(config=UNREAD, space=space, dimensions=dimensions)
    by_hand = sum(
        sum(part.size * batch[part].max() + 20 for part in split_by_length(batch, pass_tokens=20, most_rows=16))
        for batch in batches
    )
    assert workload.of(space.hyperparameters(space.default_values())).total[0] == pytest.approx(by_hand, rel=0.03)


def test_what_is_trained_counts_by_its_layers() -> None:
    """Forward through those that are kept, backward through those that are trained; an update by what it keeps."""
    space = SearchSpace.from_mapping({"batch_size": {"value": 16}}, "one")
    workload = Workload(config=UNREAD, space=space, dimensions=Dimensions(train_rows=100, layers=12))

    def counts(**values: Any) -> list[float]:
        return workload.counts_for(Hyperparameters(**values)).tolist()

    assert counts(optimizer="sgd") == pytest.approx([1, 13 / 12, 1, 1])
    assert counts(optimizer="adamw") == pytest.approx([1, 39 / 12, 1, 1])
    assert counts(optimizer="sgd", kept_layers=6) == pytest.approx([0.5, 7 / 12, 0.5, 1])
    assert counts(optimizer="sgd", method="top_layers", trained_layers=3) == pytest.approx([1.5 / 3, 4 / 12, 1, 1])
    assert counts(optimizer="sgd", method="head") == pytest.approx([1 / 3, 1 / 12, 1, 1])
    # Gradients go back through all layers, to few weights.
    assert counts(optimizer="sgd", method="lora") == pytest.approx([2 / 3, 1 / 12, 1, 1])
