"""Random spaces over every hyperparameter: all kinds of values, conditions, relative rates; each can be trained."""

import math
from typing import Any, get_args

import optuna
from hypothesis import strategies as st

from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters, MethodName, OptimizerName, ScheduleName
from hpo.space.specs import read_domain

Spec = dict[str, Any]

RELATIVE = {
    "learning_rate": {
        "relative_to": {"optimizer": {"adamw": 3e-5, "momentum": 1e-2}, "method": {"full": 1, "head": 10}},
        "distribution": "log_uniform_values",
        "min": 0.03,
        "max": 30,
    },
    "optimizer": {"values": ["adamw", "momentum"]},
    "momentum": {"min": 0.5, "max": 0.99, "when": {"optimizer": ["momentum"]}},
    "method": {"values": ["full", "head"]},
    "dropout": {"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.05, "default": 0.1},
    "batch_size": {"value": 16},
    "epochs": {"min": 1, "max": 3, "default": 2},
}
"""A rate relative to optimizer and method, a condition, a grid, a constant."""

NAMES = {
    "optimizer": get_args(OptimizerName),
    "method": get_args(MethodName),
    "schedule": get_args(ScheduleName),
    "l1_form": ("penalty", "proximal"),
    "l2_form": ("coupled", "decoupled"),
    "regularize_towards": ("zero", "pretrained"),
    "class_weights": ("equal", "balanced"),
    "lora_targets": ("all-linear", "attention", "q_proj,v_proj"),
    "lora_scaling": ("standard", "rslora"),
}
# The ends never meet what cannot be together: no rate falls to zero, no more layers are trained than kept.
WHOLE = {
    "trained_layers": (1, 4), "kept_layers": (4, 12), "newton_schulz_steps": (1, 20), "cycles": (1, 5),
    "plateau_patience": (0, 4), "batch_size": (1, 64), "epochs": (1, 9), "max_length": (4, 128),
    "early_stopping_patience": (1, 5), "seed": (0, 99), "lora_rank": (1, 64),
}  # fmt: skip
REAL = {
    "layerwise_rate_decay": (0.5, 1.0), "head_rate": (1.0, 30.0), "head_scale": (0.01, 0.2), "momentum": (0.0, 0.98),
    "beta1": (0.1, 0.98), "beta2": (0.5, 0.999),
    "alpha": (0.5, 0.99), "rho": (0.5, 0.99), "epsilon": (1e-10, 0.9), "momentum_decay": (0.0, 0.1),
    "decay_rate": (-1.0, -0.1), "clip_threshold": (1.0, 5.0), "warmup_ratio": (0.0, 0.5),
    "final_rate_ratio": (0.01, 1.0), "initial_rate_ratio": (0.0, 1.0), "power": (0.5, 4.0), "decay_every": (0.1, 1.0),
    "decay_factor": (0.1, 1.0), "decay_fraction": (0.1, 1.0), "l1_strength": (0.0, 0.1), "l2_strength": (0.0, 0.2),
    "max_grad_norm": (0.1, 9.0), "dropout": (0.0, 0.9), "attention_dropout": (0.0, 0.9), "label_smoothing": (0.0, 0.9),
    "token_masking": (0.0, 0.9), "word_swap": (0.0, 0.9), "data_fraction": (0.1, 1.0), "lora_alpha": (1.0, 64.0),
    "lora_dropout": (0.0, 0.9),
}  # fmt: skip
# What others depend on comes before them, so that no condition goes round in a circle.
DECIDING = ("optimizer", "method", "schedule")
BASE_RATES = {
    "optimizer": {name: 1e-5 * 3**index for index, name in enumerate(NAMES["optimizer"])},
    "method": {"full": 1.0, "top_layers": 2.0, "head": 30.0, "lora": 10.0},
}


def random_trial(seed: int) -> optuna.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


@st.composite
def name_specs(draw: st.DrawFn, names: tuple[str, ...]) -> Spec:
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    return {"value": chosen[0]} if draw(st.booleans()) else {"values": chosen}


@st.composite
def whole_specs(draw: st.DrawFn, ends: tuple[int, int]) -> Spec:
    low, high = sorted(draw(st.lists(st.integers(*ends), min_size=2, max_size=2, unique=True)))
    step = draw(st.integers(1, high - low))
    grid = {"distribution": "q_uniform", "min": low, "max": low + (high - low) // step * step, "q": step}
    span = {"min": low, "max": high}
    return draw(st.sampled_from([{"value": low}, {"values": [high, low]}, span, span | {"default": high}, grid]))


@st.composite
def real_specs(draw: st.DrawFn, ends: tuple[float, float], *, counted: bool) -> Spec:
    low, high = sorted(draw(st.lists(st.floats(*ends), min_size=2, max_size=2, unique=True)))
    first, last = sorted(draw(st.lists(st.integers(*_hundredths(ends)), min_size=2, max_size=2, unique=True)))
    step = draw(st.integers(1, last - first))
    last = first + (last - first) // step * step
    some = [
        {"value": low},
        {"values": [high, low]},
        {"distribution": "q_uniform", "min": first / 100, "max": last / 100, "q": step / 100},
    ]
    span = {"distribution": "uniform", "min": low, "max": high}
    some += [] if counted else [span, span | {"default": high}]
    some += [{"distribution": "log_uniform_values", "min": low, "max": high}] if low > 0 and not counted else []
    return dict(draw(st.sampled_from(some)))


def _hundredths(ends: tuple[float, float]) -> tuple[int, int]:
    return math.ceil(ends[0] * 100), math.floor(ends[1] * 100)


# Rates of the optimizers for each method, by no single factor.
OWN_RATES = {
    "method": {
        method: {name: rate * 2**place for name, rate in BASE_RATES["optimizer"].items()}
        for place, method in enumerate(NAMES["method"])
    }
}


def rate_specs() -> st.SearchStrategy[Spec]:
    tables = st.sampled_from([BASE_RATES, BASE_RATES["optimizer"], {"method": BASE_RATES["method"]}, OWN_RATES])
    spans = st.sampled_from([{"min": 0.1, "max": 10.0}, {"distribution": "log_uniform_values", "min": 0.1, "max": 9.0}])
    relative = st.tuples(spans, tables).map(lambda two: two[0] | {"relative_to": two[1]})
    return st.one_of(relative, st.just({"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-3}))


def counted_rate_specs() -> st.SearchStrategy[Spec]:
    relative = [{"values": [0.5, 2.0], "relative_to": table} for table in (BASE_RATES, OWN_RATES)]
    return st.sampled_from([*relative, {"values": [1e-5, 3e-5, 1e-4]}])


def known_specs(*, counted: bool) -> dict[str, st.SearchStrategy[Spec]]:
    return (
        {name: name_specs(names) for name, names in NAMES.items()}
        | {name: whole_specs(ends) for name, ends in WHOLE.items()}
        | {name: real_specs(ends, counted=counted) for name, ends in REAL.items()}
        | {"learning_rate": counted_rate_specs() if counted else rate_specs()}
    )


@st.composite
def mappings(draw: st.DrawFn, *, counted: bool = False, largest: int = 12) -> dict[str, Spec]:
    """A space of random parameters in random order, under the conditions that they need and some that they do not.

    With `counted` no parameter takes any number of a range.
    """
    known = known_specs(counted=counted)
    chosen = draw(st.lists(st.sampled_from(list(known)), unique=True, min_size=1, max_size=largest))
    ordered = [name for name in DECIDING if name in chosen] + [name for name in chosen if name not in DECIDING]
    specs = {name: dict(draw(known[name])) for name in ordered}
    _free_schedules(specs)
    _adapted_towards_zero(specs)
    for name in APPLIES_TO.keys() & specs.keys():
        _only_where_it_applies(name, specs)
    if not specs:
        specs["epochs"] = {"value": 1}
    for index, name in enumerate(specs):
        if draw(st.booleans()):
            _under_some_condition(draw, name, list(specs)[:index], specs)
        if draw(st.booleans()):
            specs[name]["source"] = "a paper"
    return {name: specs[name] for name in draw(st.permutations(list(specs)))}


def values_of(spec: Spec) -> list[Any]:
    return [spec["value"]] if "value" in spec else list(spec["values"])


def _free_schedules(specs: dict[str, Spec]) -> None:
    """Give schedule-free AdamW neither a schedule nor exact zeros."""
    optimizers = values_of(specs.get("optimizer", {"value": "adamw"}))
    if "schedule_free_adamw" not in optimizers:
        return
    others = [name for name in optimizers if name != "schedule_free_adamw"]
    for name, alone in (("schedule", "constant"), ("l1_form", "penalty")):
        if name in specs:
            specs[name] = specs[name] | {"when": {"optimizer": others}} if others else {"value": alone}


def _adapted_towards_zero(specs: dict[str, Spec]) -> None:
    """Pull nothing to the pretrained weights under LoRA."""
    if "regularize_towards" in specs and "lora" in values_of(specs.get("method", {"value": "full"})):
        specs["regularize_towards"] = {"value": "zero"}


def _only_where_it_applies(name: str, specs: dict[str, Spec]) -> None:
    """Put the parameter under the condition that it needs; where that can never hold, take it out."""
    other, fitting = APPLIES_TO[name]
    usual = Hyperparameters().schedule if other == "schedule" else Hyperparameters.model_fields[other].default
    if other in specs:
        specs[name]["when"] = {other: [value for value in values_of(specs[other]) if value in fitting]}
    elif other == "schedule" and "optimizer" in specs:
        optimizers = [value for value in values_of(specs["optimizer"]) if value != "schedule_free_adamw"]
        specs[name]["when"] = {"optimizer": optimizers if usual in fitting else []}
    elif usual not in fitting:
        specs[name]["when"] = {other: []}
    if "when" in specs[name] and not all(specs[name]["when"].values()):
        del specs[name]


def _under_some_condition(draw: st.DrawFn, name: str, before: list[str], specs: dict[str, Spec]) -> None:
    taken = specs[name].get("when", {})
    domains = {one: read_domain(one, specs[one], one) for one in before if one not in taken}
    parents = [one for one, domain in domains.items() if hasattr(domain, "values")]
    if parents:
        parent = draw(st.sampled_from(parents))
        values = list(domains[parent].values())
        specs[name]["when"] = taken | {
            parent: draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True))
        }
