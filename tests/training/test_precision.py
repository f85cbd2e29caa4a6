import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from hpo.config.study_file import StudyConfig
from hpo.data.batching import Batch
from hpo.data.splits import load_splits
from hpo.errors import ModelError
from hpo.messages import Ending, Precision, WorkerSettings
from hpo.model.backbone import autocast, fastest_kernels
from hpo.training.device import choose, measure, rows_within
from hpo.training.worker import Worker, open_worker
from tests.model.architectures import tiny_network
from tests.models import LONGEST, tiny_assignment, tiny_hyperparameters, tiny_study, trained

CPU = torch.device("cpu")


def test_bf16_must_pay_and_agree():
    assert choose(1.1, 1.0, 0.01) == "bf16"
    assert choose(1.09, 1.0, 0.01) == "fp32"
    assert choose(3.0, 1.0, 0.06) == "fp32"
    assert choose(3.0, 1.0, float("nan")) == "fp32"


def test_autocast_computes_in_the_precision_asked_for():
    layer, values = torch.nn.Linear(4, 4), torch.ones(1, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(CPU, precision):
            assert layer(values).dtype is dtype


def test_short_rows_are_not_trained_in_bf16_by_the_flash_kernel_of_cpus():
    def is_fused(device: torch.device, precision: Precision, tokens: int) -> bool:
        with fastest_kernels(device, precision, tokens):
            return torch.backends.cuda.flash_sdp_enabled()

    assert not is_fused(CPU, "bf16", 128)
    assert is_fused(CPU, "bf16", 129)
    assert is_fused(CPU, "fp32", 16)
    assert is_fused(torch.device("cuda"), "bf16", 16)
    with torch.no_grad():
        assert is_fused(CPU, "bf16", 16)
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_difference_is_relative_to_the_logits():
    logits = {"fp32": torch.tensor([[3.0, 4.0]]), "bf16": torch.tensor([[3.0, 4.5]])}
    assert measure(lambda precision: logits[precision], 1, CPU).difference == pytest.approx(0.1)


@pytest.fixture(scope="module")
def worker(study: StudyConfig) -> Worker:
    config = tiny_study(
        study.model.name, study.data.train, compute={"device": "cpu", "threads": 1}, evaluation={"rung_rows": 100}
    )
    return open_worker(config, load_splits(config.data, config.seed))


def test_measuring_leaves_weights_and_gradients_as_they_were(worker: Worker):
    network = worker._context.model.network
    worker._context.model.reset(0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measurement = worker.measure(tiny_hyperparameters(max_length=16))
    assert measurement.fp32_seconds > 0
    assert measurement.bf16_seconds > 0
    assert 0 < measurement.difference < 0.05
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_measuring_reads_the_texts_as_trials_will(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    context = worker._context
    context._longest = 0
    shapes: set[tuple[int, ...]] = set()
    logits = context.model.logits

    def seen(batch: Batch, precision: Precision) -> torch.Tensor:
        shapes.add(tuple(batch.inputs["input_ids"].shape))
        return logits(batch, precision)

    monkeypatch.setattr(context.model, "logits", seen)
    worker.measure(tiny_hyperparameters(max_length=8))
    assert context._cut.keys() == {8}
    assert shapes == {(16, 8)}
    with pytest.raises(ModelError, match="max_length is 33, but the model reads at most 32 tokens"):
        worker.measure(tiny_hyperparameters(max_length=LONGEST + 1))


def test_in_too_little_time_fp32_is_chosen(worker: Worker):
    measurement = worker.measure(tiny_hyperparameters(max_length=16), 1e-9)
    assert (measurement.precision, measurement.unmeasured) == ("fp32", "there is too little time")
    assert worker.measure(tiny_hyperparameters(max_length=16), 1e9).bf16_seconds > 0


def test_where_there_is_no_bf16_nothing_is_measured(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.training.device.has_bf16", lambda _: False)
    found = worker.measure(tiny_hyperparameters())
    assert (found.precision, found.fp32_seconds, found.unmeasured) == ("fp32", 0.0, "the device has no bf16")


def test_a_network_without_bf16_is_trained_in_fp32(tiny_bert: Path, texts: Path, tmp_path: Path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    network = tiny_network("deberta")
    network.resize_token_embeddings(len(AutoTokenizer.from_pretrained(tmp_path)))
    network.base_model.save_pretrained(tmp_path)
    config = tiny_study(tmp_path, texts, compute={"device": "cpu", "precision": "auto"})
    worker = open_worker(config, load_splits(config.data, config.seed))
    for seconds in (math.inf, 60.0):
        measured = worker.measure(tiny_hyperparameters(max_length=16), seconds)
        assert (measured.precision, measured.bf16_seconds) == ("fp32", 0.0)
        assert measured.unmeasured.startswith(
            "the model does not compute in bf16 (RuntimeError: value cannot be converted"
        )
    _, outcome = trained(worker, tiny_assignment(tiny_hyperparameters(max_length=16)))
    assert outcome.ending is Ending.COMPLETED


def test_a_study_that_trains_little_of_the_model_is_measured_by_that(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    """Were it measured on all weights, a model that has no room for their gradients would compute in fp32."""
    model, logits = worker._context.model, worker._context.model.logits

    def short(batch: Batch, precision: Precision) -> torch.Tensor:
        if all(parameter.requires_grad for parameter in model.network.parameters()):
            raise MemoryError
        return logits(batch, precision)

    monkeypatch.setattr(model, "logits", short)
    assert worker.measure(tiny_hyperparameters(max_length=16, method="head")).bf16_seconds > 0
    assert worker.measure(tiny_hyperparameters(max_length=16)).unmeasured == "there is too little memory"


def test_where_rounds_do_not_fit_nothing_is_compared():
    rounds = []

    def step(precision: Precision) -> torch.Tensor:
        rounds.append(precision)
        return torch.ones(1, 2)

    assert measure(step, 1, CPU, until=0.0).precision == "fp32"
    assert rounds == ["fp32", "bf16"]


@pytest.mark.parametrize(
    ("seconds", "limit", "taken", "rows"),
    [
        ({"fp32": 0.01, "bf16": 0.01}, 10.0, 4, 124),
        ({"fp32": 1.0, "bf16": 1.0}, 60.0, 4, 4),  # More would take over ten seconds.
        ({"fp32": 1.0, "bf16": 1.0}, 20.0, 4, 2),
        ({"fp32": 1.0, "bf16": 50.0}, 10.0, 2, 0),  # No second step in a bf16 that is emulated.
        ({"fp32": 20.0, "bf16": 20.0}, 10.0, 1, 0),
        ({"fp32": 1.0, "bf16": 1.0}, -1.0, 0, 0),
    ],
)
def test_no_step_is_taken_for_which_there_is_no_time(
    seconds: dict[Precision, float], limit: float, taken: int, rows: int, monkeypatch: pytest.MonkeyPatch
):
    now, steps = 0.0, list[Precision]()

    def step(precision: Precision) -> torch.Tensor:
        nonlocal now
        now += seconds[precision]
        steps.append(precision)
        return torch.ones(1, 2)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert rows_within(step, CPU, until=limit) == rows
    assert len(steps) == taken


def test_a_precision_that_is_asked_for_is_not_measured(study: StudyConfig, monkeypatch: pytest.MonkeyPatch):
    config = study.model_copy(update={"compute": study.compute.model_copy(update={"precision": "bf16"})})
    worker = open_worker(config, load_splits(config.data, config.seed))
    monkeypatch.setattr(worker._context.model, "logits", None)
    found = worker.measure(tiny_hyperparameters(max_length=16))
    assert (found.precision, found.bf16_seconds) == ("bf16", 0.0)


def test_it_is_measured_on_texts_from_all_over_the_file(study: StudyConfig, monkeypatch: pytest.MonkeyPatch):
    splits = load_splits(study.data, study.seed)
    by_label = sorted(range(splits.train.rows), key=lambda row: splits.train.labels[row])
    texts, labels = (tuple(column[row] for row in by_label) for column in (splits.train.texts, splits.train.labels))
    config = study.model_copy(update={"compute": study.compute.model_copy(update={"precision": "auto"})})
    worker = open_worker(config, replace(splits, train=replace(splits.train, texts=texts, labels=labels)))
    model, seen = worker._context.model, []
    logits = model.logits
    monkeypatch.setattr(
        model, "logits", lambda batch, precision: seen.append(batch.targets) or logits(batch, precision)
    )
    worker.measure(tiny_hyperparameters(max_length=8))
    assert {tuple(labels.tolist()) for labels in seen} == {(0,) * 8 + (1,) * 8}


def test_what_is_asked_for_is_used(worker: Worker):
    scores = [trained_in(worker, precision) for precision in ("fp32", "bf16", "fp32")]
    assert scores[0] == scores[2]
    assert scores[0] != scores[1]


def trained_in(worker: Worker, precision: Precision) -> float:
    """Return the training loss of a short trial computed in `precision`."""
    worker.use(WorkerSettings(precision=precision))
    reports, _ = trained(worker, tiny_assignment())
    return reports[-1].train_loss
