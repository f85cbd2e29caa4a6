"""What TrainingArguments say of a configuration is what hpo does; what they cannot say is refused by name."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from hpo.config.hyperparameters import Hyperparameters, OptimizerName, ScheduleName
from hpo.errors import ConfigurationError
from hpo.export.exported import Exported
from hpo.export.training_arguments import FIELDS, OPTIMIZERS, SCHEDULES, left_to_do, to_training_arguments
from hpo.training.optimizers import OPTIMIZERS as OURS
from hpo.training.schedules import factor

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
    assert "use_cpu" not in to_training_arguments(with_values(exported))


def test_other_evaluations_than_one_an_epoch_are_even_parts(exported: Exported) -> None:
    places = [place.model_copy(update={"full": place.rung == 1000}) for place in exported.milestones]
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


REFUSED: dict[str, dict[str, Any]] = {
    "method": {"method": "head"},
    "trained_layers": {"method": "top_layers", "trained_layers": 1},
    "kept_layers": {"kept_layers": 1},
    "optimizer": {"optimizer": "muon"},
    "layerwise_rate_decay": {"layerwise_rate_decay": 0.9},
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
    for word in ("16 tokens", "labels", "'f1'", exported.model.name, exported.data.train):
        assert word in said
