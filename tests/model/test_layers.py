"""A model that keeps its bottom layers answers as one that never had the others, and has them all again after."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModelForSequenceClassification,
    BartConfig,
    FunnelConfig,
    T5Config,
    XLMConfig,
)

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError, ModelError
from hpo.model.backbone import Backbone
from hpo.model.methods import LayerStack, refuse_kept_layers, select_parameters, transformer_layers
from hpo.model.trial_model import TrialModel
from hpo.tasks.classification import Classification
from tests.model.architectures import ARCHITECTURES, tiny_network
from tests.models import tiny_hyperparameters

CPU = torch.device("cpu")
INPUT = torch.tensor([[1, 5, 3, 9, 2], [1, 7, 2, 0, 0]])
MASK = (INPUT != 0).long()


@torch.no_grad()
def answer(network) -> torch.Tensor:
    network.eval()
    return network(INPUT, attention_mask=MASK).logits


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_bottom_layers_answer_as_a_model_built_with_as_many(name: str, count: int):
    network = tiny_network(name)
    whole = answer(network)
    fewer = tiny_network(name, layers=count)
    fewer.load_state_dict({key: tensor for key, tensor in network.state_dict().items() if key in fewer.state_dict()})
    stack = LayerStack(network)
    stack.keep(count)
    assert torch.equal(answer(network), answer(fewer))
    assert not torch.allclose(answer(network), whole, rtol=1e-4)
    assert network.state_dict().keys() == fewer.state_dict().keys()
    assert network.config.num_hidden_layers == count
    stack.keep(None)
    assert torch.equal(answer(network), whole)
    assert network.config.num_hidden_layers == 3


@pytest.mark.parametrize("name", ["modernbert", "qwen2"])
def test_a_config_that_tells_of_each_layer_follows(name: str, tmp_path: Path):
    network = tiny_network(name)
    types = network.config.layer_types
    stack = LayerStack(network)
    stack.keep(2)
    network.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).layer_types == types[:2]
    stack.keep(None)
    assert network.config.layer_types == types


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trained_layers_count_from_the_top_of_the_kept_ones(name: str):
    network = tiny_network(name)
    LayerStack(network).keep(2)
    prefix, _ = transformer_layers(network)
    trained = select_parameters(network, frozenset(), Hyperparameters(method="top_layers", trained_layers=1))
    assert any(parameter.startswith(f"{prefix}.1.") for parameter in trained)
    assert not any(parameter.startswith((f"{prefix}.0.", f"{prefix}.2.")) for parameter in trained)
    with pytest.raises(ConfigurationError, match="trained_layers is 3, but the model has 2 layers; use at most 2"):
        select_parameters(network, frozenset(), Hyperparameters(method="top_layers", trained_layers=3))


def test_another_count_starts_from_all_layers_again():
    network = tiny_network("bert")
    stack = LayerStack(network)
    stack.keep(1)
    stack.keep(3)
    assert len(transformer_layers(network)[1]) == 3
    with pytest.raises(ConfigurationError, match="kept_layers is 4, but the model has 3 layers; use at most 3"):
        stack.keep(4)


def test_layers_that_come_back_train_as_the_others_do():
    network = tiny_network("bert").eval()
    stack = LayerStack(network)
    stack.keep(1)
    network.train()
    stack.keep(None)
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    "config",
    [
        AlbertConfig(vocab_size=40, embedding_size=8, hidden_size=16, num_attention_heads=2, num_hidden_layers=3),
        XLMConfig(vocab_size=40, emb_dim=16, n_layers=3, n_heads=2),
        FunnelConfig(vocab_size=40, d_model=16, n_head=2, d_head=8, block_sizes=[1, 2]),
        T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2),
        BartConfig(vocab_size=80, d_model=16, encoder_layers=3, decoder_layers=2, pad_token_id=1),
    ],
    ids=["shared", "parallel", "nested", "two stacks", "two stacks of other lengths"],
)
def test_layers_that_are_no_plain_stack_are_refused(config):
    network = AutoModelForSequenceClassification.from_config(config)
    stack = LayerStack(network)
    stack.keep(None)
    named = type(network).__name__
    with pytest.raises(ModelError, match=f"kept_layers is given, but the layers of {named} are not one plain stack"):
        stack.keep(1)
    with pytest.raises(ModelError, match="leave kept_layers out of the space"):
        refuse_kept_layers(network, 1)


def test_a_trial_may_follow_one_that_kept_fewer(bert: Backbone):
    bert.reset(5)
    bert.hold_pretrained()
    whole = {name: tensor.clone() for name, tensor in bert.network.state_dict().items()}
    bert.layers.keep(1)
    with torch.no_grad():
        for parameter in bert.network.parameters():
            parameter.add_(1.0)
    bert.reset(5)
    again = bert.network.state_dict()
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize("method", ["full", "head"])
def test_weights_of_a_trial_that_kept_fewer_are_restored(bert: Backbone, task: Classification, method: str):
    fewer = tiny_hyperparameters(method=method, kept_layers=1)
    model = TrialModel(bert, task, fewer, seed=5)
    with torch.no_grad():
        for parameter in model.parameters.values():
            parameter.mul_(1.5)
    kept = {name: parameter.detach().clone() for name, parameter in model.parameters.items()}
    expected = answer(bert.network.eval())
    TrialModel(bert, task, tiny_hyperparameters(), seed=6)
    TrialModel(bert, task, fewer, seed=7).load(kept)
    assert torch.equal(answer(bert.network.eval()), expected)


def test_weights_of_more_layers_are_refused(bert: Backbone, task: Classification):
    model = TrialModel(bert, task, tiny_hyperparameters(kept_layers=1), seed=5)
    bert.reset(5)
    trained = {name: parameter.detach().clone() for name, parameter in bert.network.named_parameters()}
    with pytest.raises(ModelError, match="are of another model or label set"):
        model.load(trained)
