"""One trial's values: every combination that can be is carried unchanged, every other is refused."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hpo.config.hyperparameters import (
    APPLIES_TO,
    REFUSALS,
    Hyperparameters,
    MethodName,
    OptimizerName,
    Refusal,
    ScheduleName,
    resolved,
)
from hpo.config.parsing import parse_yaml, read_model, write_yaml
from hpo.errors import ConfigurationError
from hpo.space.search_space import SearchSpace

NAMES: dict[str, tuple[str, ...]] = {
    "method": get_args(MethodName),
    "optimizer": get_args(OptimizerName),
    "schedule": get_args(ScheduleName),
}
own_fields = {
    "trained_layers": st.integers(1, 24),
    "lora_rank": st.integers(1, 256),
    "lora_alpha": st.floats(0.1, 256),
    "lora_dropout": st.floats(0, 0.999),
    "lora_targets": st.sampled_from(("all-linear", "attention", "mlp", "q_proj,v_proj", "h.0.attn.c_attn")),
    "lora_scaling": st.sampled_from(("standard", "rslora")),
    "momentum": st.floats(0, 0.999),
    "beta1": st.floats(0.001, 0.999),
    "beta2": st.floats(0, 0.9999),
    "alpha": st.floats(0, 0.999),
    "rho": st.floats(0, 0.999),
    "epsilon": st.floats(1e-12, 1e-3),
    "momentum_decay": st.floats(0, 0.1),
    "decay_rate": st.floats(-1, -0.1),
    "clip_threshold": st.floats(1, 10),
    "newton_schulz_steps": st.integers(1, 20),
    "final_rate_ratio": st.floats(0.01, 1),
    "initial_rate_ratio": st.floats(0, 1),
    "power": st.floats(0.1, 5),
    "cycles": st.integers(1, 10),
    "decay_every": st.floats(0.01, 1),
    "decay_factor": st.floats(0.01, 1),
    "decay_fraction": st.floats(0.01, 1),
    "plateau_patience": st.integers(0, 5),
}
# A value of each that is not the usual one anywhere.
OTHER_VALUES: dict[str, Any] = {
    "decay_rate": -0.5, "clip_threshold": 1.5, "lora_targets": "q_proj,v_proj", "lora_scaling": "rslora",
    **dict.fromkeys(("trained_layers", "lora_rank", "newton_schulz_steps", "cycles", "plateau_patience"), 3),
}  # fmt: skip


@st.composite
def hyperparameters(draw: st.DrawFn) -> Hyperparameters:
    values: dict[str, Any] = {name: draw(st.sampled_from(choices)) for name, choices in NAMES.items()}
    if values["optimizer"] == "schedule_free_adamw":
        values["schedule"] = "constant"
    values |= {
        "learning_rate": draw(st.floats(1e-9, 10)),
        "dropout": draw(st.none() | st.floats(0, 0.99)),
        "attention_dropout": draw(st.none() | st.floats(0, 0.99)),
        "kept_layers": draw(st.none() | st.integers(24, 48)),
        "layerwise_rate_decay": draw(st.floats(0.5, 1)),
        "head_rate": draw(st.floats(0.1, 100)),
        "head_scale": draw(st.none() | st.floats(0.001, 1)),
        "class_weights": draw(st.sampled_from(("equal", "balanced"))),
        "data_fraction": draw(st.floats(0.01, 1)),
        "max_grad_norm": draw(st.none() | st.floats(0.1, 10)),
        "seed": draw(st.none() | st.integers(0, 2**31 - 1)),
        "epochs": draw(st.integers(1, 100)),
    }
    for name, (other, fitting) in APPLIES_TO.items():
        if values[other] in fitting:
            values[name] = draw(st.none() | own_fields[name])
    return Hyperparameters(**values)


@given(hyperparameters())
def test_plain_values_give_equal_hyperparameters_also_through_yaml(given_: Hyperparameters) -> None:
    plain = given_.to_mapping()
    assert Hyperparameters(**plain) == given_
    assert Hyperparameters(**parse_yaml(write_yaml(plain), "test")) == given_


@given(hyperparameters())
def test_a_field_has_a_value_just_where_it_applies(given_: Hyperparameters) -> None:
    for name, (other, fitting) in APPLIES_TO.items():
        assert (getattr(given_, name) is not None) == (getattr(given_, other) in fitting), name


@pytest.mark.parametrize(
    ("chosen", "usual"),
    [
        ({"optimizer": "sgd"}, {}),
        ({"optimizer": "momentum"}, {"momentum": 0.9}),
        ({"optimizer": "adam"}, {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}),
        ({}, {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}),  # adamw
        ({"optimizer": "rmsprop"}, {"momentum": 0.0, "alpha": 0.99, "epsilon": 1e-8}),
        ({"optimizer": "lion"}, {"beta1": 0.9, "beta2": 0.99}),
        ({"optimizer": "adafactor"}, {"decay_rate": -0.8, "clip_threshold": 1.0}),
        ({"optimizer": "sgd", "method": "top_layers"}, {"trained_layers": 2}),
        (
            {"optimizer": "sgd", "method": "lora"},
            {
                "lora_rank": 16,
                "lora_alpha": 32.0,
                "lora_dropout": 0.0,
                "lora_targets": "all-linear",
                "lora_scaling": "standard",
            },
        ),
        ({"optimizer": "momentum", "momentum": None}, {"momentum": 0.9}),
        ({"optimizer": "momentum", "momentum": 0.0}, {"momentum": 0.0}),
        (
            {"optimizer": "sgd", "schedule": "step"},
            {"final_rate_ratio": 0.0, "decay_every": 1 / 3, "decay_factor": 0.1},
        ),
        (
            {"optimizer": "sgd", "schedule": "reduce_on_plateau"},
            {"final_rate_ratio": 0.0, "decay_factor": 0.5, "plateau_patience": 1},
        ),
    ],
)
def test_plain_values_show_the_usual_ones_too(chosen: dict[str, Any], usual: dict[str, float]) -> None:
    plain = Hyperparameters(**{"schedule": "constant"} | chosen).to_mapping()
    assert {name: plain[name] for name in APPLIES_TO if name in plain} == usual


@given(hyperparameters())
def test_plain_values_leave_out_what_does_not_apply(given_: Hyperparameters) -> None:
    plain = given_.to_mapping()
    for name, (other, fitting) in APPLIES_TO.items():
        assert name not in plain or plain[other] in fitting


@pytest.mark.parametrize("name", APPLIES_TO)
def test_a_field_where_it_means_nothing_is_refused(name: str) -> None:
    other, usual = APPLIES_TO[name]
    fitting = list(usual)
    wrong = next(choice for choice in NAMES[other] if choice not in fitting)
    value = OTHER_VALUES.get(name, 0.5)
    with pytest.raises(ConfigurationError) as error:
        read_model(Hyperparameters, {name: value, other: wrong}, "trial")
    assert str(error.value) == (
        f"trial: {name!r} is {value!r}, but it applies only where {other!r} is {' or '.join(fitting)}, and here it is "
        f"{wrong}; leave it out, or put it under `when: {{{other}: [{', '.join(fitting)}]}}`."
    )
    for chosen in fitting:
        assert getattr(Hyperparameters(**{name: value, other: chosen}), name) == value


@pytest.mark.parametrize("name", APPLIES_TO)
def test_a_field_has_its_usual_value_where_it_applies_and_none_elsewhere(name: str) -> None:
    other, usual = APPLIES_TO[name]
    for value in NAMES[other]:
        assert getattr(Hyperparameters(**{other: value}), name) == usual.get(value)


# Optimizer -> torch's class, and what torch calls our fields, where it is not by the same name.
OF_TORCH: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, str]]] = {
    "adam": (torch.optim.Adam, {"epsilon": "eps"}),
    "adamw": (torch.optim.AdamW, {"epsilon": "eps"}),
    "nadam": (torch.optim.NAdam, {"epsilon": "eps"}),
    "radam": (torch.optim.RAdam, {"epsilon": "eps"}),
    "adamax": (torch.optim.Adamax, {"epsilon": "eps"}),
    "adagrad": (torch.optim.Adagrad, {"epsilon": "eps"}),
    "adadelta": (torch.optim.Adadelta, {"epsilon": "eps"}),
    "rmsprop": (torch.optim.RMSprop, {"epsilon": "eps"}),
    "adafactor": (torch.optim.Adafactor, {"decay_rate": "beta2_decay", "clip_threshold": "d"}),
    "muon": (torch.optim.Muon, {"newton_schulz_steps": "ns_steps"}),
}


@pytest.mark.parametrize("name", OF_TORCH)
def test_the_usual_values_are_those_of_torch(name: str) -> None:
    kind, called = OF_TORCH[name]
    theirs = dict(kind([torch.nn.Parameter(torch.zeros(2, 2))]).defaults)
    theirs["beta1"], theirs["beta2"] = theirs.get("betas", (None, None))
    fields = {field for field, (other, where) in APPLIES_TO.items() if other == "optimizer" and name in where}
    # Muon has them for what it leaves to AdamW.
    fields -= {"beta1", "beta2", "epsilon"} if name == "muon" else set()
    usual = Hyperparameters(optimizer=name)
    assert {field: getattr(usual, field) for field in fields} == {
        field: theirs[called.get(field, field)] for field in fields
    }


def test_the_usual_momentum_is_not_torchs_which_is_none() -> None:
    assert Hyperparameters(optimizer="momentum").momentum == Hyperparameters(optimizer="nesterov").momentum == 0.9


@pytest.mark.parametrize("optimizer", NAMES["optimizer"])
def test_the_usual_forms_follow_the_optimizer(optimizer: str) -> None:
    usual = Hyperparameters(optimizer=optimizer)
    averages = optimizer == "schedule_free_adamw"
    decoupled = optimizer in ("adamw", "adafactor", "lion", "muon") or averages
    assert usual.schedule == ("constant" if averages else "linear")
    assert usual.l1_form == ("penalty" if averages else "proximal")
    assert usual.l2_form == ("decoupled" if decoupled else "coupled")


# Fields of the refusal -> values that it is for, what is said of them, and values beside them that can be.
REFUSED: dict[tuple[str, ...], tuple[dict[str, Any], str, list[dict[str, Any]]]] = {
    ("optimizer", "schedule"): (
        {"optimizer": "schedule_free_adamw", "schedule": "cosine"},
        "'optimizer' is schedule_free_adamw, 'schedule' is cosine: it averages its weights in place of a falling rate, "
        "so its schedule must be constant; put `schedule` under a `when` of the other optimizers.",
        [{"optimizer": "schedule_free_adamw", "schedule": "constant"}, {"optimizer": "adam", "schedule": "cosine"}],
    ),
    ("optimizer", "l1_strength", "l1_form"): (
        {"optimizer": "schedule_free_adamw", "l1_strength": 1e-6, "l1_form": "proximal"},
        "'optimizer' is schedule_free_adamw, 'l1_strength' is 1e-06, 'l1_form' is proximal: its weights are an "
        "average, which keeps no exact zeros; take `l1_form: penalty`, or another optimizer.",
        [
            {"optimizer": "schedule_free_adamw", "l1_strength": 0.0, "l1_form": "proximal"},
            {"optimizer": "schedule_free_adamw", "l1_strength": 1e-6, "l1_form": "penalty"},
            {"optimizer": "adamw", "l1_strength": 1e-6, "l1_form": "proximal"},
        ],
    ),
    ("optimizer", "beta1"): (
        {"optimizer": "schedule_free_adamw", "beta1": 0.0},
        "'optimizer' is schedule_free_adamw, 'beta1' is 0.0: its average is read off weights that lie between it and "
        "the last ones; give a `beta1` above 0.",
        [{"optimizer": "schedule_free_adamw", "beta1": 0.1}, {"optimizer": "adam", "beta1": 0.0}],
    ),
    ("schedule", "final_rate_ratio"): (
        {"schedule": "exponential", "final_rate_ratio": 0.0},
        "'schedule' is exponential, 'final_rate_ratio' is 0.0: such a rate never reaches zero; give a "
        "`final_rate_ratio` above 0.",
        [{"schedule": "exponential", "final_rate_ratio": 1e-9}, {"schedule": "linear", "final_rate_ratio": 0.0}],
    ),
    ("method", "trained_layers", "kept_layers"): (
        {"method": "top_layers", "trained_layers": 4, "kept_layers": 3},
        "'method' is top_layers, 'trained_layers' is 4, 'kept_layers' is 3: no more layers can be trained than are "
        "kept; lower `trained_layers`, or raise `kept_layers`.",
        [{"method": "top_layers", "trained_layers": 3, "kept_layers": 3}, {"method": "full", "kept_layers": 1}],
    ),
    ("method", "regularize_towards"): (
        {"method": "lora", "regularize_towards": "pretrained"},
        "'method' is lora, 'regularize_towards' is pretrained: an adapter begins at no change, so L1 and L2 towards "
        "zero pull to the pretrained weights already; take `regularize_towards: zero`, or put it under a `when` of the "
        "other methods.",
        [{"method": "lora"}, {"method": "head", "regularize_towards": "pretrained"}],
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: "-".join(refusal.fields))
def test_values_that_cannot_be_together_are_refused_and_their_neighbours_not(refusal: Refusal) -> None:
    values, said, neighbours = REFUSED[refusal.fields]
    with pytest.raises(ConfigurationError) as error:
        read_model(Hyperparameters, values, "trial")
    assert str(error.value) == f"trial: {said}"
    for neighbour in neighbours:
        assert Hyperparameters(**neighbour)


def test_inverse_sqrt_reaches_no_zero_either() -> None:
    with pytest.raises(ConfigurationError, match="such a rate never reaches zero"):
        read_model(Hyperparameters, {"schedule": "inverse_sqrt", "final_rate_ratio": 0.0}, "trial")


def test_every_own_field_of_an_optimizer_is_known() -> None:
    assert set(own_fields) == set(APPLIES_TO) <= set(Hyperparameters.model_fields)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rat": 1e-4}, "trial: unknown key 'learning_rat'. Did you mean 'learning_rate'?"),
        ({"learning_rate": 0}, "trial: 'learning_rate' is 0, but it should be greater than 0."),
        ({"learning_rate": float("inf")}, "trial: 'learning_rate' is inf, but it should be a finite number."),
        ({"learning_rate": float("nan")}, "trial: 'learning_rate' is nan, but it should be"),
        ({"warmup_ratio": 1}, "trial: 'warmup_ratio' is 1, but it should be less than 1."),
        ({"optimizer": "adamww", "momentum": 0.9}, "trial: 'optimizer' cannot be 'adamww'. Did you mean 'adamw'?"),
        ({"optimizer": ["adamw"]}, "trial: 'optimizer' cannot be ['adamw']."),
        ({"optimizer": "adamww"}, "trial: 'optimizer' cannot be 'adamww'. Did you mean 'adamw'?"),
        ({"epochs": 2.5}, "trial: 'epochs' is 2.5, but it should be a valid integer"),
        ({"decay_rate": 0.1, "optimizer": "adafactor"}, "trial: 'decay_rate' is 0.1, but it should be less than 0."),
        ({"data_fraction": 0}, "trial: 'data_fraction' is 0, but it should be greater than 0."),
        ({"layerwise_rate_decay": 1.1}, "trial: 'layerwise_rate_decay' is 1.1, but it should be less than or equal"),
        ({"class_weights": "equall"}, "trial: 'class_weights' cannot be 'equall'. Did you mean 'equal'?"),
        ({"lora_rank": 0, "method": "lora"}, "trial: 'lora_rank' is 0, but it should be greater than or equal to 1."),
        ({"lora_alpha": 0, "method": "lora"}, "trial: 'lora_alpha' is 0, but it should be greater than 0."),
        ({"lora_dropout": 1, "method": "lora"}, "trial: 'lora_dropout' is 1, but it should be less than 1."),
        ({"lora_scaling": "rs", "method": "lora"}, "trial: 'lora_scaling' cannot be 'rs'. Known: rslora, standard."),
        ({"lora_targets": 3, "method": "lora"}, "trial: 'lora_targets' is 3, but it should be a valid string."),
        ({"seed": 2**31}, "trial: 'seed' is 2147483648, but it should be less than 2147483648."),
    ],
)
def test_a_value_that_cannot_be_is_told_in_one_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_model(Hyperparameters, values, "trial")
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given_", "read"),
    [
        (["q_proj", "v_proj"], "q_proj,v_proj"),
        (["all-linear"], "all-linear"),
        ("q_proj, v_proj", "q_proj,v_proj"),
        ("layers.0.self_attn.q_proj", "layers.0.self_attn.q_proj"),
    ],
)
def test_targets_of_lora_are_one_text_however_they_are_listed(given_: object, read: str) -> None:
    assert Hyperparameters(method="lora", lora_targets=given_).lora_targets == read


@pytest.mark.parametrize("targets", [".*proj", "", [], ["all-linear", "q_proj"], "attention,mlp", "q_proj,,v_proj"])
def test_targets_that_are_no_names_are_refused_in_a_sentence(targets: object) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_model(Hyperparameters, {"method": "lora", "lora_targets": targets}, "trial")
    assert str(error.value) == (
        f"trial: 'lora_targets' is {targets!r}, but must be one of all-linear, attention, mlp, or names of modules "
        "such as q_proj,v_proj; give no regular expression."
    )


def test_hyperparameters_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Hyperparameters().epochs = 4  # type: ignore[misc]


def test_lora_has_a_rate_of_its_own_where_none_is_given() -> None:
    assert Hyperparameters().learning_rate == Hyperparameters(method="head").learning_rate == 3e-5
    assert Hyperparameters(method="lora").learning_rate == resolved("learning_rate", {"method": "lora"}) == 2e-4
    assert Hyperparameters(method="lora", learning_rate=1e-3).learning_rate == 1e-3
    space = SearchSpace.from_mapping({"lora_r": {"values": [4, 8]}}, "mine")
    assert space.hyperparameters(space.default_values()).learning_rate == 2e-4
