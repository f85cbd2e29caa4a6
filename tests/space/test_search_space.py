"""Conditions, relative rates, defaults and what Optuna holds, by known answers."""

import pytest

from hpo.cli.tables import print_space
from hpo.config.hyperparameters import Hyperparameters
from hpo.config.parsing import parse_yaml
from hpo.errors import ConfigurationError, SpaceError
from hpo.space.search_space import SearchSpace
from tests.space.random_spaces import random_trial


def space(text: str) -> SearchSpace:
    return SearchSpace.from_mapping(parse_yaml(text, "the test"), name="s")


NESTED = space("""
decay_factor: {min: 0.1, max: 0.9, when: {schedule: [step], momentum: [0.8, 0.9]}}
momentum: {values: [0.8, 0.9, 0.95], when: {optimizer: [momentum]}, default: 0.9}
max_length: {value: 64}
optimizer: {values: [momentum, adamw]}
schedule: {values: [step, linear], when: {optimizer: [momentum]}, default: step}
learning_rate:
  relative_to: {optimizer: {adamw: 3e-5, momentum: 3e-3}, method: {full: 1, head: 30}}
  distribution: log_uniform_values
  min: 0.1
  max: 10.0
method: {values: [full, head]}
""")


# Conditions


def test_a_child_moves_behind_its_parents_and_the_rest_stays_as_written() -> None:
    assert [parameter.name for parameter in NESTED.parameters] == [
        "max_length", "optimizer", "momentum", "schedule", "decay_factor", "learning_rate", "method",
    ]  # fmt: skip


def test_conditions_two_deep_follow_their_grandparent() -> None:
    drawn = [NESTED.suggest(random_trial(seed)) for seed in range(100)]
    active = [values for values in drawn if "decay_factor" in values]
    assert 0 < len(active) < 50
    for values in drawn:
        wanted = values.get("schedule") == "step" and values.get("momentum") in (0.8, 0.9)
        assert ("decay_factor" in values) == wanted
        assert ("momentum" in values) == ("schedule" in values) == (values["optimizer"] == "momentum")


def test_a_condition_may_name_a_constant() -> None:
    fixed = space("{optimizer: {value: momentum}, momentum: {min: 0.8, max: 0.9, when: {optimizer: [momentum]}}}")
    assert fixed.suggest(random_trial(0)).keys() == {"optimizer", "momentum"}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("{optimizer: {value: adamw}, momentum: {value: 0.9, when: {optimizer: [momentum]}}}", {"optimizer": None}),
        (
            "{optimizer: {values: [sgd, momentum]}, l2_form: {value: coupled, when: {optimizer: [sgd, adam]}}}",
            {"optimizer": None, "l2_form": ("sgd",)},
        ),
        (
            "{epochs: {min: 1, max: 3}, batch_size: {value: 8, when: {epochs: [3, 4]}}}",
            {"epochs": None, "batch_size": (3,)},
        ),
        # What depends on a parameter that is left out goes with it, though it stand before it.
        (
            """{epochs: {value: 1, when: {momentum: [0.9]}}, optimizer: {value: sgd},
                momentum: {value: 0.9, when: {optimizer: [momentum]}}, batch_size: {value: 8}}""",
            {"optimizer": None, "batch_size": None},
        ),
        # One of two conditions is enough.
        (
            """{optimizer: {value: sgd}, epochs: {min: 1, max: 3},
                batch_size: {value: 8, when: {epochs: [1], optimizer: [adam]}}}""",
            {"optimizer": None, "epochs": None},
        ),
    ],
)
def test_what_can_never_be_active_is_left_out(text: str, kept: dict[str, tuple[object, ...] | None]) -> None:
    left = space(text)
    assert {one.name: one.when[0].values if one.when else None for one in left.parameters} == kept
    assert SearchSpace.from_mapping(left.to_mapping(), name="s") == left


def test_inactive_parameters_keep_their_typed_defaults() -> None:
    values = {"max_length": 64, "optimizer": "adamw", "learning_rate": 1.0, "method": "full"}
    trained = NESTED.hyperparameters(values)
    assert trained == Hyperparameters(max_length=64, learning_rate=3e-5)


# The learning rate


@pytest.mark.parametrize(
    ("optimizer", "method", "rate"),
    [("adamw", "full", 6e-5), ("momentum", "full", 6e-3), ("adamw", "head", 1.8e-3), ("momentum", "head", 0.18)],
)
def test_the_rate_is_the_multiplier_times_every_factor(optimizer: str, method: str, rate: float) -> None:
    values = {"optimizer": optimizer, "method": method, "learning_rate": 2.0}
    assert NESTED.hyperparameters(values).learning_rate == pytest.approx(rate, rel=1e-12)


def test_an_optimizer_the_space_does_not_name_is_the_typed_default() -> None:
    relative = space("learning_rate: {min: 0.5, max: 2.0, relative_to: {adamw: 1e-4}}")
    assert relative.hyperparameters({"learning_rate": 0.5}).learning_rate == 5e-5


def test_optuna_samples_a_relative_rate_under_a_name_of_its_own() -> None:
    assert "learning_rate_multiplier" in NESTED.sampled(NESTED.default_values())
    plain = space("learning_rate: {min: 1e-5, max: 1e-4}")
    assert plain.sampled(plain.default_values()) == {"learning_rate": 3e-5}


def test_values_the_base_table_does_not_know_are_refused() -> None:
    with pytest.raises(SpaceError, match="gives no rate for optimizer sgd"):
        NESTED.hyperparameters({"optimizer": "sgd", "learning_rate": 1.0})


def test_values_that_no_trial_can_train_under_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="Space s: 'max_length' is 1, but it should be"):
        NESTED.hyperparameters({"max_length": 1})


# The default configuration


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("epochs: {min: 1, max: 9, default: 7}", 7),
        ("epochs: {min: 1, max: 9}", 3),  # typed
        ("epochs: {min: 4, max: 9}", 6),  # typed 3 is outside: the middle
        ("epochs: {value: 5}", 5),
        ("batch_size: {values: [8, 16, 64]}", 16),
        ("batch_size: {values: [64, 8, 32]}", 32),  # typed 16 is not among them: the middle number
        ("optimizer: {values: [sgd, momentum]}", "sgd"),  # typed adamw is not among them: the first
        ("optimizer: {values: [sgd, adamw]}", "adamw"),
        ("max_grad_norm: {values: [0.5, null]}", 0.5),
        ("max_grad_norm: {values: [0.5, null], default: null}", None),
        ("dropout: {values: [null, 0.1]}", None),
        ("dropout: {min: 0.0, max: 0.2}", 0.1),  # no typed default
        ("l2_strength: {distribution: log_uniform_values, min: 1e-6, max: 1e-4}", pytest.approx(1e-5)),
        ("learning_rate: {min: 0.1, max: 9.0, relative_to: {adamw: 3e-5}}", 1.0),
        ("learning_rate: {min: 0.1, max: 9.0, relative_to: {adamw: 3e-5}, default: 2}", 2.0),
        ("learning_rate: {min: 4.0, max: 9.0, relative_to: {adamw: 3e-5}}", 6.5),
        ("learning_rate: {values: [1e-5, 3e-5, 5e-5]}", 3e-5),
        ("beta2: {min: 0.9, max: 0.9999}", 0.999),  # adamw's
        ("epsilon: {distribution: log_uniform_values, min: 1e-9, max: 1e-5}", 1e-8),
    ],
)
def test_the_default_is_given_or_typed_or_the_middle(text: str, default: object) -> None:
    assert list(space(text).default_values().values()) == [default]


@pytest.mark.parametrize(
    ("optimizer", "momentum", "default"),
    [
        ("{values: [momentum, rmsprop]}", "{min: 0.0, max: 0.98, when: {optimizer: [momentum]}}", 0.9),
        ("{values: [rmsprop, momentum]}", "{min: 0.0, max: 0.98, when: {optimizer: [rmsprop]}}", 0.0),
        ("{value: rmsprop}", "{min: 0.0, max: 0.98}", 0.0),
        ("{value: momentum}", "{min: 0.0, max: 0.98}", 0.9),
        ("{value: momentum}", "{min: 0.0, max: 0.5}", 0.25),  # 0.9 is outside: the middle
        ("{value: rmsprop}", "{min: 0.0, max: 0.98, when: {optimizer: [momentum, rmsprop]}}", 0.0),
    ],
)
def test_the_default_of_an_optimizers_own_field_is_its_usual_value(
    optimizer: str, momentum: str, default: float
) -> None:
    own = space(f"{{optimizer: {optimizer}, momentum: {momentum}}}")
    assert {parameter.name: parameter.default for parameter in own.parameters}["momentum"] == default


def test_the_default_configuration_has_active_parameters_only() -> None:
    values = NESTED.default_values()
    assert values == {"max_length": 64, "optimizer": "adamw", "learning_rate": 1.0, "method": "full"}
    assert NESTED.sampled(values) == {"optimizer": "adamw", "learning_rate_multiplier": 1.0, "method": "full"}


# Kinds of numbers


def test_whole_and_broken_numbers_stay_what_they_are() -> None:
    mixed = space("epochs: {min: 1, max: 5}\nmax_grad_norm: {min: 1, max: 5}\ndropout: {min: 0, max: 0.5}")
    values = mixed.suggest(random_trial(1))
    assert [type(values[name]) for name in ("epochs", "max_grad_norm", "dropout")] == [int, int, float]
    assert mixed.to_mapping()["epochs"] == {"distribution": "int_uniform", "min": 1, "max": 5, "default": 3}
    assert type(mixed.to_mapping()["dropout"]["min"]) is float


def test_spellings_of_one_space_are_one_space() -> None:
    short = space("{epochs: {min: 1, max: 5}, learning_rate: {min: 0.5, max: 2.0, relative_to: {adamw: 1}}}")
    long = space("""
    epochs: {distribution: int_uniform, min: 1, max: 5, default: 3}
    learning_rate:
      {distribution: uniform, min: 0.5, max: 2, default: 1, relative_to: {optimizer: {adamw: 1.0}}, when: null}
    """)
    assert short == long
    assert short.to_mapping() == long.to_mapping()


# Largest


@pytest.mark.parametrize(
    ("text", "name", "largest"),
    [
        ("epochs: {min: 1, max: 5}", "epochs", 5),
        ("epochs: {values: [4, 2]}", "epochs", 4),
        ("epochs: {value: 2}", "epochs", 2),
        ("epochs: {distribution: q_uniform, min: 1, max: 5, q: 2}", "epochs", 5),
        ("batch_size: {value: 8}", "epochs", 3),  # typed
        ("{method: {values: [full, head]}, epochs: {value: 2, when: {method: [head]}}}", "epochs", 3),  # typed, if full
        ("max_grad_norm: {values: [0.5, null, 2.0]}", "max_grad_norm", 2.0),
        (
            "{optimizer: {values: [adamw, sgd]}, learning_rate: {min: 0.1, max: 9.0, relative_to: {adamw: 1, sgd: 3}}}",
            "learning_rate",
            27.0,
        ),
    ],
)
def test_the_largest_number_a_hyperparameter_can_be(text: str, name: str, largest: float) -> None:
    assert space(text).largest(name) == largest


def test_what_is_no_number_has_no_largest() -> None:
    with pytest.raises(SpaceError, match="Space s has no largest optimizer: it is not a number there"):
        NESTED.largest("optimizer")
    with pytest.raises(SpaceError, match="Space s has no largest dropout"):
        NESTED.largest("dropout")
    with pytest.raises(SpaceError, match=r"Unknown hyperparameter 'epoch'\. Did you mean 'epochs'"):
        NESTED.largest("epoch")


def test_values_conditions_and_defaults_are_described() -> None:
    shown = {one.name: (one.describe_values(), one.describe_condition(), one.default) for one in NESTED.parameters}
    assert shown["decay_factor"] == ("0.1 … 0.9, uniform", "schedule is step and momentum is 0.8 or 0.9", 0.1)
    assert shown["learning_rate"][0] == (
        "0.1 … 10, log-uniform, times 3e-05 (adamw), 0.003 (momentum) × 1 (full), 30 (head)"
    )
    assert {one.source for one in NESTED.parameters} == {""}
    assert shown["max_length"] == ("64", "", 64)


def test_optimizers_that_share_a_base_rate_are_shown_together() -> None:
    [rate] = space("learning_rate: {min: 0.1, max: 9.0, relative_to: {adamw: 3e-5, sgd: 0.01, adam: 3e-5}}").parameters
    assert rate.describe_values() == "0.1 … 9, uniform, times 3e-05 (adamw, adam), 0.01 (sgd)"


def test_each_method_may_have_rates_of_its_own() -> None:
    own = space("""
    method: {values: [full, lora]}
    optimizer: {values: [adamw, momentum], when: {method: [full]}}
    learning_rate:
      relative_to: {method: {full: {adamw: 3e-5, momentum: 1e-2}, lora: {adamw: 4e-4}}}
      values: [0.5, 2.0]
    """)
    rates = sorted(own.hyperparameters(values).learning_rate for values in own.combinations())
    assert rates == pytest.approx([1.5e-5, 6e-5, 2e-4, 8e-4, 5e-3, 2e-2], rel=1e-12)
    assert (own.size(), own.largest("learning_rate")) == (6, 2e-2)
    [described] = [one.describe_values() for one in own.parameters if one.relative_to]
    assert described == "0.5, 2, times [3e-05 (adamw), 0.01 (momentum)] (full), [0.0004 (adamw)] (lora)"


def test_where_a_range_comes_from_is_shown_and_is_no_part_of_the_search() -> None:
    sourced = space("{epochs: {min: 1, max: 3, source: Devlin et al. 2019}, batch_size: {value: 8}}")
    assert [one.source for one in sourced.parameters] == ["Devlin et al. 2019", ""]
    assert sourced.parameters[0].source == "Devlin et al. 2019"
    silent = space("{epochs: {min: 1, max: 3}, batch_size: {value: 8}}")
    assert sourced == silent
    assert sourced.to_mapping() == silent.to_mapping()


def test_a_table_has_a_column_of_sources_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    print_space(space("{epochs: {min: 1, max: 3, source: Devlin et al. 2019}, batch_size: {value: 8}}"))
    title, head, first, _ = capsys.readouterr().out.splitlines()
    assert title.split() == ["Space", "s"]
    assert head.split() == ["hyperparameter", "values", "only", "when", "default", "source"]
    assert first.endswith("Devlin et al. 2019")
    print_space(NESTED)
    assert "source" not in capsys.readouterr().out
