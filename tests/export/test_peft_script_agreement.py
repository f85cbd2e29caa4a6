"""The script for PEFT and Trainer computes as hpo does: same trained weights, dropout, scores, metrics and loss."""

import json
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, EvalPrediction

from hpo.config.study_file import ConfirmationConfig
from hpo.config.tasks import TaskConfig
from hpo.data.sources import Examples
from hpo.export.exported_file import Exported
from hpo.export.retraining import compute_of, open_trainer, study_and_splits
from hpo.metrics.registry import METRICS as OURS
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.tasks.registry import task_of
from hpo.training.run_state import fold_runs
from tests.export.lora_cases import MODELS
from tests.export.peft_scripts import PROMPTED, splits_of, with_values, with_words, written
from tests.models import write_texts
from tests.scripts import of_texts, with_label_sets

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),
    pytest.mark.filterwarnings("ignore:.pin_memory. argument is set as true"),
]


def trained_by(model: Any) -> dict[str, Any]:
    """Return the shapes of the weights that PEFT trains, under hpo's names."""
    return {
        name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", ""): weight.shape
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        *((kind, wanted) for kind in MODELS for wanted in ("all-linear", "attention", "mlp")),
        ("bert", "query,output.dense"),
    ],
)
def test_it_trains_the_weights_that_hpo_trains(exported: Exported, tmp_path: Path, kind: str, targets: str) -> None:
    chosen = with_values(exported, kind, tmp_path, lora_targets=targets)
    task = task_of(chosen.task, splits_of(chosen))
    backbone = load_model(chosen.model, task, torch.device("cpu"))
    ours = TrialModel(backbone, task, chosen.hyperparameters, seed=0)
    model = written(chosen, tmp_path).adapted(AutoModelForSequenceClassification.from_pretrained(chosen.model.name))
    assert trained_by(model) == {name: weight.shape for name, weight in ours.parameters.items()}
    assert {
        layer.scaling["default"] for layer in model.modules() if hasattr(layer, "scaling") and hasattr(layer, "lora_A")
    } == {8.0}


@pytest.mark.parametrize("kind", ["decoder", "masked model"])
@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp"])
def test_for_label_words_it_trains_the_weights_that_hpo_trains(
    exported: Exported, tmp_path: Path, kind: str, targets: str
) -> None:
    chosen = with_words(exported, kind, tmp_path, lora_targets=targets)
    task = task_of(chosen.task, splits_of(chosen))
    ours = TrialModel(load_model(chosen.model, task, torch.device("cpu")), task, chosen.hyperparameters, seed=0)
    module = written(chosen, tmp_path)
    assert trained_by(module.adapted(module.pretrained(chosen.model.name)[1])) == {
        name: weight.shape for name, weight in ours.parameters.items()
    }


WORDS = {
    "of one token": {"sport": "sport", "money": "money"},
    "of several": {"sport": "goal team news", "money": "goal bank"},
    "one holds the other": {"sport": "news", "money": "news money"},
}


@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        *product(["decoder", "decoder gpt2"], WORDS),
        *product(["decoder bloom", "masked model"], ["of one token"]),
    ],
)
def test_its_scores_of_label_words_are_those_of_hpo(
    exported: Exported, tmp_path: Path, kind: str, words: str, is_pair: bool
) -> None:
    """Row by row, before any training, also of texts that are cut."""
    task = {"prompt": "Pair : {pair} Text : {text} Label :" if is_pair else PROMPTED["prompt"]}
    data = exported.data
    if is_pair:
        lines = Path(data.train).read_text().splitlines()[1:]
        pairs = (f"{one.rpartition(',')[0]},{two}" for one, two in zip(lines, [*lines[2:], *lines[:2]], strict=True))
        (tmp_path / "pairs.csv").write_text("\n".join(["text,pair,label", *pairs]))
        data = data.model_copy(update={"train": str(tmp_path / "pairs.csv"), "text_pair_column": "pair"})
    chosen = with_words(exported, kind, tmp_path, {**task, "label_words": WORDS[words]}, max_length=20)
    chosen = of_texts(chosen, data=data)
    begun = open_trainer(chosen, *study_and_splits(chosen, compute_of(chosen)))._context
    expected = begun.predict(begun.tokenized(20)["validation"]).probabilities
    module = written(chosen, tmp_path)
    tokenizer, network = module.pretrained(chosen.model.name)
    collated = DataCollatorWithPadding(tokenizer) if kind == "masked model" else module.collated
    batch = collated(module.rows_of("validation", tokenizer))
    trainer = SimpleNamespace(args=SimpleNamespace(label_smoothing_factor=0.0))
    with torch.no_grad():
        _, found = module.WordTrainer.compute_loss(trainer, network, dict(batch), return_outputs=True)
    np.testing.assert_allclose(found["logits"].double().softmax(dim=1), expected, atol=1e-5)


def test_only_the_head_and_the_adapters_have_dropout(exported: Exported, tmp_path: Path) -> None:
    chosen = with_values(exported, "bert", tmp_path, lora_dropout=0.25)
    network = AutoModelForSequenceClassification.from_pretrained(chosen.model.name)
    model = written(chosen, tmp_path).adapted(network)
    dropped = {name: one.p for name, one in model.named_modules() if isinstance(one, nn.Dropout) and one.p}
    of_adapters = {name for name in dropped if ".lora_dropout." in name}
    assert dropped.keys() - of_adapters == {"base_model.model.dropout"}
    assert {dropped[name] for name in of_adapters} == {0.25}


def random_scores(exported: Exported, module: ModuleType, outputs: Any) -> tuple[float, float]:
    """Return what the script and hpo say of such outputs for validation."""
    splits = splits_of(exported)
    task = task_of(exported.task, splits)
    rows = json.loads(Path(str(module.__file__)).with_suffix(".json").read_text())["validation"]
    found = module.scores(EvalPrediction(outputs, np.array([row["label"] for row in rows])))
    targets = task.targets(splits.validation.labels)
    expected = task.score(task.with_targets(targets, task.predictions(torch.from_numpy(outputs))))
    return found[exported.metric], expected


@pytest.mark.parametrize("labels", [2, 3])
def test_every_metric_of_labels_is_ours(exported: Exported, tmp_path: Path, labels: int) -> None:
    texts = write_texts(tmp_path / "texts.csv", rows=150).read_text().splitlines()
    if labels == 3:
        texts = [line if row % 3 else f"{line.rpartition(',')[0]},news" for row, line in enumerate(texts, -1)]
        texts[0] = "text,label"
    (tmp_path / "texts.csv").write_text("\n".join(texts))
    data = exported.data.model_copy(update={"train": str(tmp_path / "texts.csv")})
    outputs = np.random.default_rng(0).normal(size=(30, labels)).astype(np.float32)
    for name, metric in OURS["classification"].items():
        if name == "neg_calibration_error" or (labels == 3 and metric.of_positive_class):
            continue
        chosen = with_values(exported, "bert", tmp_path)
        chosen = of_texts(chosen, data=data, metric=name, task=TaskConfig(metric=name))
        found, expected = random_scores(chosen, written(chosen, tmp_path), outputs)
        assert found == pytest.approx(expected, abs=1e-6), name


def test_every_metric_of_numbers_is_ours(exported: Exported, tmp_path: Path) -> None:
    lines = write_texts(tmp_path / "texts.csv", rows=150).read_text().splitlines()
    numbers = [f"{line.rpartition(',')[0]},{row * 1.7 % 11}" for row, line in enumerate(lines[1:])]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *numbers]))
    data = exported.data.model_copy(update={"train": str(tmp_path / "texts.csv")})
    outputs = np.random.default_rng(0).normal(size=(30, 1)).astype(np.float32)
    for name in OURS["regression"]:
        chosen = with_values(exported, "bert", tmp_path)
        chosen = of_texts(chosen, data=data, metric=name, task=TaskConfig(name="regression", metric=name))
        found, expected = random_scores(chosen, written(chosen, tmp_path), outputs)
        assert found == pytest.approx(expected, abs=1e-5), name


@pytest.mark.parametrize("thresholds", ["one", "per_label"])
@pytest.mark.parametrize("is_kept", [False, True])
def test_every_metric_of_label_sets_is_ours(exported: Exported, tmp_path: Path, thresholds: str, is_kept: bool) -> None:
    """With thresholds fitted to the training rows of hpo, or to validation where other rows are kept to judge."""
    chosen = with_values(exported, "bert", tmp_path)
    if is_kept:
        chosen = chosen.model_copy(update={"confirmation": ConfirmationConfig(validation_share=0.5)})
    data = {"validation_fraction": 0.4} if is_kept else {}
    chosen = with_label_sets(chosen, tmp_path, rows=1500 if is_kept else 160, data=data, thresholds=thresholds)
    splits = splits_of(chosen)
    assert (splits.confirmation is not None) is is_kept
    begun = open_trainer(chosen, *study_and_splits(chosen, compute_of(chosen)))._context
    [training] = fold_runs(chosen.assignment(), begun)
    task, rows = begun.task, splits.validation.rows
    outputs = np.random.default_rng(0).normal(size=(2 * rows, 3)).astype(np.float32)

    def answers(examples: Examples, first: int) -> Any:
        some = torch.from_numpy(outputs[first : first + examples.rows])
        return task.with_targets(task.targets(examples.labels), task.predictions(some))

    of_validation = answers(splits.validation, 0)
    fitted = begun.fit(of_validation, lambda: answers(splits.train.take(training.train_sample.tolist()), rows))
    for name in OURS["multi_label"]:
        named = chosen.task.model_copy(update={"metric": name})
        module = written(chosen.model_copy(update={"task": named, "metric": name}), tmp_path)
        parts = json.loads((tmp_path / "train.json").read_text())
        true = [row["label"] for part in ("validation", "thresholds") for row in parts.get(part, ())]
        found = module.scores(rows, EvalPrediction(outputs[: len(true)], np.array(true)))
        assert found["thresholds"] == pytest.approx(fitted, abs=1e-12)
        ours = task_of(named, splits).score(begun.decided(of_validation, fitted))
        assert found[name] == pytest.approx(ours, abs=1e-6), name


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_its_loss_of_label_sets_is_ours(exported: Exported, tmp_path: Path, smoothing: float) -> None:
    chosen = with_label_sets(with_values(exported, "bert", tmp_path, label_smoothing=smoothing), tmp_path)
    outputs = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))
    task = task_of(chosen.task, splits_of(chosen))
    labels = torch.from_numpy(task.targets(splits_of(chosen).validation.labels[:8]))
    ours = task.criterion(chosen.hyperparameters, torch.device("cpu"))(outputs, labels).mean()
    found = written(chosen, tmp_path).loss(SimpleNamespace(logits=outputs), labels)
    torch.testing.assert_close(found, ours)
