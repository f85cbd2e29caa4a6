"""A space reads back equal, samples only valid configurations, and keeps its three forms of one apart."""

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.reading import parse_yaml, write_yaml
from hpo.errors import ConfigurationError, SpaceError
from hpo.space.search_space import Row, SearchSpace

OPTIMIZERS = ["adam", "adamw", "momentum", "rmsprop", "sgd"]


def space(text: str) -> SearchSpace:
    return SearchSpace.from_mapping(parse_yaml(text, "the test"), name="s")


def random_trial(seed: int) -> optuna.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


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


# Random spaces

FRACTIONS = st.floats(0, 0.99)
BOUNDS = st.tuples(FRACTIONS, FRACTIONS).map(sorted).filter(lambda ends: ends[0] < ends[1])
WHOLE_BOUNDS = st.tuples(st.integers(4, 50), st.integers(51, 99))


@st.composite
def real_specs(draw: st.DrawFn) -> dict[str, Any]:
    low, high = draw(BOUNDS)
    kind = draw(st.sampled_from(["value", "values", "uniform", "log_uniform_values", "q_uniform", "unnamed"]))
    match kind:
        case "value":
            return {"value": low}
        case "values":
            return {"values": draw(st.permutations([low, high, 0.995]))}
        case "log_uniform_values":
            return {"distribution": kind, "min": low + 1e-6, "max": high + 1e-3}
        case "q_uniform":
            return {
                "distribution": kind,
                "min": 0.1,
                "max": 0.9,
                "q": draw(st.sampled_from([0.05, 0.1, 0.2, 0.4, 0.8])),
            }
        case "uniform":
            return {"distribution": kind, "min": low, "max": high, "default": high}
    return {"min": low, "max": high}


@st.composite
def whole_specs(draw: st.DrawFn) -> dict[str, Any]:
    low, high = draw(WHOLE_BOUNDS)
    return draw(
        st.sampled_from(
            [
                {"value": low},
                {"values": [high, low]},
                {"min": low, "max": high},
                {"min": low, "max": high, "default": high},
                {"distribution": "q_uniform", "min": low, "max": low + 3 * high, "q": high},
            ]
        )
    )


def name_specs(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    chosen = st.lists(st.sampled_from(names), min_size=1, unique=True)
    return st.one_of(
        st.sampled_from(names).map(lambda name: {"value": name}), chosen.map(lambda some: {"values": some})
    )


@st.composite
def mappings(draw: st.DrawFn) -> dict[str, Any]:
    """A space of random parameters in random order, some under random conditions on an earlier one."""
    names = {"optimizer": name_specs(OPTIMIZERS), "schedule": name_specs(["constant", "linear", "cosine"])}
    reals = ["dropout", "warmup_ratio", "l2_strength", "l1_strength", "label_smoothing"]
    known = names | dict.fromkeys(reals, real_specs()) | dict.fromkeys(["epochs", "batch_size"], whole_specs())
    specs = {name: dict(draw(known[name])) for name in draw(st.lists(st.sampled_from(list(known)), unique=True))}
    for index, name in enumerate(specs):
        parents = [one for one in list(specs)[:index] if one in (*names, "epochs")]
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            specs[name]["when"] = {parent: [_first(specs[parent])]}
    factors = dict.fromkeys(OPTIMIZERS, 3e-5) | {"sgd": 1e-2}
    specs["learning_rate"] = draw(
        st.sampled_from([{"min": 1e-6, "max": 1e-3}, {"min": 0.1, "max": 9, "relative_to": factors}])
    )
    return {name: specs[name] for name in draw(st.permutations(list(specs)))}


def _first(spec: dict[str, Any]) -> Any:
    return spec.get("value", spec.get("values", [spec.get("min")])[0])


@given(mapping=mappings())
def test_written_and_read_back_it_is_equal_through_yaml_too(mapping: dict[str, Any]) -> None:
    first = SearchSpace.from_mapping(mapping, name="s")
    written = first.to_mapping()
    assert SearchSpace.from_mapping(written, name="s") == first
    again = parse_yaml(write_yaml(written), "the test")
    assert again == written
    assert SearchSpace.from_mapping(again, name="s").to_mapping() == written


@given(mapping=mappings(), seed=st.integers(0, 2**31))
def test_what_is_suggested_is_valid_and_is_found_again_from_what_optuna_holds(
    mapping: dict[str, Any], seed: int
) -> None:
    random_space, trial = SearchSpace.from_mapping(mapping, name="s"), random_trial(seed)
    values = random_space.suggest(trial)
    assert random_space.sampled(values) == trial.params
    assert random_space.from_sampled(trial.params) == values
    trained = random_space.hyperparameters(values)
    for name in values.keys() - {"learning_rate"}:
        assert getattr(trained, name) == values[name]
    for name in ("epochs", "batch_size", "dropout", "l2_strength", "learning_rate"):
        if getattr(trained, name) is not None:
            assert getattr(trained, name) <= random_space.largest(name) * (1 + 1e-12)


@given(mapping=mappings())
def test_the_default_configuration_is_one_that_optuna_takes_as_it_is(mapping: dict[str, Any]) -> None:
    random_space = SearchSpace.from_mapping(mapping, name="s")
    values = random_space.default_values()
    study = optuna.create_study()
    study.enqueue_trial(random_space.sampled(values))
    assert random_space.suggest(study.ask()) == values
    assert random_space.hyperparameters(values)


@given(mapping=mappings())
def test_parents_come_before_their_children(mapping: dict[str, Any]) -> None:
    seen: list[str] = []
    for parameter in SearchSpace.from_mapping(mapping, name="s").parameters:
        assert all(condition.parent in seen for condition in parameter.when)
        seen.append(parameter.name)


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


# What Optuna holds


def test_a_trial_without_a_parameter_of_this_space_is_refused() -> None:
    with pytest.raises(SpaceError, match="samples 'learning_rate_multiplier' here, but the trial has no such"):
        NESTED.from_sampled({"optimizer": "adamw", "learning_rate": 3e-5, "method": "full"})


def test_a_trial_with_a_parameter_that_is_inactive_here_is_refused() -> None:
    params = NESTED.sampled(NESTED.default_values()) | {"momentum": 0.9}
    with pytest.raises(SpaceError, match="has the parameter 'momentum', which space s does not sample here"):
        NESTED.from_sampled(params)


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


def test_rows_show_values_conditions_and_defaults() -> None:
    rows = {row.name: row for row in NESTED.rows()}
    assert rows["decay_factor"] == Row(
        name="decay_factor",
        values="0.1 … 0.9, uniform",
        condition="schedule is step and momentum is 0.8 or 0.9",
        default="0.1",
    )
    assert rows["learning_rate"].values == (
        "0.1 … 10, log-uniform, times 3e-05 (adamw), 0.003 (momentum) × 1 (full), 30 (head)"
    )
    assert (rows["max_length"].values, rows["max_length"].condition, rows["max_length"].default) == ("64", "", "64")
