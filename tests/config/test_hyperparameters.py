"""One trial's values: every combination that can be is carried unchanged, every other is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters
from hpo.config.reading import parse_yaml, read_model, write_yaml
from hpo.errors import ConfigurationError

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop")
own_fields = {
    "trained_layers": st.integers(1, 24),
    "momentum": st.floats(0, 0.999),
    "beta1": st.floats(0, 0.999),
    "beta2": st.floats(0, 0.9999),
    "alpha": st.floats(0, 0.999),
    "epsilon": st.floats(1e-12, 1e-3),
    "decay_every": st.floats(0.01, 1),
    "decay_factor": st.floats(0.01, 1),
}


@st.composite
def hyperparameters(draw: st.DrawFn) -> Hyperparameters:
    values: dict[str, Any] = {
        "method": draw(st.sampled_from(("full", "top_layers", "head"))),
        "optimizer": draw(st.sampled_from(OPTIMIZERS)),
        "schedule": draw(st.sampled_from(("constant", "linear", "cosine", "step"))),
        "learning_rate": draw(st.floats(1e-9, 10)),
        "dropout": draw(st.none() | st.floats(0, 0.99)),
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
        ({"optimizer": "sgd", "schedule": "step"}, {"decay_every": 1 / 3, "decay_factor": 0.1}),
        ({"optimizer": "sgd", "method": "top_layers"}, {"trained_layers": 2}),
        ({"optimizer": "momentum", "momentum": None}, {"momentum": 0.9}),
        ({"optimizer": "momentum", "momentum": 0.0}, {"momentum": 0.0}),
    ],
)
def test_plain_values_show_the_usual_ones_too(chosen: dict[str, Any], usual: dict[str, float]) -> None:
    plain = Hyperparameters(**chosen).to_mapping()
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
    wrong = {"method": "full", "optimizer": "sgd", "schedule": "linear"}[other]
    value = {"trained_layers": 2}.get(name, 0.5)
    with pytest.raises(ConfigurationError) as error:
        read_model(Hyperparameters, {name: value, other: wrong}, "trial")
    assert str(error.value) == (
        f"trial: {name!r} is {value}, but it applies only where {other!r} is {' or '.join(fitting)}, and here it is "
        f"{wrong}; leave it out, or put it under `when: {{{other}: [{', '.join(fitting)}]}}`."
    )
    assert getattr(Hyperparameters(**{name: value, other: next(iter(fitting))}), name) == value


@pytest.mark.parametrize("name", APPLIES_TO)
def test_a_field_has_its_usual_value_where_it_applies_and_none_elsewhere(name: str) -> None:
    other, usual = APPLIES_TO[name]
    chosen = {"method": ("full", "top_layers", "head"), "optimizer": OPTIMIZERS, "schedule": ("linear", "step")}[other]
    for value in chosen:
        assert getattr(Hyperparameters(**{other: value}), name) == usual.get(value)


def test_the_usual_values_are_those_of_torch() -> None:
    """The defaults that torch documents, but for momentum, which torch leaves at none."""
    adamw, rmsprop = Hyperparameters(optimizer="adamw"), Hyperparameters(optimizer="rmsprop")
    assert (adamw.beta1, adamw.beta2, adamw.epsilon) == (0.9, 0.999, 1e-8)
    assert (rmsprop.alpha, rmsprop.epsilon, rmsprop.momentum) == (0.99, 1e-8, 0.0)
    assert Hyperparameters(optimizer="momentum").momentum == 0.9


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
        ({"seed": 2**31}, "trial: 'seed' is 2147483648, but it should be less than 2147483648."),
    ],
)
def test_a_value_that_cannot_be_is_told_in_one_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_model(Hyperparameters, values, "trial")
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_hyperparameters_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Hyperparameters().epochs = 4  # type: ignore[misc]
