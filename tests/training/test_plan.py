"""What a trial trains on and is scored on: fractions, augmented texts, fold after fold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.files.weights import load_weights
from hpo.messages import Action, Ending, Scores
from hpo.metrics.metric import mean_scores
from hpo.model.trial_model import TrialModel
from hpo.search.pruners import fold_milestones
from hpo.training.context import TrainingContext
from hpo.training.run_state import fold_runs
from hpo.training.worker import Worker, open_worker
from tests.models import tiny_assignment, tiny_hyperparameters, tiny_study, trained

FOLDS = 4


@pytest.fixture(scope="module")
def context(study: StudyConfig) -> TrainingContext:
    return open_worker(study, load_splits(study.data, study.seed))._context


@pytest.fixture(scope="module")
def of_folds(tiny_bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    config = tiny_study(tiny_bert, texts, evaluation={"folds": FOLDS, "rung_rows": 12})
    splits = load_splits(config.data, config.seed, folds=FOLDS)
    return open_worker(config, splits, tmp_path_factory.mktemp("files"))


def in_folds(**values: object):
    return tiny_assignment(tiny_hyperparameters(**values), milestones=fold_milestones(FOLDS))


def test_a_fraction_of_the_examples_is_stratified_and_the_same_for_every_trial(context: TrainingContext):
    halves = [
        fold_runs(tiny_assignment(tiny_hyperparameters(data_fraction=0.5), seed=seed), context)[0] for seed in (1, 2)
    ]
    assert halves[0].rows.tolist() == halves[1].rows.tolist()
    assert np.bincount(context.train_strata[halves[0].rows]).tolist() == [16, 16]
    (quarter,) = fold_runs(tiny_assignment(tiny_hyperparameters(data_fraction=0.25)), context)
    assert set(quarter.rows) < set(halves[0].rows)
    assert set(quarter.train_sample) <= set(quarter.rows)
    (least,) = fold_runs(tiny_assignment(tiny_hyperparameters(data_fraction=1e-6)), context)
    assert sorted(context.train_strata[least.rows]) == [0, 1]


def test_a_trial_on_half_of_the_examples_takes_half_the_steps_and_ends_at_half_the_rung(context: TrainingContext):
    half = tiny_hyperparameters(data_fraction=0.5)
    milestones = tiny_assignment(tiny_hyperparameters(epochs=1)).milestones
    (fold_run,) = fold_runs(tiny_assignment(half, milestones=milestones), context)
    # 32 texts in batches of 8, twice; its end is that of one whole epoch of two: 500 per mille.
    assert fold_run.total_steps == 8
    assert {step: milestone.rung for step, milestone in fold_run.milestones.items()} == {4: 250, 8: 500}


def test_the_default_batches_are_the_examples_as_they_are(context: TrainingContext):
    assignment = tiny_assignment()
    (fold_run,) = fold_runs(assignment, context)
    plain = list(fold_run.batches(assignment, context))
    assert sum(batch.rows for batch in plain) == 2 * context.splits.train.rows
    lengths = context.tokenized(16)["train"].tokens.lengths
    assert sum(batch.lengths.sum() for batch in plain) == 2 * lengths.sum()


def test_augmented_batches_follow_from_seed_epoch_and_batch(context: TrainingContext):
    def batches(**values: object):
        assignment = tiny_assignment(tiny_hyperparameters(token_masking=0.3, word_swap=0.2), **values)
        (fold_run,) = fold_runs(assignment, context)
        return [batch.inputs["input_ids"].tolist() for batch in fold_run.batches(assignment, context)]

    assert batches() == batches()
    assert batches() != batches(seed=8)
    mask = context.model.tokenizer.mask_token_id
    shares = [np.mean([token == mask for row in batch for token in row]) for batch in batches()]
    assert min(shares) > 0
    assert len(set(shares)) > 1


def test_every_fold_is_scored_where_it_did_not_train_and_the_trial_by_their_mean(of_folds: Worker):
    reports, outcome = trained(of_folds, in_folds())
    assert [(r.rung, r.full) for r in reports] == [
        (250, False), (500, False), (750, False), (999, False), (1000, True),
    ]  # fmt: skip
    *folds, mean = reports
    assert [r.validation.rows for r in folds] == [20] * 4
    assert mean.validation.rows == 80
    assert mean.validation.objective == pytest.approx(np.mean([r.validation.objective for r in folds]))
    assert mean.train is not None
    assert np.sum(mean.validation.confusion) == 80
    assert outcome.ending is Ending.COMPLETED
    assert outcome.best == mean
    # Two epochs of 60 texts in each.
    assert [r.examples_seen for r in folds] == [120, 240, 360, 480]
    assert [r.decides for r in reports] == [True, True, True, False, False]
    assert {r.epoch for r in reports} == {2.0}


def test_folds_start_alike_and_train_apart(of_folds: Worker):
    context = of_folds._context
    made = fold_runs(in_folds(), context)
    assert [fold_run.last for fold_run in made] == [False, False, False, True]
    seeds = {fold_run.seed for seed in range(5) for fold_run in fold_runs(replace(in_folds(), seed=seed), context)}
    assert len(seeds) == 5 * FOLDS, "of each fold of each seed another"
    for fold_run in made:
        assert set(fold_run.rows).isdisjoint(fold_run.validation_part)
        assert set(fold_run.train_sample) <= set(fold_run.rows)
    assert sorted(np.concatenate([fold_run.validation_part for fold_run in made])) == list(range(80))


def test_a_trial_in_folds_is_the_same_again_and_can_be_pruned_after_a_fold(of_folds: Worker):
    whole, _ = trained(of_folds, in_folds())
    cut, outcome = trained(of_folds, in_folds(), {500: Action.STOP})
    assert [r.validation for r in cut] == [r.validation for r in whole[:2]]
    assert (outcome.ending, outcome.best) == (Ending.PRUNED, None)


def test_the_weights_kept_of_a_trial_in_folds_are_those_of_its_last(of_folds: Worker):
    context = of_folds._context
    trained(of_folds, in_folds())
    kept = {name: tensor.clone() for name, tensor in context.model.network.state_dict().items()}
    stored = load_weights(context.files, 0)
    embedding = "bert.embeddings.word_embeddings.weight"
    stored[embedding] = stored[embedding][context.model.network.get_input_embeddings().tokens]
    assert all(np.array_equal(stored[name], kept[name]) for name in stored)


def test_less_model_is_scored_and_kept_as_it_was_trained(tiny_bert: Path, texts: Path, tmp_path: Path):
    config = tiny_study(tiny_bert, texts, data={"train": str(texts), "test_fraction": 0.2})
    worker = open_worker(config, load_splits(config.data, 0), tmp_path)
    chosen = tiny_hyperparameters(kept_layers=1, attention_dropout=0.2, class_weights="balanced")
    _, outcome = trained(worker, tiny_assignment(chosen))
    assert outcome.ending is Ending.COMPLETED
    stored = load_weights(tmp_path, 0)
    assert not any("layer.1." in name for name in stored)
    first = worker.test_evaluation(tiny_assignment(chosen))
    trained(worker, tiny_assignment(tiny_hyperparameters(epochs=1), trial=1))
    assert worker.test_evaluation(tiny_assignment(chosen)) == first


def test_schedule_free_weights_are_kept_as_they_were_scored(tiny_bert: Path, texts: Path, tmp_path: Path):
    config = tiny_study(tiny_bert, texts, evaluation={"rung_rows": 12})
    worker = open_worker(config, load_splits(config.data, 0), tmp_path)
    chosen = tiny_hyperparameters(optimizer="schedule_free_adamw")
    reports, _ = trained(worker, tiny_assignment(chosen))
    best = max((r for r in reports if r.full), key=lambda r: r.validation.objective)
    context = worker._context
    TrialModel(context.model, context.task, chosen, seed=0).load(load_weights(tmp_path, 0))
    again = context.task.scores(context.predict(context.tokenized(chosen.max_length)["validation"]))
    assert again.values == best.validation.values


def test_reduce_on_plateau_lowers_the_rate_of_a_trial_that_does_not_improve(
    context: TrainingContext, study: StudyConfig
):
    worker = open_worker(study, load_splits(study.data, study.seed))
    # So small a rate that no prediction ever changes: every evaluation after the first is one without a better score.
    values = {"schedule": "reduce_on_plateau", "plateau_patience": 0, "decay_factor": 0.5, "learning_rate": 1e-12}
    chosen = tiny_hyperparameters(**values, warmup_ratio=0.0, epochs=4)
    reports, _ = trained(worker, tiny_assignment(chosen, maximum_passes=4, milestones=_each_epoch(4)))
    assert [r.learning_rate for r in reports] == pytest.approx([1e-12, 1e-12, 5e-13, 2.5e-13])


def _each_epoch(epochs: int):
    (last,) = tiny_assignment(tiny_hyperparameters(epochs=2)).milestones[-1:]
    return tuple(replace(last, rung=1000 * epoch // epochs) for epoch in range(1, epochs + 1))


def test_scores_of_folds_are_averaged_each_fold_alike():
    def scores(f1: float, rows: int) -> Scores:
        per_class = {"a": {"precision": f1, "support": float(rows)}}
        return Scores(metric="f1", values={"f1": f1, "loss": 1 - f1}, rows=rows, per_class=per_class,
                      confusion=((rows, 0), (0, 1)))  # fmt: skip

    mean = mean_scores([scores(0.5, 10), scores(1.0, 30)])
    assert mean.values == {"f1": 0.75, "loss": 0.25}
    assert mean.rows == 40
    assert mean.per_class == {"a": {"precision": 0.75, "support": 40.0}}
    assert mean.confusion == ((40, 0), (0, 2))
