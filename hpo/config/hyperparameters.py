"""One trial's hyperparameters: everything that decides what is trained, with typed defaults.

A search space names some of these fields; the others keep their defaults. The defaults are the usual ones for
fine-tuning a pretrained encoder with AdamW (Devlin et al. 2019, table 8; Liu et al. 2019, table 10).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from hpo.config.reading import Typed

Method = Literal["full", "top_layers", "head"]
OptimizerName = Literal["sgd", "momentum", "adam", "adamw", "rmsprop"]
L2Form = Literal["coupled", "decoupled"]
ScheduleName = Literal["constant", "linear", "cosine", "step"]

Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(ge=0, lt=1)]

# Fields that mean something only for some values of another: field -> (other field, that value -> the usual one here).
APPLIES_TO: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "trained_layers": ("method", {"top_layers": 2}),
    "momentum": ("optimizer", {"momentum": 0.9, "rmsprop": 0.0}),
    "beta1": ("optimizer", {"adam": 0.9, "adamw": 0.9}),
    "beta2": ("optimizer", {"adam": 0.999, "adamw": 0.999}),
    "alpha": ("optimizer", {"rmsprop": 0.99}),
    "epsilon": ("optimizer", {"adam": 1e-8, "adamw": 1e-8, "rmsprop": 1e-8}),
    "decay_every": ("schedule", {"step": 1 / 3}),
    "decay_factor": ("schedule", {"step": 0.1}),
}


def usual_l2_form(values: dict[str, Any]) -> L2Form:
    """Return the form of L2 that the optimizer among `values` is known by."""
    return "decoupled" if values.get("optimizer") == "adamw" else "coupled"


class Hyperparameters(Typed):
    """The values one trial trains under. A field of `APPLIES_TO` is None where it means nothing, and only there."""

    # So that a field that is not given is filled in too.
    model_config = ConfigDict(validate_default=True)

    method: Method = "full"
    """What is trained: all weights, the top transformer layers and the head, or the head alone."""
    trained_layers: Annotated[int, Field(ge=1)] | None = None
    """How many transformer layers `top_layers` trains, counted from the head."""

    optimizer: OptimizerName = "adamw"
    """The update rule; `sgd` is plain gradient descent, `momentum` is heavy-ball."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-5
    """Peak learning rate, reached at the end of warm-up."""
    momentum: OpenFraction | None = None
    """Momentum of `momentum` and `rmsprop`."""
    beta1: OpenFraction | None = None
    """Decay of the first moment of `adam` and `adamw`."""
    beta2: OpenFraction | None = None
    """Decay of the second moment of `adam` and `adamw`."""
    alpha: OpenFraction | None = None
    """Decay of the squared-gradient average of `rmsprop`."""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """Added to the denominator of `adam`, `adamw` and `rmsprop`."""

    schedule: ScheduleName = "linear"
    """How the rate falls after warm-up, over the trial's full length."""
    warmup_ratio: OpenFraction = 0.06
    """Fraction of the optimizer steps over which the rate rises linearly from zero."""
    decay_every: Annotated[float, Field(gt=0, le=1)] | None = None
    """`step`: the rate is cut each time this fraction of the steps after warm-up has passed."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    """`step`: what the rate is multiplied by at each cut."""

    l1_strength: Annotated[float, Field(ge=0)] = 0.0
    """Strength of L1 regularisation; 0 is none."""
    l1_form: Literal["penalty", "proximal"] = "proximal"
    """A penalty in the loss, or a soft threshold after each step, which alone gives exact zeros."""
    l2_strength: Annotated[float, Field(ge=0)] = 0.01
    """Strength of L2 regularisation, as `weight_decay` in torch; 0 is none."""
    l2_form: L2Form = Field(default_factory=usual_l2_form)
    """Added to the gradient, or shrinking the weights apart from it; `decoupled` for `adamw` if not given, `coupled`
    for the others, as in torch."""
    regularize_towards: Literal["zero", "pretrained"] = "zero"
    """Where L1 and L2 pull: to zero, or to the pretrained weights (L2-SP, Li et al. 2018)."""

    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Global gradient norm above which gradients are scaled down; null for no clipping."""
    dropout: OpenFraction | None = None
    """Dropout of every layer that has one, attention's too, and of the head; null for the model's own."""
    label_smoothing: OpenFraction = 0.0
    """Probability mass taken from the true class and spread over all (Szegedy et al. 2016)."""

    batch_size: Annotated[int, Field(ge=1)] = 16
    """Texts in one optimizer step."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training texts."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens after which a text is cut."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Full evaluations in a row without a better score after which a trial ends itself; null for never."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of initialisation, data order and dropout; null to derive it from the study's and the trial's number."""

    @field_validator(*APPLIES_TO)
    @classmethod
    def _usual_where_it_applies(cls, value: float | None, info: ValidationInfo) -> float | None:
        """Fill in the usual value where the field applies; refuse any value where it does not."""
        assert info.field_name is not None
        other, usual = APPLIES_TO[info.field_name]
        # Absent where it could not be: that is the mistake to tell.
        chosen = info.data.get(other)
        if value is None:
            return usual.get(chosen) if chosen else None
        if chosen and chosen not in usual:
            raise ValueError(
                f"{info.field_name!r} is {value!r}, but it applies only where {other!r} is {' or '.join(usual)}, and "
                f"here it is {chosen}; leave it out, or put it under `when: {{{other}: [{', '.join(usual)}]}}`."
            )
        return value

    def to_mapping(self) -> dict[str, Any]:
        """Return the values that apply, as plain YAML values; `Hyperparameters(**mapping)` gives an equal one."""
        always = {name for name in type(self).model_fields if name not in APPLIES_TO}
        return {name: value for name, value in self.model_dump().items() if value is not None or name in always}
