"""Where memory runs out, a batch goes through the model in parts: the step stays the step it is."""

import multiprocessing
import resource
from multiprocessing.queues import Queue
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from hpo.data.batching import Batch, collate, training_batches
from hpo.data.splits import load_splits
from hpo.data.tokenization import TokenizedSplit
from hpo.memory import MicroBatch, OutOfMemoryInEvaluation, memory_key
from hpo.messages import Ending
from hpo.model.backbone import Backbone
from hpo.tasks.classification import Classification
from hpo.training import evaluation, gradients
from hpo.training.probe import probe
from hpo.training.worker import Worker, open_worker
from tests.models import (
    Training,
    plain_tokens,
    save_tiny_bert,
    tiny_assignment,
    tiny_hyperparameters,
    tiny_study,
    trained,
    write_texts,
)


def ragged(rows: int) -> Batch:
    lengths = np.arange(2, 2 + rows)
    ids = np.random.default_rng(0).integers(5, 30, lengths.sum())
    tokens = plain_tokens(ids, lengths, np.zeros_like(ids))
    return collate(TokenizedSplit(tokens=tokens, targets=np.arange(rows) % 2), range(rows), 0)


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch):
    """Let memory run out, in the CPU allocator's words, where more rows than these go through the model at once."""

    def limit(rows: int, *, training: bool = True) -> None:
        original = Backbone.logits

        def logits(self: Backbone, batch: Batch, precision):
            if torch.is_grad_enabled() is training and batch.rows > rows:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
            return original(self, batch, precision)

        monkeypatch.setattr(Backbone, "logits", logits)

    return limit


@pytest.mark.parametrize("values", [{}, {"class_weights": "balanced"}, {"label_smoothing": 0.1}, {"l1_strength": 1e-3}])
def test_a_step_in_parts_is_the_step_to_rounding(values, bert: Backbone, task: Classification, room_for) -> None:
    hyperparameters = tiny_hyperparameters(**values, dropout=0.0)

    def after_three_steps() -> tuple[float, dict[str, torch.Tensor], int | None]:
        training = Training(bert, task, hyperparameters, 3)
        for _ in range(3):
            training.step(ragged(7))
        weights = {name: weight.detach().clone() for name, weight in training.parameters.items()}
        return training.mean_loss(), weights, training.gradients.micro_batch(hyperparameters).rows

    loss, expected, whole = after_three_steps()
    room_for(2)
    in_parts, found, rows = after_three_steps()
    assert (whole, rows) == (None, 1)
    assert in_parts == pytest.approx(loss, rel=1e-5)
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)


def test_a_hundred_steps_in_parts_by_length_have_the_losses_of_whole_batches(
    bert: Backbone, task: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = np.random.default_rng(0).integers(2, 17, 64)
    ids = np.random.default_rng(1).integers(5, 30, lengths.sum())
    split = TokenizedSplit(
        tokens=plain_tokens(ids, lengths, np.zeros_like(ids)), targets=ids[np.cumsum(lengths) - 1] % 2
    )

    def losses(pass_tokens: int) -> tuple[list[float], int]:
        monkeypatch.setitem(gradients.PASS_TOKENS, "cpu", pass_tokens)
        training = Training(bert, task, tiny_hyperparameters(dropout=0.0, learning_rate=5e-3), 100)
        seen = []
        for epoch in range(13):
            for rows in training_batches(64, 8, seed=0, epoch=epoch)[: 100 - training.taken]:
                training.step(collate(split, rows, 0))
                seen.append(training.mean_loss())
                training.forget_losses()
        return seen, micro_batch.call_count

    micro_batch = MagicMock(side_effect=Backbone.logits)
    monkeypatch.setattr(Backbone, "logits", lambda *given: micro_batch(*given))
    whole, passes_of_whole = losses(10_000)
    parts, passes_of_both = losses(2)
    assert (len(whole), passes_of_whole) == (100, 100)
    assert passes_of_both > 300, "batches went through in several parts"
    assert parts == pytest.approx(whole, abs=1e-5)


def test_the_next_trial_of_that_size_begins_where_the_last_came_to(worker: Worker, room_for, monkeypatch) -> None:
    room_for(4)
    _, outcome = trained(worker, tiny_assignment())
    assert (outcome.ending, outcome.micro_batch_size) == (Ending.COMPLETED, 4)
    halved: list[int] = []
    monkeypatch.setattr(MicroBatch, "shrink", lambda _self, rows, **_: halved.append(rows))
    _, outcome = trained(worker, tiny_assignment(trial=1))
    assert (outcome.ending, outcome.micro_batch_size, halved) == (Ending.COMPLETED, 4, [])


def test_where_one_row_is_too_much_the_trial_cannot_be_trained(worker: Worker, room_for) -> None:
    room_for(0)
    _, outcome = trained(worker, tiny_assignment())
    assert outcome.ending is Ending.INFEASIBLE
    assert outcome.reason == "Out of memory on cpu in training with 1 of a batch's 8 examples at once, max_length 16."
    assert outcome.micro_batch_size is None


def test_what_one_that_cannot_be_trained_came_to_is_not_begun_with_by_the_next(
    worker: Worker, room_for, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Backbone, "logits", MagicMock(side_effect=MemoryError))
        assert trained(worker, tiny_assignment())[1].ending is Ending.INFEASIBLE
        assert not probe(worker._context, tiny_hyperparameters(), steps=1).feasible
    assert trained(worker, tiny_assignment(trial=1))[1].micro_batch_size is None
    room_for(4)
    assert trained(worker, tiny_assignment(trial=2))[1].micro_batch_size == 4


def test_another_optimizer_or_depth_begins_with_whole_batches(worker: Worker, room_for) -> None:
    room_for(4)
    assert trained(worker, tiny_assignment())[1].micro_batch_size == 4
    for values in ({"optimizer": "sgd"}, {"method": "top_layers", "trained_layers": 1}, {"kept_layers": 1}):
        assert worker._context.gradients.micro_batch(tiny_hyperparameters(**values)).rows is None


def test_an_evaluation_goes_through_in_smaller_batches_and_so_does_the_next(
    worker: Worker, room_for, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 rows of validation 3 fit at once; it is a trial's outcome that shows it did not matter."""
    expected, _ = trained(worker, tiny_assignment())
    room_for(3, training=False)
    batches: list[int] = []
    original = evaluation.collate

    def noting(split, rows, pad_id: int) -> Batch:
        batches.append(len(rows))
        return original(split, rows, pad_id)

    monkeypatch.setattr(evaluation, "collate", noting)
    reports, outcome = trained(worker, tiny_assignment())
    assert (outcome.ending, outcome.micro_batch_size) == (Ending.COMPLETED, None)
    for report, wanted in zip(reports, expected, strict=True):
        assert report.validation.confusion == wanted.validation.confusion
        assert report.validation.values["loss"] == pytest.approx(wanted.validation.values["loss"], rel=1e-5)
    failed = [rows for rows in batches if rows > 3]
    assert failed
    batches.clear()
    trained(worker, tiny_assignment(trial=1))
    assert batches
    assert max(batches) <= 3


def test_where_one_row_is_too_much_to_score_it_is_the_evaluation_that_is_named(worker: Worker, room_for) -> None:
    room_for(0, training=False)
    reports, outcome = trained(worker, tiny_assignment())
    assert reports == []
    assert outcome.ending is Ending.INFEASIBLE
    assert outcome.reason == "Out of memory on cpu in evaluation with one example at a time, max_length 16."
    assert worker.idle


def test_a_long_text_among_short_ones_does_not_keep_an_evaluation_from_its_end(worker: Worker, room_for) -> None:
    """It stays a batch of its own, as large as before; only batches of several texts become smaller."""
    room_for(0, training=False)
    lengths = np.array([64, 2, 2, 2])
    ids = np.full(lengths.sum(), 5)
    tokens = plain_tokens(ids, lengths, np.zeros_like(ids))
    with pytest.raises(OutOfMemoryInEvaluation):
        worker._context.predict(TokenizedSplit(tokens=tokens, targets=np.zeros(4, dtype=np.int64)))


def test_a_trial_begins_with_what_another_worker_came_to_and_never_with_more(worker: Worker) -> None:
    micro_batch = worker._context.gradients.micro_batch(tiny_hyperparameters())
    for told, begun_with, outcome_says in ((4, 4, 4), (6, 4, 4), (None, 4, 4), (2, 2, 2)):
        _, outcome = trained(worker, tiny_assignment(micro_batch_size=told))
        assert (micro_batch.rows, outcome.micro_batch_size) == (begun_with, outcome_says)


def test_a_micro_batch_size_is_reported_only_where_they_are_fewer_than_a_batch(worker: Worker) -> None:
    assert memory_key(tiny_hyperparameters(batch_size=4)) == memory_key(tiny_hyperparameters(batch_size=8))
    assert trained(worker, tiny_assignment(micro_batch_size=4))[1].micro_batch_size == 4
    assert trained(worker, tiny_assignment(tiny_hyperparameters(batch_size=4), trial=1))[1].micro_batch_size is None


@pytest.fixture
def worker(tiny_bert: Path, texts: Path, tmp_path: Path) -> Worker:
    config = tiny_study(tiny_bert, texts)
    return open_worker(config, load_splits(config.data, config.seed))


def train_within(
    model: Path, texts: Path, megabytes: int | None, answers: "Queue[tuple[float, int | None, str]]"
) -> None:
    """Train a trial in a process that may take so much more memory than it has at its start; answer how it ended."""
    config = tiny_study(model, texts)
    worker = open_worker(config, load_splits(config.data, config.seed))
    chosen = tiny_hyperparameters(batch_size=4096, max_length=128, dropout=0.0, epochs=1)
    worker.cut_share(128)
    if megabytes is not None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 2**20, resource.RLIM_INFINITY))
    assignment = tiny_assignment(
        chosen, maximum_passes=1, milestones=tiny_assignment(tiny_hyperparameters(epochs=1)).milestones
    )
    _, outcome = trained(worker, assignment)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    score = outcome.best.validation.values["loss"] if outcome.best else float("nan")
    answers.put((score, outcome.micro_batch_size, outcome.reason))


@pytest.mark.slow
def test_a_real_limit_of_memory_gives_the_run_that_had_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit is one of addresses: what is freed must go back at once, and not wait in the heap for its like, and no
    # thread may reserve a heap of its own.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    model = save_tiny_bert(tmp_path / "model", layers=4, longest=128)
    texts = write_texts(tmp_path / "texts.csv", rows=5120)
    long = texts.read_text().splitlines()
    texts.write_text(
        "\n".join(
            [long[0], *(" ".join([line.partition(",")[0]] * 14) + "," + line.partition(",")[2] for line in long[1:])]
        )
    )
    context = multiprocessing.get_context("spawn")
    found = []
    for megabytes in (None, 200):
        answers = context.Queue()
        process = context.Process(target=train_within, args=(model, texts, megabytes, answers))
        process.start()
        found.append(answers.get(timeout=120))
        process.join(60)
    (expected, whole, _), (loss, rows, reason) = found
    assert whole is None
    assert rows is not None, reason
    assert rows < 4096
    assert loss == pytest.approx(expected, rel=1e-4)
