import pytest
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError, ModelError
from hpo.model.backbone import Backbone
from hpo.model.methods import select_parameters, to_training_mode, transformer_layers
from tests.model.architectures import ARCHITECTURES, tiny_network

# What each trains of the tiny BERT: the beginnings of the names.
KNOWN_ANSWERS = {
    "full": ("bert.", "classifier"),
    "top_layers": ("bert.encoder", "bert.pooler", "classifier"),
    "head": ("bert.pooler", "classifier"),
    "lora": ("bert.pooler", "classifier"),
}
INPUT = torch.tensor([[2, 5, 3]])


def chosen(network, fresh, **values) -> set[str]:
    return set(select_parameters(network, fresh, Hyperparameters.model_validate(values)))


def everything(network) -> set[str]:
    return {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("method", KNOWN_ANSWERS)
def test_each_method_trains_what_it_says_of_a_model_of_two_layers(method: str, bert: Backbone):
    names = chosen(bert.network, bert.fresh, method=method)
    assert names == {name for name in everything(bert.network) if name.startswith(KNOWN_ANSWERS[method])}


def test_freezing_is_undone_by_the_next_trial(bert: Backbone):
    chosen(bert.network, bert.fresh, method="head")
    chosen(bert.network, bert.fresh, method="full")
    assert all(parameter.requires_grad for parameter in bert.network.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_backward_never_runs_below_the_lowest_trained_layer(name: str):
    network = tiny_network(name)
    base = f"{network.base_model_prefix}."
    fresh = frozenset(name for name in everything(network) if not name.startswith(base))
    prefix, layers = transformer_layers(network)
    trained = chosen(network, fresh, method="top_layers", trained_layers=1)
    assert fresh <= trained
    assert {n for n in everything(network) if n.startswith(f"{prefix}.2.")} <= trained
    assert not any("embed" in n or n.startswith((f"{prefix}.0.", f"{prefix}.1.")) for n in trained)
    asked: list[bool] = []
    for layer in layers:
        layer.register_forward_hook(
            lambda _module, _inputs, output: asked.append(
                (output[0] if isinstance(output, tuple) else output).requires_grad
            )
        )
    network(INPUT, attention_mask=torch.ones_like(INPUT)).logits.sum().backward()
    assert asked == [False, False, True]
    graded = {n for n, parameter in network.named_parameters() if parameter.grad is not None}
    assert graded <= trained


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_frozen_layers_draw_no_dropout_and_trained_ones_do(name: str):
    network = tiny_network(name)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    base = f"{network.base_model_prefix}."
    fresh = frozenset(name for name in everything(network) if not name.startswith(base))
    _, layers = transformer_layers(network)
    chosen(network, fresh, method="top_layers", trained_layers=1)
    to_training_mode(network)
    assert [layer.training for layer in layers] == [False, False, True]
    assert network.training, "what holds trained parameters too trains"
    seen: list[torch.Tensor] = []
    layers[1].register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        for _ in range(2):
            network(INPUT, attention_mask=torch.ones_like(INPUT))
    assert torch.equal(*seen)
    chosen(network, fresh, method="full")
    to_training_mode(network)
    assert all(module.training for module in network.modules())


def test_the_dropout_of_a_head_is_drawn_above_a_model_that_is_frozen_as_a_whole():
    network = tiny_network("bert")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    to_training_mode(network)
    assert (network.bert.training, network.dropout.training, network.classifier.training) == (False, True, True)


def test_more_layers_than_there_are_is_refused(bert: Backbone):
    with pytest.raises(ConfigurationError, match="trained_layers is 3, but the model has 2 layers; use at most 2"):
        chosen(bert.network, bert.fresh, method="top_layers", trained_layers=3)


def test_a_model_without_layers_is_refused():
    with pytest.raises(ModelError, match="Linear keeps no list of transformer layers"):
        transformer_layers(torch.nn.Linear(2, 2))


def test_a_longer_list_of_something_else_is_not_the_layers():
    network = tiny_network("bert", layers=2)
    network.bert.experts = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(8))
    assert transformer_layers(network)[0] == "bert.encoder.layer"
