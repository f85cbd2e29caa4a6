"""Last layer for the first token alone: outputs and gradients are those of the whole layer."""

import pytest
import torch

from hpo.data.batching import Batch
from hpo.model.backbone import Backbone
from hpo.model.last_layer import FIRST_TOKEN, first_token_forward, forwards
from hpo.model.trial_model import TrialModel
from hpo.tasks.classification import Classification
from tests.model.architectures import ARCHITECTURES, tiny_network
from tests.models import tiny_hyperparameters

READING_THE_FIRST_TOKEN = ("bert", "roberta", "electra", "distilbert")


def outputs_and_gradients(network, *, shortened: bool):
    ids = torch.randint(3, 40, (5, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5, 6])[:, None]
    network.zero_grad()
    with forwards(first_token_forward(network) if shortened else {}):
        logits = network(input_ids=ids * mask, attention_mask=mask.long()).logits
    logits.square().sum().backward()
    return logits.detach(), {name: weight.grad for name, weight in network.named_parameters()}


@pytest.mark.parametrize("name", READING_THE_FIRST_TOKEN)
def test_outputs_and_gradients_are_those_of_the_whole_layer(name: str):
    network = tiny_network(name).eval()
    assert network.config.model_type in FIRST_TOKEN
    [last] = first_token_forward(network)
    seen = []
    handle = next(last.children()).register_forward_hook(lambda *_: seen.append("whole"))
    whole = outputs_and_gradients(network, shortened=False)
    assert seen
    seen.clear()
    shortened = outputs_and_gradients(network, shortened=True)
    handle.remove()
    assert not seen
    torch.testing.assert_close(shortened, whole, rtol=1e-4, atol=1e-6)
    assert "forward" not in last.__dict__


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(READING_THE_FIRST_TOKEN)))
def test_other_architectures_compute_all_tokens(name: str):
    assert not first_token_forward(tiny_network(name))


def test_attention_that_is_not_torchs_and_classes_of_others_compute_all_tokens():
    assert not first_token_forward(tiny_network("bert", attn_implementation="eager"))
    network = tiny_network("bert")
    network.__class__ = type("OwnForSequenceClassification", (type(network),), {"__module__": "downloaded"})
    assert not first_token_forward(network)


@pytest.mark.parametrize(
    ("values", "layer"),
    [
        ({}, 1),
        ({"kept_layers": 1}, 0),
        ({"method": "top_layers", "trained_layers": 1}, 1),
        ({"method": "head"}, None),
        ({"method": "lora", "lora_rank": 2}, 1),
    ],
)
def test_the_last_layer_gives_one_token_unless_the_head_alone_is_trained(
    values: dict, layer: int | None, bert: Backbone, task: Classification
):
    layers, widths = list(bert.network.bert.encoder.layer), {}
    TrialModel(bert, task, tiny_hyperparameters(**values), seed=0)
    handles = [
        layer.output.register_forward_hook(lambda _, __, output, n=number: widths.update({n: output.shape[1]}))
        for number, layer in enumerate(layers)
    ]
    ids = torch.ones(2, 6, dtype=torch.int64)
    bert.logits(Batch(inputs={"input_ids": ids, "attention_mask": ids}, targets=torch.zeros(2)), "fp32")
    for handle in handles:
        handle.remove()
    assert [number for number, width in widths.items() if width == 1] == ([] if layer is None else [layer])
    assert set(widths.values()) <= {1, 6}
