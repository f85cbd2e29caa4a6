"""What a few steps say of the cost of a trial, and that they leave no trace."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._C._autograd import DeviceType

from hpo.data.batching import Batch
from hpo.data.splits import load_splits
from hpo.errors import ConfigurationError
from hpo.files.weights import load_weights
from hpo.model.backbone import Backbone
from hpo.model.trial_model import TrialModel
from hpo.training.gradients import PASS_TOKENS, Gradients
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.probe import INFEASIBLE
from hpo.training.worker import Worker, open_worker
from tests.models import tiny_assignment, tiny_hyperparameters, tiny_study, trained

STEPS = 3


@pytest.fixture
def worker(tiny_bert: Path, texts: Path, tmp_path: Path) -> Worker:
    config = tiny_study(tiny_bert, texts)
    return open_worker(config, load_splits(config.data, config.seed), tmp_path)


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches of all steps from now on."""
    batches: list[Batch] = []
    original = Gradients.of

    def noted(gradients: Gradients, model: TrialModel, batch: Batch) -> Tensor:
        batches.append(batch)
        return original(gradients, model, batch)

    monkeypatch.setattr(Gradients, "of", noted)
    return batches


def test_what_a_trial_will_cost(worker: Worker, tmp_path: Path) -> None:
    found = worker.probe(tiny_hyperparameters(), STEPS)
    assert (found.feasible, found.micro_batch_size) == (True, None)
    assert found.seconds_per_step > 0
    assert found.seconds_per_scored_row > 0
    opening, scored, longest, typical = found.timed
    assert (opening.openings, longest.updates, typical.updates) == (1, 1, 1)
    assert all(timed.seconds > 0 for timed in found.timed)
    validation = worker._context.tokenized(16)["validation"].tokens.lengths
    assert scored.scored_tokens == validation.sum() + PASS_TOKENS["cpu"]
    lengths = np.sort(worker._context.tokenized(16)["train"].tokens.lengths)[::-1]
    # Padded to the longest: one pass, whose cost counts as tokens.
    assert longest.trained_tokens == 8 * lengths[0] + PASS_TOKENS["cpu"]
    assert typical.seconds == found.seconds_per_step
    assert found.peak_memory_bytes > found.checkpoint_bytes
    assert found.first_loss == pytest.approx(math.log(2), abs=0.3)
    trained(worker, tiny_assignment())
    assert found.weights_bytes == sum(tensor.nbytes for tensor in load_weights(tmp_path, 0).values())
    assert found.checkpoint_bytes >= found.weights_bytes


def test_in_too_little_time_one_step_tells_all(worker: Worker, trained_on: list[Batch]) -> None:
    found = worker.probe(tiny_hyperparameters(), STEPS, 1e-9)
    assert len(trained_on) == 1
    # The forward pass is taken for a third of a step.
    assert found.seconds_per_scored_row == pytest.approx(found.seconds_per_step / 8 / 3)


def test_memory_is_tried_on_the_longest_texts_and_time_on_typical_ones(worker: Worker, trained_on: list[Batch]) -> None:
    worker.probe(tiny_hyperparameters(), STEPS)
    lengths = np.sort(worker._context.tokenized(16)["train"].tokens.lengths)[::-1]
    # Twice, since the first step is without what the optimizer keeps.
    assert [batch.lengths.sum() for batch in trained_on[:2]] == [lengths[:8].sum()] * 2
    typical = [batch.lengths.sum() for batch in trained_on[2:]]
    assert len(typical) == STEPS
    assert lengths[-8:].sum() < typical[0] < lengths[:8].sum()
    assert set(typical) == {typical[0]}
    assert trained_on[-1].targets.bincount().tolist() == [4, 4]


def test_it_leaves_no_trace(worker: Worker, tiny_bert: Path, texts: Path) -> None:
    config = tiny_study(tiny_bert, texts)
    untouched = open_worker(config, load_splits(config.data, config.seed))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    worker.probe(tiny_hyperparameters(dropout=0.3, kept_layers=1, optimizer="sgd"), STEPS)
    assert torch.equal(torch.rand(1), expected)
    untouched._context.model.reset(0)
    left, reset = (one._context.model.network.state_dict() for one in (worker, untouched))
    assert left.keys() == reset.keys()
    assert all(torch.equal(left[name], reset[name]) for name in reset)
    assert all(parameter.grad is None for parameter in worker._context.model.network.parameters())
    reports, _ = trained(worker, tiny_assignment())
    alone, _ = trained(untouched, tiny_assignment())
    assert [report.validation for report in reports] == [report.validation for report in alone]
    assert worker._context.gradients.micro_batch(tiny_hyperparameters()).rows is None


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch):
    """Let memory run out, in the CPU allocator's words, where more tokens than these are trained on at once."""

    def limit(tokens: int) -> None:
        original = Backbone.logits

        def logits(self: Backbone, batch: Batch, precision):
            if torch.is_grad_enabled() and batch.inputs["attention_mask"].numel() > tokens:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
            return original(self, batch, precision)

        monkeypatch.setattr(Backbone, "logits", logits)

    return limit


def test_the_next_trial_of_that_size_begins_with_the_rows_that_fit(worker: Worker, room_for, monkeypatch) -> None:
    longest = int(worker._context.tokenized(16)["train"].tokens.lengths.max())
    room_for(3 * longest)
    found = worker.probe(tiny_hyperparameters(), STEPS)
    assert (found.feasible, found.micro_batch_size) == (True, 2)
    monkeypatch.setattr("hpo.memory.MicroBatch.shrink", None)
    _, outcome = trained(worker, tiny_assignment())
    assert outcome.micro_batch_size == 2
    # Of a smaller batch those are all.
    assert worker.probe(tiny_hyperparameters(batch_size=2), STEPS).micro_batch_size is None


def test_where_one_row_is_too_much_no_trial_of_it_is_feasible(worker: Worker, room_for) -> None:
    longest = int(worker._context.tokenized(16)["train"].tokens.lengths.max())
    room_for(longest - 1)
    assert worker.probe(tiny_hyperparameters(), STEPS) == INFEASIBLE
    assert not worker._context.gradients.micro_batch(tiny_hyperparameters()).is_checkpointed, "later ones may fit"
    assert all(parameter.grad is None for parameter in worker._context.model.network.parameters())
    assert worker.probe(tiny_hyperparameters(max_length=longest - 1), STEPS).feasible


def test_what_diverges_has_a_cost_all_the_same(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    blown = tiny_hyperparameters(learning_rate=1e25, warmup_ratio=0.0, max_grad_norm=None, optimizer="sgd")
    found = worker.probe(blown, 12)
    assert found.feasible
    assert found.first_loss == pytest.approx(math.log(2), abs=0.3)
    monkeypatch.setattr(Backbone, "logits", lambda self, batch, _: _no_numbers(self, batch))
    found = worker.probe(tiny_hyperparameters(), 1)
    assert found.feasible
    assert math.isnan(found.first_loss)


def _no_numbers(model: Backbone, batch: Batch) -> torch.Tensor:
    return torch.full((batch.rows, 2), float("nan")) * next(model.network.parameters()).sum()


@pytest.mark.parametrize(
    "values",
    [
        {"token_masking": 0.3, "word_swap": 0.2},
        {"method": "top_layers", "trained_layers": 1, "kept_layers": 1},
        {"batch_size": 1024},
        *({"optimizer": optimizer} for optimizer in OPTIMIZERS),
    ],
    ids=lambda values: "-".join(map(str, values.items())),
)
def test_whatever_a_trial_trains_under(values, worker: Worker) -> None:
    found = worker.probe(tiny_hyperparameters(**values), 1)
    assert found.feasible
    assert {timed.updates for timed in found.timed} == {0, 1}


def test_what_a_metric_of_ones_own_dies_of_is_told(
    tiny_bert: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "own_of_few.py").write_text("def score(true, predicted):\n    return 1 / (len(true) <= 8)\n")
    config = tiny_study(tiny_bert, texts, task={"metric": "own_of_few:score"})
    found = open_worker(config, load_splits(config.data, config.seed)).probe(tiny_hyperparameters(), 1)
    assert found.feasible
    assert found.metric_error == "task.metric 'own_of_few:score' raised ZeroDivisionError on 16 rows: division by zero."


def test_the_busy_share_is_measured_within_the_schedule(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its end, the rate under `polynomial` would be a complex number."""
    kernels = SimpleNamespace(device_type=DeviceType.CUDA, self_device_time_total=1.0)
    of_cpu = SimpleNamespace(device_type=DeviceType.CPU, self_device_time_total=1e9)
    profile = MagicMock()
    profile.return_value.__enter__.return_value.key_averages.return_value = [kernels, of_cpu]
    monkeypatch.setattr("hpo.training.probe.profile", profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    worker._context.device = torch.device("cuda:0")
    assert 0 < worker.busy_share(tiny_hyperparameters(schedule="polynomial", power=1.5)) < 1


def test_in_folds(tiny_bert: Path, texts: Path) -> None:
    config = tiny_study(tiny_bert, texts, evaluation={"folds": 4})
    worker = open_worker(config, load_splits(config.data, config.seed, folds=4))
    assert worker.probe(tiny_hyperparameters(), 1).feasible


def test_what_the_model_does_not_have_is_said(worker: Worker) -> None:
    with pytest.raises(ConfigurationError, match="kept_layers is 3"):
        worker.probe(tiny_hyperparameters(kept_layers=3), 1)
    assert worker.probe(tiny_hyperparameters(), 1).feasible
