"""One trial from its first step to its outcome, on a tiny random BERT."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.errors import LONGEST_REASON, ModelError
from hpo.files.weights import load_weights, weights_path
from hpo.messages import Action, Decision, Ending, Milestone, Outcome, Progress, Report
from hpo.training import evaluation
from hpo.training import run as run_module
from hpo.training.run import Message
from hpo.training.worker import Worker, open_worker, train
from tests.models import LONGEST, tiny_assignment, tiny_hyperparameters, tiny_study, trained


@pytest.fixture(scope="module")
def worker(study: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return open_worker(study, load_splits(study.data, study.seed), tmp_path_factory.mktemp("files"))


def weights_hash(worker: Worker) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(worker._context.model.network.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def ending(worker: Worker, **values: object) -> Outcome:
    return trained(worker, tiny_assignment(tiny_hyperparameters(**values)))[1]


def test_a_trial_reports_its_milestones_and_completes(worker: Worker):
    reports, outcome = trained(worker, tiny_assignment())
    assert [(r.rung, r.full, r.step, r.examples_seen) for r in reports] == [
        (250, False, 4, 32),
        (500, True, 8, 64),
        (750, False, 12, 96),
        (1000, True, 16, 128),
    ]
    assert [r.epoch for r in reports] == [0.5, 1.0, 1.5, 2.0]
    assert [r.validation.rows for r in reports] == [12, 16, 12, 16]
    assert [r.train.rows if r.train else None for r in reports] == [None, 12, None, 12]
    assert outcome.ending is Ending.COMPLETED
    assert outcome.reason == ""
    assert outcome.best == max((r for r in reports if r.full), key=lambda r: r.validation.objective)
    assert outcome.seconds >= reports[-1].seconds > reports[0].seconds > 0
    assert outcome.peak_memory_bytes > 10_000_000


def test_training_learns(worker: Worker):
    reports, _ = trained(worker, tiny_assignment(tiny_hyperparameters(epochs=8), maximum_passes=8))
    assert reports[-1].train_loss < 0.5 * reports[0].train_loss
    assert reports[-1].validation.objective > 0.8


def test_the_rate_reported_is_that_of_the_last_step(worker: Worker):
    chosen = tiny_hyperparameters(schedule="linear", warmup_ratio=0.0)
    reports, _ = trained(worker, tiny_assignment(chosen))
    assert [r.learning_rate for r in reports] == pytest.approx([1e-2 * (1 - step / 16) for step in (3, 7, 11, 15)])


@pytest.mark.parametrize(
    ("pruner", "warmup_ratio", "decides"),
    [
        ("median", 0.0, [False, True, True, False]),
        ("median", 0.6, [False, False, True, False]),
        ("promotion", 0.6, [True, True, True, False]),
    ],
)
def test_rungs_decide_after_twenty_steps_and_warmup_but_not_at_the_end(
    study: StudyConfig, pruner: str, warmup_ratio: float, decides: list[bool]
):
    """What is only paused may be paused at once."""
    search = study.search.model_copy(update={"pruner": pruner})
    worker = open_worker(study.model_copy(update={"search": search}), load_splits(study.data, study.seed))
    chosen = tiny_hyperparameters(batch_size=2, warmup_ratio=warmup_ratio)
    assert [r.decides for r in trained(worker, tiny_assignment(chosen))[0]] == decides


DEMANDING = {
    "dropout": 0.3,
    "label_smoothing": 0.1,
    "l1_strength": 1e-4,
    "regularize_towards": "pretrained",
    "method": "top_layers",
    "trained_layers": 1,
}


@pytest.mark.parametrize("values", [{}, DEMANDING])
def test_the_same_seed_gives_the_same_bits_whatever_happens_outside(worker: Worker, values: dict[str, object]):
    assignment = tiny_assignment(tiny_hyperparameters(**values))
    reports, _ = trained(worker, assignment)
    first = weights_hash(worker)
    trained(worker, replace(assignment, seed=8))
    assert weights_hash(worker) != first
    worker.admit(assignment)
    again: list[Report] = []
    while not worker.idle:
        torch.manual_seed(len(again))
        torch.rand(3)
        np.random.seed(0)
        again += [message for message in worker.advance() if isinstance(message, Report)]
    assert weights_hash(worker) == first
    assert [r.validation for r in again] == [r.validation for r in reports]


def test_training_leaves_the_random_state_outside_alone(worker: Worker):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trained(worker, tiny_assignment())
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(("method", "moving"), [("head", set()), ("top_layers", {"encoder.layer.1"})])
def test_frozen_parameters_do_not_change(worker: Worker, method: str, moving: set[str]):
    network, layers = worker._context.model.network, {"trained_layers": 1} if method == "top_layers" else {}
    worker._context.model.reset(7)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    trained(worker, tiny_assignment(tiny_hyperparameters(method=method, **layers)))
    for name, parameter in network.named_parameters():
        moves = name.startswith(("classifier", "bert.pooler")) or any(part in name for part in moving)
        assert torch.equal(parameter, before[name]) is not moves, name


def test_a_trial_begins_with_a_head_of_its_scale(worker: Worker):
    trained(worker, tiny_assignment(tiny_hyperparameters(head_scale=0.5, learning_rate=1e-9)))
    drawn = torch.randn((2, 16), generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(worker._context.model.network.classifier.weight, 0.5 * drawn)


def test_stop_prunes_and_pause_pauses_at_the_next_step(worker: Worker):
    for action, expected in ((Action.STOP, Ending.PRUNED), (Action.PAUSE, Ending.PAUSED)):
        reports, outcome = trained(worker, tiny_assignment(), {250: action})
        assert len(reports) == 1
        assert outcome.ending is expected
        assert outcome.reason == "At step 4 of 16."
        assert outcome.best is None


def test_a_decision_of_another_attempt_or_trial_has_no_effect(worker: Worker):
    worker.admit(tiny_assignment(attempt=2))
    worker.apply(Decision(trial=0, attempt=1, action=Action.STOP))
    worker.apply(Decision(trial=5, attempt=2, action=Action.STOP))
    messages = []
    while not worker.idle:
        messages += worker.advance()
    assert messages[-1].ending is Ending.COMPLETED


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ((Action.STOP, Action.CONTINUE), Ending.PRUNED),
        ((Action.STOP, Action.PAUSE), Ending.PRUNED),
        ((Action.STOP, Action.PAUSE, Action.CONTINUE), Ending.PRUNED),
        ((Action.PAUSE, Action.CONTINUE), Ending.PAUSED),
        ((Action.PAUSE, Action.STOP), Ending.PRUNED),
    ],
)
def test_a_later_decision_never_undoes_a_stop_nor_going_on_a_pause(
    worker: Worker, actions: tuple[Action, ...], expected: Ending
):
    worker.admit(tiny_assignment())
    for action in actions:
        worker.apply(Decision(trial=0, attempt=1, action=action))
    messages: list[Message] = []
    while not worker.idle:
        messages += worker.advance()
    assert [type(message) for message in messages] == [Progress, Outcome]
    assert messages[-1].ending is expected


def test_a_stop_after_the_last_step_finds_the_trial_complete(worker: Worker):
    last = tiny_assignment(milestones=(Milestone(rung=1000, full=True),))
    assert trained(worker, last, {1000: Action.STOP})[1].ending is Ending.COMPLETED


def test_early_stopping_ends_after_that_many_full_reports_without_a_better_score(worker: Worker):
    # At a rate of almost nothing every full report has the same score: the first is best, the next two are no better.
    milestones = tuple(Milestone(rung=200 * place, full=place != 2) for place in range(1, 6))
    chosen = tiny_hyperparameters(learning_rate=1e-30, epochs=5, early_stopping_patience=2)
    assignment = tiny_assignment(chosen, milestones=milestones, maximum_passes=5)
    reports, outcome = trained(worker, assignment)
    assert [r.rung for r in reports] == [200, 400, 600, 800]
    assert outcome.ending is Ending.COMPLETED
    assert outcome.best == reports[0]


@pytest.mark.parametrize("values", [{}, {"optimizer": "sgd", "max_grad_norm": None}, {"optimizer": "rmsprop"}])
def test_an_absurd_learning_rate_diverges(worker: Worker, values: dict[str, object]):
    outcome = ending(worker, learning_rate=1e6, epochs=8, **values)
    assert outcome.ending is Ending.DIVERGED
    assert "no longer a number" in outcome.reason


def test_weights_that_overflow_in_the_last_step_diverge(worker: Worker):
    # One step only: its own loss is fine, the weights it leaves are not.
    chosen = tiny_hyperparameters(
        learning_rate=1e38, optimizer="sgd", max_grad_norm=None, batch_size=100, epochs=1, warmup_ratio=0.0
    )
    reports, outcome = trained(worker, tiny_assignment(chosen))
    assert reports == []
    assert outcome.ending is Ending.DIVERGED


def test_the_next_trial_is_not_touched_by_one_that_diverged(worker: Worker):
    expected = trained(worker, tiny_assignment())[1].best.validation
    ending(worker, learning_rate=1e6, optimizer="sgd", max_grad_norm=None)
    assert trained(worker, tiny_assignment())[1].best.validation == expected


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), "cpu"])
def test_out_of_memory_is_infeasible(worker: Worker, monkeypatch: pytest.MonkeyPatch, error: object):
    def fail(*_: object) -> None:
        if isinstance(error, Exception):
            raise error
        torch.empty(2**60)

    monkeypatch.setattr(run_module.OptimizerStep, "take", fail)
    outcome = ending(worker)
    assert outcome.ending is Ending.INFEASIBLE
    assert outcome.reason == "Out of memory on cpu in training with 8 of a batch's 8 examples at once, max_length 16."
    assert worker.idle


def test_any_other_error_fails_the_trial_in_one_line(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("one\ntwo" + 500 * "x")

    monkeypatch.setattr(run_module.OptimizerStep, "take", fail)
    outcome = ending(worker)
    assert outcome.ending is Ending.FAILED
    assert outcome.reason.startswith("RuntimeError: one two")
    assert len(outcome.reason) == LONGEST_REASON


def test_hyperparameters_that_the_model_cannot_have_fail_in_a_sentence(worker: Worker):
    too_long = ending(worker, max_length=LONGEST + 1)
    assert too_long.ending is Ending.FAILED
    assert too_long.reason == "max_length is 33, but the model reads at most 32 tokens; lower it to 32 or less."
    too_many = ending(worker, method="top_layers", trained_layers=3)
    assert too_many.reason == "trained_layers is 3, but the model has 2 layers; use at most 2."


def test_progress_is_told_each_second(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_module, "SECONDS_BETWEEN_PROGRESS", 0.0)
    messages: list[Report | Progress] = []

    def answer(message: Report | Progress) -> Action:
        messages.append(message)
        return Action.CONTINUE

    train(worker, tiny_assignment(), answer)
    told = [message for message in messages if isinstance(message, Progress)]
    assert [p.examples_seen for p in told] == [8 * step for step in range(17) if step % 4 or step == 0]
    assert {p.examples_total for p in told} == {128}
    assert told[0].examples_per_second == 0
    assert all(p.examples_per_second > 0 for p in told[1:])


def test_a_trial_that_passes_its_limit_is_infeasible(worker: Worker):
    worker.admit(tiny_assignment(limit_seconds=1800.0))
    worker.advance()
    worker._runs[0]._state.seconds = 1800.1
    [outcome] = worker.advance()
    assert worker.idle
    assert isinstance(outcome, Outcome)
    assert outcome.ending is Ending.INFEASIBLE
    assert outcome.reason == "Over its limit of 30 min 00 s after step 0 of 16."
    assert outcome.seconds >= 1800.1


def test_a_trial_within_its_limit_completes(worker: Worker):
    assert trained(worker, tiny_assignment(limit_seconds=1800.0))[1].ending is Ending.COMPLETED


def test_weights_are_kept_where_the_score_beats_the_study(worker: Worker):
    files = worker._context.files
    trained(worker, tiny_assignment(trial=3, score_to_beat=1.0))
    assert not weights_path(files, 3).exists()
    trained(worker, tiny_assignment(trial=3, score_to_beat=0.01))
    assert weights_path(files, 3).exists()


def test_a_budget_of_the_disk_that_is_spent_does_not_fail_the_trial(
    tiny_bert: Path, texts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run_module.Checkpoints, "is_due", lambda *_: True)
    config = tiny_study(tiny_bert, texts, store={"disk_gib": 0.0001})
    worker = open_worker(config, load_splits(config.data, config.seed), tmp_path)
    outcome = trained(worker, tiny_assignment(tiny_hyperparameters(epochs=4), maximum_passes=4))[1]
    assert outcome.ending is Ending.COMPLETED
    room = f"0.00 GiB are needed, and of store.disk_gib, 0.0001 GiB, 0.00 GiB are left in {tmp_path}."
    assert caplog.messages == [
        f"No checkpoint was written to {tmp_path / 'trial-0000'}: {room}",
        f"No weights of trial 0 were kept in {tmp_path}: {room}",
    ]
    assert not list(tmp_path.rglob("*.*"))


def test_only_trained_parameters_are_kept(worker: Worker):
    trained(worker, tiny_assignment(tiny_hyperparameters(method="head"), trial=4))
    assert set(load_weights(worker._context.files, 4)) == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize("values", [{}, {"method": "head", "dropout": 0.5}])
def test_test_scores_are_those_of_the_best_full_report(study: StudyConfig, tmp_path: Path, values: dict[str, object]):
    splits = load_splits(study.data, study.seed)
    worker = open_worker(study, replace(splits, test=splits.validation), tmp_path)
    chosen = tiny_hyperparameters(epochs=4, **values)
    assignment = tiny_assignment(chosen, maximum_passes=4)
    outcome = trained(worker, assignment)[1]
    # Another trial in between: nothing of it may remain.
    trained(worker, tiny_assignment(trial=1, score_to_beat=2.0))
    assert worker.test_evaluation(assignment).scores == outcome.best.validation


def test_a_trial_whose_report_cannot_be_answered_frees_its_slot(worker: Worker):
    def fail(_: Report | Progress) -> Action:
        assert worker.free_slots == 0
        raise OSError("The store is gone.")

    # The error is held, and with it its frames, as a notebook does.
    with pytest.raises(OSError, match="store is gone") as held:
        train(worker, tiny_assignment(), fail)
    assert held.value
    assert worker.free_slots == 1


def test_scores_do_not_depend_on_how_rows_are_batched(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    trained(worker, tiny_assignment())
    context = worker._context
    split = context.tokenized(16)["validation"]
    together = context.task.scores(context.predict(split))
    monkeypatch.setitem(evaluation.MOST_TOKENS, "cpu", 1)
    alone = context.task.scores(context.predict(split))
    assert alone.confusion == together.confusion
    assert alone.values["loss"] == pytest.approx(together.values["loss"], rel=1e-5)


def test_dropout_where_there_is_none_fails_in_a_sentence(tiny_llama: Path, texts: Path):
    config = tiny_study(tiny_llama, texts)
    worker = open_worker(config, load_splits(config.data, config.seed))
    outcome = ending(worker, dropout=0.1)
    assert outcome.ending is Ending.FAILED
    assert "LlamaForSequenceClassification has no dropout layers" in outcome.reason
    with pytest.raises(ModelError, match="leave dropout out of the space"):
        worker._context.model.dropouts.put(0.1)
