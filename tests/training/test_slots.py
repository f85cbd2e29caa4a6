"""Several trials over one frozen backbone: each is trained as if it were alone."""

import gc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo.data.batching import Batch
from hpo.data.splits import load_splits
from hpo.files import checkpoints
from hpo.messages import Action, Assignment, Decision, Ending, Milestone, Outcome, Report, WorkerSettings
from hpo.model.backbone import Backbone
from hpo.model.trial_model import Slots, TrialModel
from hpo.training.context import TrainingContext
from hpo.training.gradients import MOST_SHARED_TOKENS, PASS_TOKENS, SlotBatch, micro_batches
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.worker import Worker, open_worker
from tests.models import save_tiny_bert, save_tiny_llama, tiny_assignment, tiny_hyperparameters, tiny_study

END = (Milestone(rung=500, full=True), Milestone(rung=1000, full=True))


def head(trial: int, **values: object) -> Assignment:
    """Return a trial of more than a hundred steps with dropout."""
    usual: dict[str, object] = {"method": "head", "dropout": 0.3, "epochs": 13}
    chosen = tiny_hyperparameters(**{**usual, **values})
    return tiny_assignment(chosen, trial=trial, seed=trial, milestones=END, maximum_passes=chosen.epochs)


FIRST = head(0)
SECOND = head(1, dropout=0.1, learning_rate=1e-3, optimizer="sgd", label_smoothing=0.1, max_grad_norm=0.1)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[float]]:
    """Losses of all later steps, by the trial's dropout in per mille, which identifies a trial."""
    seen: dict[int, list[float]] = {}
    take = OptimizerStep.take

    def noted(training: OptimizerStep, loss: torch.Tensor) -> None:
        seen.setdefault(round(1000 * (training.model.hyperparameters.dropout or 0)), []).append(float(loss))
        take(training, loss)

    monkeypatch.setattr(OptimizerStep, "take", noted)
    return seen


def opened(model: Path, texts: Path, slots: int, files: Path | None = None, **values: object) -> Worker:
    compute = {"device": "cpu", "precision": "fp32", "threads": 1, "slots": slots, **values}
    config = tiny_study(model, texts, compute=compute)
    return open_worker(config, load_splits(config.data, config.seed), files)


@pytest.fixture
def two(tiny_bert: Path, texts: Path, tmp_path: Path) -> Worker:
    return opened(tiny_bert, texts, 2, tmp_path / "two")


@pytest.fixture
def alone(tiny_bert: Path, texts: Path, tmp_path: Path) -> Worker:
    return opened(tiny_bert, texts, 1, tmp_path / "one")


def trained(
    worker: Worker, *assignments: Assignment, should_return: Callable[[], bool] = lambda: False
) -> dict[int, tuple[list[Report], Outcome]]:
    """Train all, as many at once as there are slots, and return the reports and the outcome of each."""
    waiting, reports, ended = list(assignments), {one.trial: [] for one in assignments}, {}
    while waiting or not worker.idle:
        while waiting and worker.free_slots:
            worker.admit(waiting.pop(0))
        for said in worker.advance(should_return):
            if isinstance(said, Report):
                reports[said.trial].append(said)
            if isinstance(said, Outcome):
                ended[said.trial] = said
    return {trial: (reports[trial], outcome) for trial, outcome in ended.items()}


def compare(found: dict[int, tuple[list[Report], Outcome]], wanted: dict[int, tuple[list[Report], Outcome]]) -> None:
    """Assert that trials have the same reports and endings as `wanted`, up to rounding."""
    for trial, (reports, outcome) in found.items():
        expected, ending = wanted[trial]
        assert outcome.ending is ending.ending, outcome.reason
        assert [(one.rung, one.step, one.examples_seen) for one in reports] == [
            (one.rung, one.step, one.examples_seen) for one in expected
        ]
        for one, other in zip(reports, expected, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, abs=1e-5)
            # Without the calibration error, whose bins can turn a rounding difference into a large one.
            values, others = ({**scores.validation.values, "neg_calibration_error": 0.0} for scores in (one, other))
            assert values == pytest.approx(others, abs=1e-4)


def test_two_trials_share_passes_through_the_backbone(
    two: Worker, alone: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = Backbone.logits

    def noted(self: Backbone, batch: Batch, precision):
        if torch.is_grad_enabled():
            rows.append(batch.rows)
        return original(self, batch, precision)

    monkeypatch.setattr(Backbone, "logits", noted)
    pair = (FIRST, SECOND)
    trained(alone, *pair)
    apart = rows.copy()
    rows.clear()
    trained(two, *pair)
    assert sum(rows) == sum(apart)
    assert len(rows) < 0.6 * len(apart)


def test_two_trials_over_a_decoder_are_each_as_if_alone(texts: Path, tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "llama")
    pair = (head(0, dropout=None), head(1, dropout=None, learning_rate=1e-3))
    compare(trained(opened(model, texts, 2), *pair), trained(opened(model, texts, 1), *pair))


def lora(trial: int, **values: object) -> Assignment:
    """Return a LoRA trial with dropout in the adapters."""
    return head(trial, **{"method": "lora", "learning_rate": 1e-3, "dropout": None, "lora_dropout": 0.2, **values})


@pytest.mark.parametrize(
    "pair",
    [
        (FIRST, SECOND),
        (FIRST, head(1, dropout=0.1, batch_size=5, max_length=8)),
        (lora(0, dropout=0.3), lora(1, dropout=0.1)),
        (lora(0, dropout=0.3), lora(1, dropout=0.1, lora_rank=2, lora_dropout=0.1, batch_size=5, max_length=8)),
    ],
)
def test_two_trials_over_one_backbone_are_each_as_if_alone(
    pair: tuple[Assignment, Assignment], two: Worker, alone: Worker, losses: dict[int, list[float]]
) -> None:
    as_if_alone(pair, two, alone, losses)


def test_batches_that_are_divided_by_length_are_each_as_if_alone(
    two: Worker, alone: Worker, losses: dict[int, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third takes the place of the first in mid-training of the second."""
    monkeypatch.setitem(PASS_TOKENS, "cpu", 2)
    combined: list[int] = []

    def noted(parts: Sequence[SlotBatch], *limits: int) -> list[list[SlotBatch]]:
        combined.append(len(parts))
        return micro_batches(parts, *limits)

    monkeypatch.setattr("hpo.training.gradients.micro_batches", noted)
    three = (lora(0, dropout=0.1), lora(1, dropout=0.2, lora_rank=2, batch_size=5, epochs=20), lora(2, dropout=0.3))
    as_if_alone(three, two, alone, losses)
    assert max(combined) > 2, "more parts than trials"


def as_if_alone(assignments: Sequence[Assignment], two: Worker, alone: Worker, losses: dict[int, list[float]]) -> None:
    wanted = trained(alone, *assignments)
    expected = {trial: seen.copy() for trial, seen in losses.items()}
    losses.clear()
    compare(trained(two, *assignments), wanted)
    assert all(len(seen) > 100 for seen in losses.values())
    for trial, seen in losses.items():
        assert seen == pytest.approx(expected[trial], abs=1e-5)


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_llama])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_of_other_ranks_and_targets_are_each_as_if_alone(
    save: Any, checkpointing: bool, texts: Path, tmp_path: Path
) -> None:
    other = lora(
        1, lora_rank=2, lora_alpha=4.0, lora_targets="attention", lora_dropout=0.1, learning_rate=3e-3, optimizer="sgd"
    )
    pair = (lora(0, lora_rank=4, dropout=0.4), other)
    model = save(tmp_path / "model")
    compute = {"gradient_checkpointing": checkpointing}
    two, alone = (opened(model, texts, slots, **compute) for slots in (2, 1))
    compare(trained(two, *pair), trained(alone, *pair))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trials_with_unlike_numbers_of_frozen_layers_are_each_as_if_alone(
    checkpointing: bool, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to adapt all layers diverges; two more take the places of trials that have ended."""
    passes: set[tuple[int, ...]] = set()
    original = Slots.logits

    def noted(slots: Slots, parts: Sequence[tuple[TrialModel, Batch]]) -> tuple[torch.Tensor, ...]:
        passes.add(tuple(sorted(model.frozen.depth if model.frozen else 0 for model, _ in parts)))
        return original(slots, parts)

    monkeypatch.setattr(Slots, "logits", noted)
    upper, middle = {"lora_targets": "3.attention.self.query,3.output.dense"}, {"lora_targets": "1.output.dense"}
    diverging = {"learning_rate": 1e30, "optimizer": "sgd", "max_grad_norm": None, "warmup_ratio": 0.0}
    trials = (
        lora(0, dropout=0.3, **upper), lora(1, epochs=4, **middle), lora(2, **diverging), lora(3, epochs=6),
        lora(4, lora_rank=2, batch_size=5, max_length=8, **upper),
    )  # fmt: skip
    model, compute = save_tiny_bert(tmp_path / "bert", layers=4), {"gradient_checkpointing": checkpointing}
    wanted = trained(opened(model, texts, 1, **compute), *trials)
    assert wanted[2][1].ending is Ending.DIVERGED
    passes.clear()
    compare(trained(opened(model, texts, 3, **compute), *trials), wanted)
    assert {(0, 1, 3), (0, 3, 3), (3, 3)} <= passes


def test_a_free_slot_is_filled_while_the_other_trains(two: Worker, alone: Worker) -> None:
    three = (head(0, epochs=2), SECOND, head(2, epochs=4, dropout=0.2))
    compare(trained(two, *three), trained(alone, *three))


def test_a_worker_may_be_left_after_each_step_to_fill_a_slot(two: Worker, alone: Worker) -> None:
    pair, steps = (lora(0), lora(1)), itertools.count()
    two.admit(pair[0])
    two.advance()
    assert two.advance(lambda: next(steps) == 2) == []
    assert next(steps) == 3
    two.drop(pair[0].trial)
    compare(trained(two, *pair, should_return=lambda: True), trained(alone, *pair))


@pytest.mark.parametrize(("make", "other"), [(head, SECOND), (lora, lora(1))], ids=["head", "lora"])
def test_a_trial_that_diverges_does_not_change_the_other(
    make: Callable[..., Assignment], other: Assignment, two: Worker, alone: Worker
) -> None:
    found = trained(two, make(0, learning_rate=1e30, optimizer="sgd", max_grad_norm=None, warmup_ratio=0.0), other)
    assert found[0][1].ending is Ending.DIVERGED
    compare({1: found[1]}, trained(alone, other))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), ValueError()])
def test_a_joint_step_that_fails_is_repeated_trial_by_trial(
    error: Exception, two: Worker, alone: Worker, monkeypatch: pytest.MonkeyPatch, losses: dict[int, list[float]]
) -> None:
    """The error is raised after dropout masks are drawn, so the random state must be restored."""
    wanted = trained(alone, FIRST, SECOND)
    expected = {trial: seen.copy() for trial, seen in losses.items()}
    losses.clear()
    backward = torch.autograd.backward

    def fail(of_parts: list[torch.Tensor]) -> None:
        if len(of_parts) > 1:
            raise error
        backward(of_parts)

    monkeypatch.setattr(torch.autograd, "backward", fail)
    compare(trained(two, FIRST, SECOND), wanted)
    assert losses == expected, "trial by trial, losses are equal to the last bit"


def test_joint_steps_that_always_fail_are_reported_once_and_not_tried_again(
    two: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0
    backward = torch.autograd.backward

    def fail(of_parts: list[torch.Tensor]) -> None:
        nonlocal tries
        tries += len(of_parts) > 1
        if len(of_parts) > 1:
            raise ValueError("No two of them.")
        backward(of_parts)

    monkeypatch.setattr(torch.autograd, "backward", fail)
    found = trained(two, *(head(trial, epochs=2) for trial in range(4)))
    assert {outcome.ending for _, outcome in found.values()} == {Ending.COMPLETED}
    assert tries == 1
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == [
        "Trials go through this model one after the other, not side by side: ValueError: No two of them."
    ]


def test_an_error_of_one_trial_does_not_end_the_joint_steps_of_others(
    two: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = 0
    original = Slots.logits

    def logits(slots: Slots, parts: Sequence[tuple[TrialModel, Batch]]) -> tuple[torch.Tensor, ...]:
        nonlocal together
        if any(model.hyperparameters.dropout == 0.3 for model, _ in parts):
            raise ValueError("It is this one.")
        together += len(parts) > 1
        return original(slots, parts)

    monkeypatch.setattr(Slots, "logits", logits)
    found = trained(two, head(0, epochs=2), *(head(trial, epochs=2, dropout=0.1) for trial in (1, 2)))
    assert {trial: outcome.ending for trial, (_, outcome) in found.items()} == {
        0: Ending.FAILED, 1: Ending.COMPLETED, 2: Ending.COMPLETED,
    }  # fmt: skip
    assert together > 0


def test_a_trial_without_enough_memory_does_not_change_the_other(
    two: Worker, alone: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = trained(alone, SECOND)
    original = Backbone.logits

    def logits(self: Backbone, batch: Batch, precision):
        if torch.is_grad_enabled() and batch.width > 6:
            raise MemoryError
        return original(self, batch, precision)

    monkeypatch.setattr(Backbone, "logits", logits)
    short = replace(SECOND, hyperparameters=SECOND.hyperparameters.model_copy(update={"max_length": 6}))
    expected = trained(alone, short)
    found = trained(two, FIRST, short)
    assert found[0][1].ending is Ending.INFEASIBLE
    assert found[0][1].micro_batch_size is None
    compare({1: found[1]}, expected)
    monkeypatch.undo()
    compare(trained(two, SECOND), wanted)


def test_a_paused_trial_resumes_beside_another(two: Worker, alone: Worker) -> None:
    wanted = trained(alone, FIRST, SECOND)
    two.admit(FIRST)
    two.admit(SECOND)
    reports: list[Report] = []
    paused: Outcome | None = None
    others: list[Report] = []
    while paused is None:
        for said in two.advance():
            if isinstance(said, Report) and said.trial == 0:
                reports.append(said)
                two.apply(Decision(trial=0, attempt=1, action=Action.PAUSE))
            elif isinstance(said, Report):
                others.append(said)
            elif isinstance(said, Outcome):
                paused = said
    assert (paused.trial, paused.ending) == (0, Ending.PAUSED)
    two.admit(replace(FIRST, attempt=2))
    ended: dict[int, Outcome] = {}
    while not two.idle:
        for said in two.advance():
            if isinstance(said, Report):
                (reports if said.trial == 0 else others).append(said)
            if isinstance(said, Outcome):
                ended[said.trial] = said
    assert ended[0].resumed_examples > 0
    compare({0: (reports, ended[0]), 1: (others, ended[1])}, wanted)


def test_two_trials_killed_in_mid_step_resume_in_another_process_with_equal_results(
    two: Worker, alone: Worker, tiny_bert: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed after the gradients of a step, before its update."""
    pair = (lora(0, epochs=4), lora(1, epochs=3, lora_rank=2, learning_rate=3e-3))
    wanted = trained(alone, *pair)
    monkeypatch.setattr(checkpoints.Checkpoints, "is_due", lambda *_: True)
    steps, take = 0, OptimizerStep.take

    def die(training: OptimizerStep, loss: torch.Tensor) -> None:
        nonlocal steps
        steps += 1
        if steps == 31:
            raise KeyboardInterrupt
        take(training, loss)

    with monkeypatch.context() as doomed:
        doomed.setattr(OptimizerStep, "take", die)
        with pytest.raises(KeyboardInterrupt):
            trained(two, *pair)
    again = opened(tiny_bert, texts, 2, tmp_path / "two")
    found = trained(again, *(replace(one, attempt=2) for one in pair))
    assert all(outcome.resumed_examples > 0 for _, outcome in found.values())
    for trial, (reports, _) in found.items():
        assert reports, "reports before the checkpoint are not repeated"
        wanted[trial] = (wanted[trial][0][-len(reports) :], wanted[trial][1])
    compare(found, wanted)


def test_memory_does_not_grow_with_the_number_of_trials_of_a_worker(tiny_bert: Path, texts: Path) -> None:
    def held() -> int:
        gc.collect()
        tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
        return sum(storages.values())

    worker, trials = opened(tiny_bert, texts, 2), [lora(trial, epochs=1, lora_rank=8) for trial in range(20)]
    trained(worker, *trials[:3])
    after_three = held()
    trained(worker, *trials[3:])
    assert held() <= 1.1 * after_three


def test_the_weights_of_one_trial_are_stored_without_the_other(two: Worker) -> None:
    _, outcome = trained(two, FIRST, SECOND)[0]
    assert outcome.best is not None
    assert two.has_weights(outcome.best)


def test_a_trial_that_would_change_the_backbone_is_refused(two: Worker) -> None:
    [(_, outcome)] = trained(two, tiny_assignment(tiny_hyperparameters())).values()
    assert outcome.ending is Ending.FAILED
    assert outcome.reason == (
        "Trials of method full cannot share BertForSequenceClassification; set compute.slots to 1."
    )


def test_measuring_rates_of_slots_does_not_change_later_trials(
    two: Worker, alone: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = lora(0).hyperparameters
    rates = two.slot_rates(values).rates
    assert list(rates) == [2**power for power in range(len(rates))]
    assert len(rates) > 1
    assert all(rate > 0 for rate in rates.values())
    steps, of_slots = [], two._context.gradients.of_slots
    monkeypatch.setattr(two._context.gradients, "of_slots", lambda waiting: steps.append(waiting) or of_slots(waiting))
    assert list(two.slot_rates(values, 0.0).rates) == [1], "without time for more"
    assert len(steps) == 1
    compare(trained(two, FIRST, SECOND), trained(alone, FIRST, SECOND))


@pytest.mark.parametrize(("room", "measured"), [(0, []), (3, [1, 2]), (4, [1, 2, 4])])
def test_the_measurement_of_slots_ends_where_memory_does(
    room: int, measured: list[int], two: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, begun = TrainingContext.begin, []

    def begin_with_room(context: TrainingContext, *arguments: Any) -> OptimizerStep:
        begun.append(arguments)
        if len(begun) > room:
            raise MemoryError
        return begin(context, *arguments)

    monkeypatch.setattr(TrainingContext, "begin", begin_with_room)
    monkeypatch.setattr("hpo.training.probe.WORTH_DOUBLING", 0.0)
    assert list(two.slot_rates(lora(0).hyperparameters).rates) == measured


def test_what_several_lack_memory_for_is_not_measured_and_is_no_limit_for_one(
    two: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients, values = two._context.gradients, lora(0).hyperparameters
    of_slots = gradients.of_slots

    def of_two(waiting: Sequence[SlotBatch]) -> Sequence[torch.Tensor | Exception]:
        if len(waiting) <= 2:
            return of_slots(waiting)
        gradients.micro_batch(values).shrink(values.batch_size, may_checkpoint=False)
        return [MemoryError()] * len(waiting)

    monkeypatch.setattr(gradients, "of_slots", of_two)
    monkeypatch.setattr("hpo.training.probe.WORTH_DOUBLING", 0.0)
    assert list(two.slot_rates(values).rates) == [1, 2]
    assert gradients.micro_batch(values).at_once(values.batch_size) == values.batch_size


def test_no_step_of_a_measurement_is_beyond_the_end_of_the_schedule(
    two: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, a falling rate would be negative, or under `polynomial` a complex number."""
    beyond, take = [], OptimizerStep.take

    def noted(training: OptimizerStep, loss: torch.Tensor) -> None:
        beyond.append(training.taken >= training.total_steps)
        take(training, loss)

    monkeypatch.setattr(OptimizerStep, "take", noted)
    monkeypatch.setattr("hpo.training.probe.WORTH_DOUBLING", 0.0)
    values = lora(0, schedule="polynomial", power=1.5).hyperparameters
    assert list(two.slot_rates(values).rates) == [1, 2, 4, 8, 16]
    assert not any(beyond)


@pytest.mark.parametrize(
    ("seconds", "shared"),
    [
        ([1.0, 1.2, 1.6, 3.1], 4),
        ([1.0, 1.99], 1),
        ([1.0, 1.0, 1.0, 1.0, 1.0], None),
    ],
    ids=["up to four pay", "none pays", "all pay"],
)
def test_shared_passes_are_as_large_as_was_measured_to_pay(
    seconds: list[float], shared: int | None, two: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their largest number of tokens is then the usual one or more, if all that was measured pays."""
    sizes, of_slots, taken = [], two._context.gradients.of_slots, iter(seconds)
    monkeypatch.setattr(two._context.gradients, "of_slots", lambda waiting: sizes.append(waiting) or of_slots(waiting))
    monkeypatch.setattr("hpo.training.probe._fastest", lambda step, _until: step() and next(taken))
    found = two.slot_rates(lora(0).hyperparameters)
    assert found.rates == pytest.approx({2**power: 2**power / one for power, one in enumerate(seconds)})
    of_one = max(slot.batch.rows * slot.batch.width for waiting in sizes for slot in waiting)
    assert found.shared_tokens == (max(MOST_SHARED_TOKENS["cpu"], 16 * of_one) if shared is None else shared * of_one)
    assert two._context.gradients.shared_tokens is None
    two.use(WorkerSettings(precision="fp32", shared_tokens=found.shared_tokens))
    assert two._context.gradients.shared_tokens == found.shared_tokens
