"""Hyperparameters of one trial: everything that decides what is trained, with typed defaults.

A search space names some of these fields; the others keep their defaults. The defaults are the usual ones for
fine-tuning a pretrained encoder with AdamW (Devlin et al. 2019, table 8; Liu et al. 2019, table 10).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, create_model, field_validator, model_validator

from hpo.config.parsing import Typed, read_model
from hpo.errors import ConfigurationError, SpaceError

MethodName = Literal["full", "top_layers", "head", "lora"]
OptimizerName = Literal[
    "sgd", "momentum", "nesterov", "adam", "adamw", "nadam", "radam", "adamax", "adagrad", "adadelta", "adafactor",
    "rmsprop", "lion", "schedule_free_adamw", "muon",
]  # fmt: skip
ScheduleName = Literal[
    "constant", "linear", "polynomial", "exponential", "inverse_sqrt", "cosine", "cosine_restarts", "step", "one_cycle",
    "warmup_stable_decay", "reduce_on_plateau",
]  # fmt: skip
L1Form = Literal["penalty", "proximal"]
L2Form = Literal["coupled", "decoupled"]

Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
OneOrMore = Annotated[int, Field(ge=1)]

LORA_TARGETS = ("all-linear", "attention", "mlp")
"""Groups of modules that LoRA adapts; any other target is a module's name."""

ADAMS = ("adam", "adamw", "nadam", "radam", "adamax", "lion", "schedule_free_adamw", "muon")
"""Optimizers that have two betas."""
FALLING = tuple(name for name in get_args(ScheduleName) if name != "constant")

# Fields that apply only to some values of another field: field -> (other field, value of that -> default of this).
APPLIES_TO: Mapping[str, tuple[str, Mapping[str, float | str]]] = {
    "trained_layers": ("method", {"top_layers": 2}),
    "lora_rank": ("method", {"lora": 16}),
    "lora_alpha": ("method", {"lora": 32.0}),
    "lora_dropout": ("method", {"lora": 0.0}),
    "lora_targets": ("method", {"lora": "all-linear"}),
    "lora_scaling": ("method", {"lora": "standard"}),
    "momentum": ("optimizer", {"momentum": 0.9, "nesterov": 0.9, "rmsprop": 0.0, "muon": 0.95}),
    "beta1": ("optimizer", dict.fromkeys(ADAMS, 0.9)),
    "beta2": ("optimizer", {**dict.fromkeys(ADAMS, 0.999), "lion": 0.99}),
    "alpha": ("optimizer", {"rmsprop": 0.99}),
    "rho": ("optimizer", {"adadelta": 0.9}),
    "epsilon": (
        "optimizer",
        {
            "adam": 1e-8, "adamw": 1e-8, "nadam": 1e-8, "radam": 1e-8, "adamax": 1e-8, "rmsprop": 1e-8,
            "adagrad": 1e-10, "adadelta": 1e-6, "schedule_free_adamw": 1e-8, "muon": 1e-8,
        },
    ),
    "momentum_decay": ("optimizer", {"nadam": 4e-3}),
    "decay_rate": ("optimizer", {"adafactor": -0.8}),
    "clip_threshold": ("optimizer", {"adafactor": 1.0}),
    "newton_schulz_steps": ("optimizer", {"muon": 5}),
    "final_rate_ratio": ("schedule", {**dict.fromkeys(FALLING, 0.0), "exponential": 0.01, "inverse_sqrt": 0.25}),
    "initial_rate_ratio": ("schedule", {"one_cycle": 0.04}),
    "power": ("schedule", {"polynomial": 2.0}),
    "cycles": ("schedule", {"cosine_restarts": 2}),
    "decay_every": ("schedule", {"step": 1 / 3}),
    "decay_factor": ("schedule", {"step": 0.1, "reduce_on_plateau": 0.5}),
    "decay_fraction": ("schedule", {"warmup_stable_decay": 0.2}),
    "plateau_patience": ("schedule", {"reduce_on_plateau": 1}),
}  # fmt: skip

# Fields added after configurations had been stored -> the value that has no effect, as those trials were trained.
ADDED_LATER: Mapping[str, float | None] = {"head_rate": 1.0, "head_scale": None}


def with_later_fields(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with the fields of `ADDED_LATER`, to compare it with a new one; empty if it is."""
    return {**ADDED_LATER, **stored} if stored else {}


def default_learning_rate(values: Mapping[str, Any]) -> float:
    """Return the default learning rate for the method in `values`: AdamW's, or for LoRA that of Hu et al. 2022."""
    return 2e-4 if values.get("method") == "lora" else 3e-5


def default_schedule(values: Mapping[str, Any]) -> ScheduleName:
    """Return the default schedule for the optimizer in `values`."""
    return "constant" if values.get("optimizer") == "schedule_free_adamw" else "linear"


def default_l1_form(values: Mapping[str, Any]) -> L1Form:
    """Return the default form of L1 for the optimizer in `values`."""
    return "penalty" if values.get("optimizer") == "schedule_free_adamw" else "proximal"


def default_l2_form(values: Mapping[str, Any]) -> L2Form:
    """Return the default form of L2 for the optimizer in `values`, as in torch or its paper."""
    decoupled = ("adamw", "adafactor", "lion", "schedule_free_adamw", "muon")
    return "decoupled" if values.get("optimizer") in decoupled else "coupled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A combination of values that cannot be trained."""

    fields: tuple[str, ...]
    """Fields that it depends on."""
    holds: Callable[..., bool]
    """Function that returns true for refused values of `fields`, passed in that order."""
    reason: str
    """Reason that it cannot be trained, and the remedy."""

    def sentence(self, values: Mapping[str, Any]) -> str | None:
        """Return the refused values and the reason; None if `values`, which must contain all `fields`, are valid."""
        if not self.holds(*(values[name] for name in self.fields)):
            return None
        return f"{', '.join(f'{name!r} is {values[name]}' for name in self.fields)}: {self.reason}"


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        fields=("optimizer", "schedule"),
        holds=lambda optimizer, schedule: optimizer == "schedule_free_adamw" and schedule != "constant",
        reason="it averages its weights in place of a falling rate, so its schedule must be constant; put `schedule` "
        "under a `when` of the other optimizers.",
    ),
    Refusal(
        fields=("optimizer", "l1_strength", "l1_form"),
        holds=lambda optimizer, l1, form: optimizer == "schedule_free_adamw" and l1 > 0 and form == "proximal",
        reason="its weights are an average, which keeps no exact zeros; take `l1_form: penalty`, or another optimizer.",
    ),
    Refusal(
        fields=("optimizer", "beta1"),
        holds=lambda optimizer, beta1: optimizer == "schedule_free_adamw" and beta1 == 0,
        reason="its average is read off weights that lie between it and the last ones; give a `beta1` above 0.",
    ),
    Refusal(
        fields=("schedule", "final_rate_ratio"),
        holds=lambda schedule, ratio: schedule in ("exponential", "inverse_sqrt") and ratio == 0,
        reason="such a rate never reaches zero; give a `final_rate_ratio` above 0.",
    ),
    Refusal(
        fields=("method", "trained_layers", "kept_layers"),
        holds=lambda _, trained, kept: trained is not None and kept is not None and trained > kept,
        reason="no more layers can be trained than are kept; lower `trained_layers`, or raise `kept_layers`.",
    ),
    Refusal(
        fields=("method", "regularize_towards"),
        holds=lambda method, towards: method == "lora" and towards == "pretrained",
        reason="an adapter begins at no change, so L1 and L2 towards zero pull to the pretrained weights already; take "
        "`regularize_towards: zero`, or put it under a `when` of the other methods.",
    ),
)


def _joined(targets: object) -> object:
    """Return targets of LoRA as one text, whether they are a text or a list of names."""
    if not isinstance(targets, str | list | tuple):
        return targets
    names = [str(name).strip() for name in (targets.split(",") if isinstance(targets, str) else targets)]
    grouped = [name for name in names if name in LORA_TARGETS]
    if not names or (grouped and len(names) > 1) or not all(re.fullmatch(r"[\w.-]+", name) for name in names):
        raise ValueError(
            f"'lora_targets' is {targets!r}, but must be one of {', '.join(LORA_TARGETS)}, or names of modules such as "
            "q_proj,v_proj; give no regular expression."
        )
    return ",".join(names)


class Hyperparameters(Typed):
    """The values that a trial is trained with. A field of `APPLIES_TO` is None exactly where it does not apply."""

    # So that a field that is not given is filled in too.
    model_config = ConfigDict(validate_default=True)

    method: MethodName = "full"
    """Which weights are trained: `full` all, `top_layers` the top transformer layers and the head, `head` the head
    alone, `lora` low-rank adapters and the head."""
    trained_layers: OneOrMore | None = None
    """Number of transformer layers that `top_layers` trains, counted from the head."""
    lora_rank: OneOrMore | None = None
    """Rank of the adapter of each weight matrix (Hu et al. 2022)."""
    lora_alpha: Positive | None = None
    """Scale of the adapter, divided as `lora_scaling` says. It does not follow the rank: at a constant alpha of 32 the
    best learning rate hardly depends on the rank (Schulman et al. 2025, "LoRA Without Regret")."""
    lora_dropout: OpenFraction | None = None
    """Dropout of the adapters' inputs (Hu et al. 2022)."""
    lora_targets: Annotated[str, BeforeValidator(_joined)] | None = None
    """Modules that `lora` adapts: `all-linear` (all linear modules of the layers, not the head), `attention` or `mlp`
    among these, or names of modules as a list or separated by commas. `all-linear` does best (Schulman et al. 2025)."""
    lora_scaling: Literal["standard", "rslora"] | None = None
    """Divisor of `lora_alpha`: the rank (Hu et al. 2022), or with `rslora` its square root, which keeps the updates of
    high ranks from vanishing (Kalajdzievski 2023)."""
    kept_layers: OneOrMore | None = None
    """Number of transformer layers that the model keeps, counted from the embeddings; null for all."""

    optimizer: OptimizerName = "adamw"
    """The update rule; `sgd` is plain gradient descent, `momentum` is heavy-ball."""
    learning_rate: Positive = Field(default_factory=default_learning_rate)
    """Peak learning rate, reached at the end of warm-up; if not given 3e-5, and 2e-4 for `lora` (Hu et al. 2022), for
    which the best is about ten times that of a full fine-tune (Schulman et al. 2025)."""
    layerwise_rate_decay: PositiveFraction = 1.0
    """Factor of the learning rate from each layer to the one below it, starting at the head; 1 for the same rate in all
    layers."""
    head_rate: Positive = 1.0
    """Factor of the learning rate of newly initialised weights: the head, and a pooler that was not pretrained (Howard
    and Ruder 2018 give each layer its own rate); 1 for the same rate."""
    head_scale: Positive | None = None
    """Standard deviation of the normal initialisation of new weight matrices. Null for the model's own, such as BERT's
    `initializer_range` of 0.02 (Devlin et al. 2019). Biases are initialised as in transformers, mostly to 0."""
    momentum: OpenFraction | None = None
    """Momentum of `momentum`, `nesterov`, `rmsprop` and `muon`."""
    beta1: OpenFraction | None = None
    """Decay of the first moment of Adam's family and `lion`; interpolation factor of `schedule_free_adamw`."""
    beta2: OpenFraction | None = None
    """Decay of the second moment of Adam's family; for `lion`, decay of the momentum between steps."""
    alpha: OpenFraction | None = None
    """Decay of the squared-gradient average of `rmsprop`."""
    rho: OpenFraction | None = None
    """Decay of both squared averages of `adadelta`."""
    epsilon: Positive | None = None
    """Added to the denominator of Adam's family, `rmsprop`, `adagrad` and `adadelta`."""
    momentum_decay: Annotated[float, Field(ge=0)] | None = None
    """Rate at which the momentum of `nadam` rises to `beta1`; torch's `momentum_decay`."""
    decay_rate: Annotated[float, Field(ge=-1, lt=0)] | None = None
    """Exponent of the step in the second-moment decay of `adafactor`."""
    clip_threshold: Annotated[float, Field(ge=1)] | None = None
    """Root mean square of the update of a matrix above which `adafactor` scales it down."""
    newton_schulz_steps: Annotated[int, Field(ge=1, le=20)] | None = None
    """Newton-Schulz iterations with which `muon` orthogonalises an update."""

    schedule: ScheduleName = Field(default_factory=default_schedule)
    """Shape of the learning rate after warm-up, over the trial's full length. Default: `linear`, or `constant` for
    `schedule_free_adamw`."""
    warmup_ratio: OpenFraction = 0.06
    """Fraction of the optimizer steps over which the learning rate rises to its peak."""
    final_rate_ratio: Fraction | None = None
    """Final (or lowest) learning rate divided by the peak; for every schedule but `constant`."""
    initial_rate_ratio: Fraction | None = None
    """`one_cycle`: initial learning rate divided by the peak."""
    power: Positive | None = None
    """`polynomial`: exponent of the remaining fraction of the trial; 1 is linear."""
    cycles: OneOrMore | None = None
    """`cosine_restarts`: number of cycles."""
    decay_every: PositiveFraction | None = None
    """`step`: fraction of the steps after warm-up between two cuts of the learning rate."""
    decay_factor: PositiveFraction | None = None
    """`step` and `reduce_on_plateau`: factor of the learning rate at each cut."""
    decay_fraction: PositiveFraction | None = None
    """`warmup_stable_decay`: fraction of the steps after warm-up, at the end, over which the learning rate falls."""
    plateau_patience: Annotated[int, Field(ge=0)] | None = None
    """`reduce_on_plateau`: consecutive full evaluations without a better score before a cut."""

    l1_strength: Annotated[float, Field(ge=0)] = 0.0
    """Strength of L1 regularisation; 0 for none."""
    l1_form: L1Form = Field(default_factory=default_l1_form)
    """`penalty` adds L1 to the loss, `proximal` soft-thresholds the weights after each step and gives exact zeros.
    Default: `proximal`, or `penalty` for `schedule_free_adamw`."""
    l2_strength: Annotated[float, Field(ge=0)] = 0.01
    """Strength of L2 regularisation, as `weight_decay` in torch; 0 for none."""
    l2_form: L2Form = Field(default_factory=default_l2_form)
    """`coupled` adds L2 to the gradient, `decoupled` shrinks the weights separately. Default: `decoupled` for `adamw`,
    `adafactor`, `lion`, `schedule_free_adamw` and `muon`, `coupled` for the others, as in torch."""
    regularize_towards: Literal["zero", "pretrained"] = "zero"
    """Target of L1 and L2: zero, or the pretrained weights (L2-SP, Li et al. 2018)."""

    max_grad_norm: Positive | None = 1.0
    """Global gradient norm above which gradients are scaled down; null for no clipping."""
    dropout: OpenFraction | None = None
    """Dropout of every layer that has one, and of the head; null for the model's own values."""
    attention_dropout: OpenFraction | None = None
    """Dropout of the attention weights; null for the value of `dropout`, or else the model's own."""
    label_smoothing: OpenFraction = 0.0
    """Probability mass taken from the true class and spread over all (Szegedy et al. 2016)."""
    class_weights: Literal["equal", "balanced"] = "equal"
    """Weight of each row in the loss: 1, or with `balanced` rows / (classes * rows of its class)."""
    token_masking: OpenFraction = 0.0
    """Probability that a token of a training text is replaced by the mask token, sampled anew in each epoch."""
    word_swap: OpenFraction = 0.0
    """Number of swaps of two random words in a training text, divided by its words; sampled anew in each epoch (EDA,
    Wei and Zou 2019)."""
    data_fraction: PositiveFraction = 1.0
    """Stratified share of the training rows that is trained on. Each share contains every smaller one."""

    batch_size: OneOrMore = 16
    """Examples per optimizer step."""
    epochs: OneOrMore = 3
    """Passes over the training rows."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens to which a text is truncated."""
    early_stopping_patience: OneOrMore | None = None
    """Consecutive full evaluations without a better score after which a trial ends early; null for never."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of initialisation, data order and dropout; null derives it from the study's seed and the trial's number."""

    @field_validator(*APPLIES_TO)
    @classmethod
    def _usual_where_it_applies(cls, value: float | str | None, info: ValidationInfo) -> float | str | None:
        """Fill in the default if the field applies; refuse any value if it does not."""
        assert info.field_name is not None
        other, usual = APPLIES_TO[info.field_name]
        # Absent if the other field is itself invalid: then only that error is reported.
        chosen = info.data.get(other)
        if value is None:
            return usual.get(chosen) if chosen else None
        if chosen and chosen not in usual:
            raise ValueError(
                f"{info.field_name!r} is {value!r}, but it applies only where {other!r} is {' or '.join(usual)}, and "
                f"here it is {chosen}; leave it out, or put it under `when: {{{other}: [{', '.join(usual)}]}}`."
            )
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        """Refuse combinations of values in `REFUSALS`."""
        values = dict(self)
        for refusal in REFUSALS:
            if sentence := refusal.sentence(values):
                raise ValueError(sentence)
        return self

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields that apply, as plain YAML values; `Hyperparameters(**mapping)` is equal to this object."""
        always = {name for name in type(self).model_fields if name not in APPLIES_TO}
        return {name: value for name, value in self.model_dump().items() if value is not None or name in always}


def deciding_field(name: str) -> str | None:
    """Return the field that determines the default of the field `name`; None if the default is a constant."""
    if name in APPLIES_TO:
        return APPLIES_TO[name][0]
    if name == "learning_rate":
        return "method"
    # All other default factories depend on the optimizer only.
    return "optimizer" if Hyperparameters.model_fields[name].default_factory else None


def resolved(name: str, values: Mapping[str, Any]) -> Any:
    """Return the value of the field `name` in a trial with `values` (field -> value): the given one, or the default.

    Equal to what `Hyperparameters` fills in, but also works for values that it would refuse.
    """
    if name in APPLIES_TO:
        other, usual = APPLIES_TO[name]
        given = values.get(name)
        return given if given is not None else usual.get(str(resolved(other, values)))
    if name in values:
        return values[name]
    decider = deciding_field(name)
    decided = {decider: resolved(decider, values)} if decider else {}
    return Hyperparameters.model_fields[name].get_default(call_default_factory=True, validated_data=decided)


def checked_value(name: str, value: Any, source: str) -> Any:
    """Return `value` converted to the type of the field `name` (1 to 1.0 for a float), or raise a `SpaceError`."""
    try:
        return getattr(read_model(_strict_field(name), {name: value}, source), name)
    except ConfigurationError as error:
        raise SpaceError(str(error)) from None


@cache
def _strict_field(name: str) -> type[Typed]:
    """Return a pydantic model with only that field, in strict mode: `"8"` is not 8, and `true` is not 1."""
    field = Hyperparameters.model_fields[name]
    return create_model(name, __base__=_StrictField, **{name: (field.annotation, field)})  # type: ignore[call-overload, no-any-return]


class _StrictField(Typed):
    model_config = ConfigDict(strict=True)
