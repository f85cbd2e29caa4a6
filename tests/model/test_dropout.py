"""Dropout of attention weights is set apart from the other dropouts, whatever a model calls it."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, FNetConfig, T5Config

from hpo.errors import ModelError
from hpo.model.randomness import Dropouts
from tests.model.architectures import ARCHITECTURES, tiny_network

INPUT = torch.tensor([[1, 5, 3, 9, 2, 6, 6, 8]])
WITHOUT_LAYERS = ("llama", "qwen2")
# Who holds the dropout of the attention weights of one layer.
ATTENTION = {
    "bert": "attention.self.dropout.p",
    "roberta": "attention.self.dropout.p",
    "electra": "attention.self.dropout.p",
    "distilbert": "attention.dropout.p",
    "deberta": "attention.self.dropout.p",
    "deberta_v2": "attention.self.dropout.p",
    "deberta_v3": "attention.self.dropout.p",
    "mpnet": "attention.attn.dropout.p",
    "modernbert": "attn.attention_dropout",
    "llama": "self_attn.attention_dropout",
    "qwen2": "self_attn.attention_dropout",
    "gpt2": "attn.attn_dropout.p",
}
CASES = [
    (name, implementation)
    for name in ARCHITECTURES
    for implementation in ("eager", "sdpa")
    if implementation == "eager" or not name.startswith(("deberta", "mpnet"))
]


@torch.no_grad()
def answer(network) -> torch.Tensor:
    return network(INPUT, attention_mask=torch.ones_like(INPUT)).logits


def probabilities(network) -> dict[str, float]:
    return {
        f"{name}.{attribute}": getattr(module, attribute)
        for name, module in network.named_modules()
        for attribute in ("p", "attention_dropout", "resid_dropout", "dropout")
        if isinstance(getattr(module, attribute, None), float)
    }


@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_dropout_of_attention_is_what_training_mode_adds(name: str, implementation: str):
    network = tiny_network(name, attn_implementation=implementation)
    assert network.config._attn_implementation == implementation
    dropouts = Dropouts(network)
    others = None if name in WITHOUT_LAYERS else 0.0
    evaluated = answer(network.eval())
    network.train()
    dropouts.put(others, 0.0)
    assert torch.equal(answer(network), evaluated)
    dropouts.put(others, 0.5)
    assert len({answer(network).sum().item() for _ in range(4)}) > 1


@pytest.mark.parametrize("name", ATTENTION)
def test_only_the_attention_weights_have_another_dropout(name: str):
    network = tiny_network(name)
    own = probabilities(network)
    dropouts = Dropouts(network)
    dropouts.put(None, 0.37)
    changed = {place for place, probability in probabilities(network).items() if probability == 0.37}
    assert len(changed) == 3
    assert all(place.endswith(ATTENTION[name]) for place in changed)
    dropouts.put(None, None)
    assert probabilities(network) == own


@pytest.mark.parametrize("name", sorted(ATTENTION.keys() - set(WITHOUT_LAYERS)))
def test_attention_overrides_the_dropout_of_all(name: str):
    network = tiny_network(name)
    dropouts = Dropouts(network)
    dropouts.put(0.25, 0.37)
    held = probabilities(network)
    assert {held[place] for place in held if place.endswith(ATTENTION[name])} == {0.37}
    assert {held[place] for place in held if place.endswith(".p") and not place.endswith(ATTENTION[name])} == {0.25}
    dropouts.put(0.25, None)
    assert {value for place, value in probabilities(network).items() if place.endswith(".p")} == {0.25}


def test_a_dropout_around_attention_is_not_of_its_weights():
    config = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.1)
    network = AutoModelForSequenceClassification.from_config(config)
    Dropouts(network).put(0.2, 0.37)
    assert {value for place, value in probabilities(network).items() if place.endswith(".p")} == {0.2}
    assert {value for place, value in probabilities(network).items() if place.endswith("Attention.dropout")} == {0.37}


def test_a_model_without_such_a_dropout_is_refused():
    with pytest.raises(
        ModelError, match="dropout is given, but LlamaForSequenceClassification has no dropout layers; leave"
    ):
        Dropouts(tiny_network("llama")).put(0.1, None)
    config = FNetConfig(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1)
    fourier = Dropouts(AutoModelForSequenceClassification.from_config(config))
    with pytest.raises(ModelError, match="FNetForSequenceClassification has no dropout of attention weights that is"):
        fourier.put(None, 0.1)
    with pytest.raises(ModelError, match="leave attention_dropout out of the space"):
        fourier.refuse_attention()
