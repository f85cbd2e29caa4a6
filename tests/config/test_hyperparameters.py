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
def test_plain_values_leave_out_what_does_not_apply(given_: Hyperparameters) -> None:
    plain = given_.to_mapping()
    for name, (other, fitting) in APPLIES_TO.items():
        assert name not in plain or plain[other] in fitting


@pytest.mark.parametrize("name", APPLIES_TO)
def test_a_field_where_it_means_nothing_is_refused(name: str) -> None:
    other, fitting = APPLIES_TO[name]
    wrong = {"method": "full", "optimizer": "sgd", "schedule": "linear"}[other]
    value = {"trained_layers": 2}.get(name, 0.5)
    with pytest.raises(ConfigurationError) as error:
        read_model(Hyperparameters, {name: value, other: wrong}, "trial")
    assert str(error.value) == (
        f"trial: {name!r} is {value}, but it applies only where {other!r} is {' or '.join(fitting)}, and here it is "
        f"{wrong}; leave it out, or put it under `when: {{{other}: [{', '.join(fitting)}]}}`."
    )
    assert getattr(Hyperparameters(**{name: value, other: fitting[0]}), name) == value


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
