"""LoRA: what is adapted, and a training that is PEFT's."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
    set_seed,
)
from transformers.models.llama import LlamaConfig
from transformers.models.mixtral import MixtralConfig, MixtralForCausalLM

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError
from hpo.model.backbone import Backbone
from hpo.model.lora import (
    AdaptedRows,
    LoraLinear,
    adapted,
    lora_layers,
    lora_targets,
    merge,
    note_on_targets,
)
from hpo.model.methods import head_parameters
from hpo.model.trial_model import TrialModel, _ModuleOfSlots
from tests.model.architectures import ARCHITECTURES, NUMBERS, SMALL, tiny_network
from tests.models import tiny_hyperparameters

LORA = {"method": "lora", "lora_rank": 4, "lora_alpha": 8.0}
IDS = torch.tensor([[2, 5, 3, 7, 9], [4, 4, 8, 1, 6]])


def mounted(network: Any, **values: Any) -> dict[str, LoraLinear]:
    """Put adapters into a network, and return them."""
    hyperparameters = Hyperparameters.model_validate({**LORA, **values})
    layers = lora_layers(network, hyperparameters, frozenset(head_parameters(network)), seed=0)
    network.requires_grad_(False)
    for path, layer in layers.items():
        network.set_submodule(path, layer)
    return layers


def decoder(name: str) -> Any:
    set_seed(0)
    match name:
        case "gpt2":  # Conv1D, whose weights are transposed, and one for query, key and value.
            return GPT2LMHeadModel(GPT2Config(**NUMBERS, vocab_size=40, n_embd=16, n_head=2, n_layer=2))
        case "bloom":  # One linear layer for query, key and value.
            return BloomForCausalLM(BloomConfig(**NUMBERS, vocab_size=40, hidden_size=16, n_head=2, n_layer=2))
        case _:
            return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=1, num_hidden_layers=2))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_the_layers_of_a_decoder_are_those_that_peft_adapts(name: str) -> None:
    network = decoder(name)
    ours = set(lora_targets(network, "all-linear"))
    peft = get_peft_model(
        deepcopy(network), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2")
    )
    theirs = {path.rpartition(".lora_A")[0] for path, _ in peft.base_model.model.named_modules() if ".lora_A." in path}
    assert ours == theirs
    attention, mlp = (set(lora_targets(network, wanted)) for wanted in ("attention", "mlp"))
    assert attention
    assert mlp
    assert attention | mlp == ours
    assert not attention & mlp


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_linear_layers_are_adapted_but_those_of_the_head(name: str) -> None:
    network = tiny_network(name)
    fresh = frozenset(head_parameters(network))
    found = lora_targets(network, "all-linear", fresh)
    assert all(f"{path}.weight" not in fresh for path in found)
    per_layer = {path for path in found if "layer.1." in path or "layers.1." in path or "h.1." in path}
    assert len(per_layer) * 3 <= len(found), "in each of three layers as many"
    assert per_layer


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("scaling", ["standard", "rslora"])
def test_a_training_is_that_of_peft(name: str, scaling: str) -> None:
    ours, network = decoder(name), decoder(name)
    layers = mounted(ours, lora_scaling=scaling)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", use_rslora=scaling == "rslora",
        fan_in_fan_out=name == "gpt2", task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = get_peft_model(network, config)
    weights = {f"{path}.{key}": value for path, layer in layers.items() for key, value in layer.state_dict().items()}
    for key, parameter in theirs.named_parameters():
        if "lora_" in key:
            parameter.data.copy_(weights[key.removeprefix("base_model.model.").replace(".default", "")])
    losses = []
    for model in (ours, theirs):
        model.eval()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3)
        seen = []
        for step in range(50):
            ids = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(step % 2))
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(float(loss.detach()))
        losses.append(seen)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0][-1] < losses[0][0], "it learns"


def beside_bf16() -> tuple[LoraLinear, Any]:
    """Return an adapter of ours and one of PEFT's with the same weights, beside a frozen linear layer of bf16."""
    set_seed(0)
    base = nn.Linear(64, 96, dtype=torch.bfloat16).requires_grad_(False)
    ours = LoraLinear(base, Hyperparameters.model_validate(LORA), torch.Generator().manual_seed(0))
    nn.init.normal_(ours.lora_B.weight)
    theirs = get_peft_model(nn.Sequential(base), LoraConfig(r=4, lora_alpha=8, target_modules=["0"]))
    for name, weight in theirs.named_parameters():
        if "lora_" in name:
            weight.data.copy_(ours.get_parameter(name.partition("0.")[2].replace(".default", "")))
    return ours, theirs


def test_over_bf16_it_computes_in_fp32_and_rounds_once_as_peft_does() -> None:
    found = []
    for layer in beside_bf16():
        states = torch.randn(300, 64, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
        output = layer(states)
        output.float().square().sum().backward()
        of_weights = {
            name.replace(".default", "")[-13:]: one.grad
            for name, one in layer.named_parameters()
            if one.grad is not None
        }
        assert {one.dtype for one in of_weights.values()} == {torch.float32}
        found.append((output, states.grad, of_weights))
    (ours, of_ours, weights), (theirs, of_theirs, expected) = found
    assert ours.dtype == torch.bfloat16
    assert (ours != theirs).float().mean() < 0.01
    assert (of_ours != of_theirs).float().mean() < 0.01
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-3 * float(expected["lora_A.weight"].abs().max()))


def test_over_bf16_an_adapter_keeps_its_input_as_it_is() -> None:
    """Not in fp32 too, which would be most of what a layer of a bf16 network keeps for its backward pass."""
    layer, _ = beside_bf16()
    states, kept = torch.randn(1000, 64).bfloat16().requires_grad_(), dict[int, int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(states)
    assert sum(kept.values()) < 1.5 * states.nbytes


def test_initial_values_have_the_distribution_of_peft() -> None:
    layer = next(iter(mounted(decoder("llama"), lora_rank=8).values()))
    assert not layer.lora_B.weight.any()
    drawn = nn.Linear(16, 8, bias=False)
    nn.init.kaiming_uniform_(drawn.weight, a=5**0.5)
    bound = (1 / 16) ** 0.5
    for weight in (layer.lora_A.weight, drawn.weight):
        assert 0.9 * bound < weight.abs().max() <= bound


def test_a_trial_starts_at_the_pretrained_network() -> None:
    network = decoder("gpt2").eval()
    before = network(input_ids=IDS).logits
    mounted(network)
    assert torch.equal(network(input_ids=IDS).logits, before)


def test_a_network_may_ask_for_the_dtype_of_a_weight_and_not_compute_with_it() -> None:
    """As T5 asks; what it computed would leave out the adapter."""
    config = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    network = T5EncoderModel(config).eval()
    before = network(input_ids=IDS).last_hidden_state
    layer = mounted(network)["encoder.block.0.layer.1.DenseReluDense.wo"]
    torch.testing.assert_close(network(input_ids=IDS).last_hidden_state, before)
    for module in (layer, _ModuleOfSlots("wo", layer.base, [])):
        assert module.weight.dtype is torch.float32
        with pytest.raises(RuntimeError):
            nn.functional.linear(torch.ones(1, 32), module.weight)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_merged_network_gives_what_the_adapted_one_gave(name: str) -> None:
    network = decoder(name).eval()
    layers = mounted(network)
    for layer in layers.values():
        nn.init.normal_(layer.lora_B.weight)
    adapted = network(input_ids=IDS).logits
    assert merge({**layers, "lm_head": network.lm_head}) == {"lm_head": network.lm_head}
    for path, layer in layers.items():
        network.set_submodule(path, layer.base)
    torch.testing.assert_close(network(input_ids=IDS).logits, adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wanted", "found"), [("q_proj,v_proj", 4), ("self_attn.o_proj", 2), ("model.layers.1.mlp.up_proj", 1)]
)
def test_layers_are_named_by_the_end_of_their_paths(wanted: str, found: int) -> None:
    assert len(lora_targets(decoder("llama"), wanted)) == found


@pytest.mark.parametrize("wanted", ["c_attn", "proj", "lm_head", "q_proj,nope"])
def test_a_target_that_there_is_not_is_refused_with_those_that_there_are(wanted: str) -> None:
    with pytest.raises(ConfigurationError, match="down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"):
        lora_targets(decoder("llama"), wanted)


def test_what_gets_no_adapter_is_said() -> None:
    llama, bert = decoder("llama"), tiny_network("bert")
    said = note_on_targets(llama, "all-linear")
    assert said == "With lora_targets all-linear, 14 linear layers get an adapter, others stay as they are: lm_head."
    said = note_on_targets(llama, "attention")
    assert said.startswith("With lora_targets attention, 8 linear layers get an adapter, others stay as they are:")
    assert {*said.rpartition(": ")[2].rstrip(".").split(", ")} == {"lm_head", "down_proj", "gate_proj", "up_proj"}
    fresh = frozenset(head_parameters(bert))
    assert note_on_targets(bert, "all-linear", fresh) == ""
    assert note_on_targets(bert, "query,value", fresh).endswith("as they are: dense, key.")
    experts = MixtralForCausalLM(
        MixtralConfig(**SMALL, num_key_value_heads=2, num_hidden_layers=1, num_local_experts=2)
    )
    assert "gate_up_proj" in note_on_targets(experts, "attention")


@pytest.mark.parametrize("wanted", ["all-linear", "mlp"])
def test_experts_that_are_no_linear_layers_are_refused(wanted: str) -> None:
    network = MixtralForCausalLM(
        MixtralConfig(**SMALL, num_key_value_heads=2, num_hidden_layers=1, num_local_experts=2)
    )
    with pytest.raises(ConfigurationError, match="experts"):
        lora_targets(network, wanted)
    assert lora_targets(network, "attention")


def test_a_trial_trains_adapters_and_head_and_nothing_else_changes(bert: Backbone, task: Any) -> None:
    before = {name: weight.clone() for name, weight in bert.network.state_dict().items()}
    model = TrialModel(bert, task, tiny_hyperparameters(**LORA), seed=0)
    trained = set(model.parameters)
    assert {name for name in trained if "lora_" not in name} == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert "bert.encoder.layer.0.attention.self.query.lora_A.weight" in trained
    with torch.no_grad():
        for parameter in model.parameters.values():
            parameter.add_(1.0)
    bert.reset(0)
    after = bert.network.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items() if name not in bert.fresh)


def test_the_frozen_network_draws_no_dropout(bert: Backbone, task: Any) -> None:
    values = {**LORA, "dropout": 0.5, "attention_dropout": 0.5, "lora_dropout": 0.5}
    TrialModel(bert, task, tiny_hyperparameters(**values), seed=0)
    drawing = [
        path for path, module in bert.network.named_modules() if isinstance(module, nn.Dropout) and module.training
    ]
    assert drawing
    assert all(path == "dropout" or path.endswith("lora_dropout") for path in drawing)


def test_a_trial_of_fewer_layers_may_follow_one_of_all(bert: Backbone, task: Any) -> None:
    for kept, method in [(None, "lora"), (1, "lora"), (None, "lora"), (1, "full"), (None, "full")]:
        values = {"method": method, "kept_layers": kept}
        model = TrialModel(bert, task, tiny_hyperparameters(**values), seed=0)
        in_second = [name for name in model.parameters if ".layer.1." in name]
        assert bool(in_second) is (kept is None)
    assert not any(isinstance(module, LoraLinear) for module in bert.network.modules())


def some_adapters(base: nn.Module, *values: dict[str, Any]) -> list[LoraLinear]:
    """Return adapters of one layer, none of which is at its start."""
    generator = torch.Generator().manual_seed(0)
    made = [LoraLinear(base, Hyperparameters.model_validate({**LORA, **one}), generator) for one in values]
    for adapter in made:
        nn.init.normal_(adapter.lora_B.weight, generator=generator)
    return made


@pytest.mark.parametrize("tokens", [(), (3,)])
@pytest.mark.parametrize("second", [{}, {"lora_rank": 2}, {"lora_alpha": 3.0}])
def test_adapters_of_a_layer_give_their_own_rows_what_the_formula_says(
    tokens: tuple[int, ...], second: dict[str, Any]
) -> None:
    """Rows 0, 1 and 2, 3 have adapters in one product where they are alike; row 4 has none, row 5 another."""
    set_seed(0)
    base = nn.Linear(6, 5).requires_grad_(False).double()
    adapters = [one.double() for one in some_adapters(base, {}, second, {"lora_rank": 1})]
    of_rows = [slice(0, 2), slice(2, 4), slice(5, 6)]
    states = torch.randn(6, *tokens, 6, dtype=torch.float64, requires_grad=True)
    weights = [weight for one in adapters for weight in one.parameters()]

    def gradients(output: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((output * torch.arange(5)).square().sum(), [states, *weights])

    rows = [AdaptedRows(adapter=one, rows=rows) for one, rows in zip(adapters, of_rows, strict=True)]
    found, expected = adapted(base, states, rows), base(states).clone()
    for adapter, own in zip(adapters, of_rows, strict=True):
        expected[own] = expected[own] + adapter.scaling * (
            states[own] @ adapter.lora_A.weight.T @ adapter.lora_B.weight.T
        )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found), gradients(expected))


def test_an_adapter_that_is_no_number_reaches_no_other_rows() -> None:
    base = nn.Linear(6, 5).requires_grad_(False)
    adapters = some_adapters(base, {}, {})
    nn.init.constant_(adapters[0].lora_A.weight, torch.nan)
    states = torch.randn(4, 3, 6, requires_grad=True)
    rows = [AdaptedRows(adapter=one, rows=slice(2 * n, 2 * n + 2)) for n, one in enumerate(adapters)]
    output = adapted(base, states, rows)
    output.sum().backward()
    assert states.grad is not None
    for of_all in (output, states.grad):
        assert of_all[:2].isnan().all()
        assert of_all[2:].isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in adapters[1].parameters())


def test_dropout_of_an_adapter_is_drawn_for_its_own_tokens() -> None:
    """Beside wider rows the masks are those that it would draw alone."""
    base = nn.Linear(6, 5).requires_grad_(False)
    narrow, wide = some_adapters(base, {"lora_dropout": 0.5}, {"lora_dropout": 0.5})
    states = torch.randn(4, 3, 6)
    torch.manual_seed(1)
    alone = adapted(base, states[:2, :2], [AdaptedRows(adapter=narrow, rows=slice(0, 2))])
    torch.manual_seed(1)
    rows = [AdaptedRows(adapter=narrow, rows=slice(0, 2), width=2), AdaptedRows(adapter=wide, rows=slice(2, 4))]
    beside = adapted(base, states, rows)
    torch.testing.assert_close(beside[:2, :2], alone)
    torch.testing.assert_close(beside[:2, 2:], base(states[:2, 2:]))
