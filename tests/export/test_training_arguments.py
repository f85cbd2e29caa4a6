"""What TrainingArguments say of a configuration is what hpo does; what they cannot say is refused by name."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from sklearn.metrics import f1_score, precision_recall_curve
from torch import nn

from hpo.config.hyperparameters import Hyperparameters, OptimizerName, ScheduleName
from hpo.config.study_file import ConfirmationConfig
from hpo.data.batching import training_batches
from hpo.errors import ConfigurationError
from hpo.export.exported_file import Exported
from hpo.export.model_folder import train_into
from hpo.export.retraining import compute_of, open_trainer, study_and_splits
from hpo.export.training_arguments import FIELDS, OPTIMIZERS, SCHEDULES, left_to_do, to_training_arguments
from hpo.model.trial_model import TrialModel
from hpo.training.optimizer_step import is_regularized
from hpo.training.optimizers import OPTIMIZERS as OURS
from hpo.training.schedules import factor
from tests.models import assert_trained_alike, row_of
from tests.scripts import with_label_sets

STEPS = 40


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments that are constructed make their output folder where one stands."""
    monkeypatch.chdir(tmp_path)


def with_values(exported: Exported, **values: Any) -> Exported:
    made = Hyperparameters.model_validate({"epochs": 3, "max_length": 16, **values})
    return exported.model_copy(update={"hyperparameters": made})


def constructed(exported: Exported) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(**to_training_arguments(exported), use_cpu=True)


def test_every_hyperparameter_is_decided_upon() -> None:
    assert FIELDS.keys() == Hyperparameters.model_fields.keys()


def test_the_class_takes_them(exported: Exported) -> None:
    plain = exported.model_copy(
        update={"hyperparameters": exported.hyperparameters.model_copy(update={"dropout": None})}
    )
    made = constructed(plain)
    values = plain.hyperparameters
    assert (made.learning_rate, made.per_device_train_batch_size) == (values.learning_rate, values.batch_size)
    assert (made.seed, made.num_train_epochs, made.weight_decay) == (plain.seed, 3, 0.01)
    assert made.load_best_model_at_end
    assert (made.metric_for_best_model, made.greater_is_better) == ("f1", True)
    assert (made.eval_strategy, made.save_strategy) == ("epoch", "epoch")
    assert made.get_warmup_steps(STEPS) == math.ceil(values.warmup_ratio * STEPS)
    assert made.report_to == []


def test_bf16_is_of_the_device_of_the_search(exported: Exported) -> None:
    halved = with_values(exported).model_copy(update={"measurements": {"precision": "bf16"}})
    made = transformers.TrainingArguments(**to_training_arguments(halved))
    assert (made.bf16, made.use_cpu) == (True, True)
    assert any("so they say use_cpu; leave that out to train on a GPU" in sentence for sentence in left_to_do(halved))
    assert "use_cpu" not in to_training_arguments(with_values(exported))
    assert "use_cpu" not in " ".join(left_to_do(with_values(exported)))


def test_other_evaluations_than_one_an_epoch_are_even_parts(exported: Exported) -> None:
    places = [replace(place, full=place.rung == 1000) for place in exported.milestones]
    once = with_values(exported).model_copy(update={"milestones": tuple(places)})
    made = constructed(once)
    assert made.eval_strategy == "steps"
    assert math.ceil(STEPS * made.eval_steps) == STEPS


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_is_ours(exported: Exported, optimizer: OptimizerName) -> None:
    form = "decoupled" if optimizer in ("adam", "adamw") else "coupled"
    chosen = with_values(exported, optimizer=optimizer, l2_form=form)
    model = nn.Linear(3, 2)
    args = constructed(chosen)
    theirs = transformers.Trainer(model=model, args=args, eval_dataset=[{}]).create_optimizer()
    ours: Any = OURS[optimizer].build(
        [{"params": list(model.parameters()), "rate_factor": 1.0}], chosen.hyperparameters
    )
    same_class = torch.optim.AdamW if form == "decoupled" else type(ours)
    assert type(theirs) is same_class
    for name in ("lr", "betas", "eps", "momentum", "nesterov", "alpha"):
        assert theirs.param_groups[0].get(name) == ours.param_groups[0].get(name), name
    assert [group["weight_decay"] for group in theirs.param_groups] == [0.01, 0.0]


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        *((schedule, {}) for schedule in SCHEDULES),
        ("linear", {"final_rate_ratio": 0.2}),
        *((schedule, {"final_rate_ratio": 1.0}) for schedule in ("linear", "polynomial", "cosine")),
        ("polynomial", {"final_rate_ratio": 0.2, "power": 3.0}),
        ("cosine", {"final_rate_ratio": 0.2}),
        ("cosine_restarts", {"cycles": 3}),
    ],
)
def test_a_schedule_is_ours(exported: Exported, schedule: ScheduleName, values: dict[str, Any]) -> None:
    chosen = with_values(exported, schedule=schedule, warmup_ratio=0.1, learning_rate=0.5, **values)
    trainer = transformers.Trainer(model=nn.Linear(2, 2), args=constructed(chosen), eval_dataset=[{}])
    trainer.create_optimizer_and_scheduler(STEPS)
    rates = []
    for _ in range(STEPS):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates == pytest.approx([0.5 * factor(step, STEPS, chosen.hyperparameters) for step in range(STEPS)])


TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
MODELS = [
    transformers.BertConfig(**TINY),
    transformers.MPNetConfig(**TINY, intermediate_size=16),
    transformers.DebertaV2Config(**TINY, relative_attention=True, pos_att_type=["p2c", "c2p"], intermediate_size=16),
    transformers.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
    transformers.LlamaConfig(**TINY, intermediate_size=16),
]


@pytest.mark.parametrize("of", MODELS, ids=lambda of: of.model_type)
def test_the_same_weights_decay(exported: Exported, of: Any) -> None:
    model = transformers.AutoModelForSequenceClassification.from_config(of)
    trainer = transformers.Trainer(model=model, args=constructed(with_values(exported)), eval_dataset=[{}])
    named = dict(model.named_parameters())  # Each once, where Trainer names what is tied twice.
    held = {name for name, weight in named.items() if is_regularized(name, weight)}
    assert held == named.keys() & set(trainer.get_decay_parameter_names(model))


class _InOurOrder(torch.utils.data.Sampler[int]):
    """Rows as a trial of ours sees them, epoch by epoch."""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed, self._epoch = rows, seed, 0

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Any:
        (order,) = training_batches(self._rows, self._rows, self._seed, self._epoch)
        self._epoch += 1
        return iter(order.tolist())


class _Trainer(transformers.Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return _InOurOrder(len(train_dataset or self.train_dataset), self.args.seed)


def without_dropout(folder: Path, where: Path) -> Path:
    shutil.copytree(folder, where)
    config = json.loads((where / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (where / "config.json").write_text(json.dumps(config))
    return where


def trained_by_trainer(chosen: Exported, begun: Any, **more: Any) -> transformers.Trainer:
    """Train, under the arguments as JSON, as they are written, the network of a bench over its rows."""

    def rows(split: Any) -> list[dict[str, Any]]:
        return [
            {"input_ids": row_of(split.tokens, row).tolist(), "labels": split.targets[row].tolist()}
            for row in range(split.tokens.rows)
        ]

    data = begun.tokenized(16)
    arguments = json.loads(json.dumps(to_training_arguments(chosen)))
    trainer = _Trainer(
        model=begun.model.network,
        args=transformers.TrainingArguments(**arguments, use_cpu=True, disable_tqdm=True),
        train_dataset=rows(data["train"]),
        eval_dataset=rows(data["validation"]),
        data_collator=transformers.DataCollatorWithPadding(begun.model.tokenizer),
        **more,
    )
    trainer.train()
    return trainer


def scores_of(trainer: transformers.Trainer) -> list[str]:
    metric = f"eval_{trainer.args.metric_for_best_model}"
    return [f"{entry[metric]:.4f}" for entry in trainer.state.log_history if metric in entry]


@pytest.mark.parametrize(
    "values",
    [
        # A larger epsilon, so that rounding is not taken for a gradient where there is none, as of a key's bias.
        {"label_smoothing": 0.1, "l2_strength": 0.1, "schedule": "cosine", "epsilon": 1e-4},
        {"optimizer": "nesterov", "schedule": "polynomial", "max_grad_norm": 0.5},
    ],
)
def test_trainer_trains_the_model_that_hpo_trains(exported: Exported, values: dict[str, Any], tmp_path: Path) -> None:
    """From the same weights, in the same order, without dropout."""
    model = exported.model.model_copy(update={"name": str(without_dropout(Path(exported.model.name), tmp_path / "m"))})
    usual = {"learning_rate": 1e-2, "batch_size": 16}
    chosen = with_values(exported, **(usual | values)).model_copy(update={"model": model})
    said: list[str] = []
    train_into(tmp_path / "ours", chosen, compute_of(chosen), "train", said.append)
    begun = open_trainer(chosen, *study_and_splits(chosen, compute_of(chosen)))._context
    TrialModel(begun.model, begun.task, chosen.hyperparameters, seed=chosen.seed)

    def f1(prediction: Any) -> dict[str, float]:
        positive = begun.task.label_names.index(begun.task.metric.positive)
        said = prediction.predictions.argmax(axis=-1)
        return {"f1": float(f1_score(prediction.label_ids, said, pos_label=positive))}

    trainer = trained_by_trainer(chosen, begun, compute_metrics=f1)
    assert scores_of(trainer) == [sentence.rpartition(" ")[2] for sentence in said if sentence.startswith("epoch ")]
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert_trained_alike(trainer.model.state_dict(), ours, Path(model.name), rtol=1e-3)


def test_trainer_trains_several_labels_a_text_as_hpo_does(exported: Exported, tmp_path: Path) -> None:
    """With what is said beside the arguments: a loss summed over labels, and a threshold fitted to validation."""
    model = exported.model.model_copy(update={"name": str(without_dropout(Path(exported.model.name), tmp_path / "m"))})
    keeping = exported.model_copy(update={"model": model, "confirmation": ConfirmationConfig(validation_share=0.5)})
    several = with_label_sets(keeping, tmp_path, rows=1500, data={"validation_fraction": 0.4})
    # A rung in per mille may lie a step behind the end of an epoch, so it is scored at the last alone.
    ended = several.model_copy(update={"milestones": several.milestones[-1:]})
    chosen = with_values(ended, learning_rate=5e-3, batch_size=16, epochs=1, epsilon=1e-4)
    said: list[str] = []
    train_into(tmp_path / "ours", chosen, compute_of(chosen), "train", said.append)
    begun = open_trainer(chosen, *study_and_splits(chosen, compute_of(chosen)))._context
    assert begun.splits.confirmation is not None
    assert begun.model.network.config.problem_type == "multi_label_classification"
    TrialModel(begun.model, begun.task, chosen.hyperparameters, seed=chosen.seed)

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        of_labels = nn.functional.binary_cross_entropy_with_logits(outputs.logits, labels, reduction="none")
        return of_labels.sum(dim=1).mean()

    def micro_f1(prediction: Any) -> dict[str, float]:
        probabilities = 1 / (1 + np.exp(-prediction.predictions.astype(np.float64)))
        precision, recall, _ = precision_recall_curve(prediction.label_ids.ravel() > 0, probabilities.ravel())
        return {"micro_f1": float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())}

    trainer = trained_by_trainer(chosen, begun, compute_loss_func=loss, compute_metrics=micro_f1)
    assert scores_of(trainer) == [sentence.rpartition(" ")[2] for sentence in said if sentence.startswith("epoch ")]
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert_trained_alike(trainer.model.state_dict(), ours, Path(model.name), rtol=1e-3, atol=1e-4)


def test_what_several_labels_a_text_ask_for_is_said(exported: Exported, tmp_path: Path) -> None:
    several = with_label_sets(with_values(exported), tmp_path, thresholds="per_label")
    assert to_training_arguments(several)["metric_for_best_model"] == "micro_f1"
    [said, *_] = left_to_do(several)
    for word in (
        "multi_label_classification",
        "1.0",
        "summed over labels",
        "for each label that of its largest F1",
        "'micro_f1'",
    ):
        assert word in said
    with pytest.raises(ConfigurationError, match=r"label_smoothing 0\.1 of several labels a text \(nearest: "):
        to_training_arguments(with_values(several, label_smoothing=0.1))


PROGRAM = """
import json, sys
import torch, transformers
class Trainer(transformers.Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)
model, given, output = sys.argv[1:]
content = json.load(open(given))
torch.manual_seed(0)
network = transformers.AutoModelForSequenceClassification.from_pretrained(model)
trainer = Trainer(
    model=network, args=transformers.TrainingArguments(**content["arguments"]), train_dataset=content["rows"],
    data_collator=transformers.DataCollatorWithPadding(transformers.AutoTokenizer.from_pretrained(model)),
)
trainer.train()
if trainer.is_world_process_zero():
    torch.save(network.state_dict(), output)
"""


@pytest.mark.slow
def test_processes_take_the_steps_of_one(exported: Exported, tmp_path: Path) -> None:
    """By default each takes a whole batch, and Trainer doubles the gradients of two."""
    model = without_dropout(Path(exported.model.name), tmp_path / "m")
    arguments = to_training_arguments(with_values(exported, learning_rate=1e-2, batch_size=16, epsilon=1e-4))
    arguments |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "use_cpu": True}
    random = torch.Generator().manual_seed(0)
    rows = [
        {"input_ids": torch.randint(5, 30, (6 + number % 5,), generator=random).tolist(), "labels": number % 2}
        for number in range(64)
    ]
    (tmp_path / "given.json").write_text(json.dumps({"arguments": arguments, "rows": rows}))
    (tmp_path / "program.py").write_text(PROGRAM)
    for name, launcher in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc_per_node", "2"])):
        words = [sys.executable, *launcher, "program.py", str(model), "given.json", name]
        ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    one, two = (torch.load(tmp_path / name) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


REFUSED: dict[str, dict[str, Any]] = {
    "method": {"method": "head"},
    "trained_layers": {"method": "top_layers", "trained_layers": 1},
    "kept_layers": {"kept_layers": 1},
    "optimizer": {"optimizer": "muon"},
    "layerwise_rate_decay": {"layerwise_rate_decay": 0.9},
    "head_rate": {"head_rate": 3.0},
    "head_scale": {"head_scale": 0.05},
    "schedule": {"schedule": "step"},
    "final_rate_ratio": {"schedule": "cosine_restarts", "final_rate_ratio": 0.1},
    "l1_strength": {"l1_strength": 1e-4},
    "l2_form": {"optimizer": "adam", "l2_form": "coupled"},
    "regularize_towards": {"regularize_towards": "pretrained"},
    "dropout": {"dropout": 0.2},
    "attention_dropout": {"attention_dropout": 0.2},
    "class_weights": {"class_weights": "balanced"},
    "token_masking": {"token_masking": 0.1},
    "word_swap": {"word_swap": 0.1},
    "data_fraction": {"data_fraction": 0.5},
    "early_stopping_patience": {"early_stopping_patience": 1},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_by_name(exported: Exported, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} .*\(nearest: .+\)"):
        to_training_arguments(with_values(exported, **REFUSED[name]))


def test_all_of_it_is_named_at_once(exported: Exported) -> None:
    strange = with_values(exported, dropout=0.2, kept_layers=1, optimizer="lion").model_copy(
        update={"metric": "mine:score"}
    )
    with pytest.raises(ConfigurationError) as caught:
        to_training_arguments(strange)
    for name in ("dropout 0.2", "kept_layers 1", "optimizer lion", "the metric mine:score"):
        assert name in str(caught.value)


def test_what_is_not_theirs_to_say_is_said_beside_them(exported: Exported) -> None:
    said = " ".join(left_to_do(exported))
    for word in ("16 tokens", "labels", "'f1'", exported.model.name, exported.data.train, "CUDA_VISIBLE_DEVICES=0"):
        assert word in said
