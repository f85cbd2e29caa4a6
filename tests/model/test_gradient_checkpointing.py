"""Gradient checkpointing: the same gradients while less is stored, of frozen layers too."""

from typing import Any, get_args

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from hpo.data.batching import Batch
from hpo.messages import Precision
from hpo.model.backbone import Backbone
from hpo.model.trial_model import Slots, TrialModel
from tests.models import tiny_hyperparameters

METHODS = [
    {"method": "lora", "lora_dropout": 0.3},
    {"method": "full", "dropout": 0.3},
    {"method": "full", "dropout": 0.3, "attention_dropout": 0.0},
    {"method": "top_layers", "trained_layers": 1},
]


def passed(
    backbone: Backbone, task: Any, values: dict[str, Any], *, checkpointed: bool, precision: Precision = "fp32"
) -> tuple[list[torch.Tensor], int]:
    """Return the gradients of a batch, and the bytes that its forward pass stored for the backward pass."""
    model = TrialModel(backbone, task, tiny_hyperparameters(**values), seed=0, precision=precision)
    ids = torch.randint(5, 20, (8, 24), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch = Batch(inputs=inputs, targets=torch.arange(8) % 2)
    stored = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal stored
        stored += tensor.nbytes
        return tensor

    backbone.checkpointing.switch(checkpointed)
    with saved_tensors_hooks(count, lambda tensor: tensor):
        (logits,) = Slots([model]).logits([(model, batch)])
    logits.square().sum().backward()
    return [parameter.grad for parameter in model.parameters.values() if parameter.grad is not None], stored


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("values", METHODS)
def test_gradients_are_the_same_and_less_is_stored(
    values: dict[str, Any], precision: Precision, bert: Backbone, task: Any
) -> None:
    plain, before = passed(bert, task, values, checkpointed=False, precision=precision)
    again, after = passed(bert, task, values, checkpointed=True, precision=precision)
    off, restored = passed(bert, task, values, checkpointed=False, precision=precision)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True)), "dropout masks too"
    assert all(torch.equal(one, other) for one, other in zip(plain, off, strict=True))
    assert restored == before
    assert after < before / (2 if values["method"] != "top_layers" else 1)
