"""One trial's hyperparameters: everything that decides what is trained, with typed defaults.

A search space names some of these fields; the others keep their defaults. The defaults are the usual ones for
fine-tuning a pretrained encoder with AdamW (Devlin et al. 2019, table 8; Liu et al. 2019, table 10).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hpo.config.reading import Typed

Method = Literal["full", "top_layers", "head"]
OptimizerName = Literal["sgd", "momentum", "adam", "adamw", "rmsprop"]
L2Form = Literal["coupled", "decoupled"]
ScheduleName = Literal["constant", "linear", "cosine", "step"]

Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(ge=0, lt=1)]

# Fields that mean something only for some values of another: field -> (other field, those values).
APPLIES_TO: dict[str, tuple[str, tuple[str, ...]]] = {
    "trained_layers": ("method", ("top_layers",)),
    "momentum": ("optimizer", ("momentum", "rmsprop")),
    "beta1": ("optimizer", ("adam", "adamw")),
    "beta2": ("optimizer", ("adam", "adamw")),
    "alpha": ("optimizer", ("rmsprop",)),
    "epsilon": ("optimizer", ("adam", "adamw", "rmsprop")),
    "decay_every": ("schedule", ("step",)),
    "decay_factor": ("schedule", ("step",)),
}


def usual_l2_form(values: dict[str, Any]) -> L2Form:
    """Return the form of L2 that the optimizer among `values` is known by."""
    return "decoupled" if values.get("optimizer") == "adamw" else "coupled"


class Hyperparameters(Typed):
    """The values one trial trains under. None in an optimizer's own field means that optimizer's usual value."""

    method: Method = "full"
    """What is trained: all weights, the top transformer layers and the head, or the head alone."""
    trained_layers: Annotated[int, Field(ge=1)] | None = None
    """How many transformer layers `top_layers` trains, counted from the head; 2 if not given."""

    optimizer: OptimizerName = "adamw"
    """The update rule; `sgd` is plain gradient descent, `momentum` is heavy-ball."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-5
    """Peak learning rate, reached at the end of warm-up."""
    momentum: OpenFraction | None = None
    """Momentum of `momentum` (0.9 if not given) and `rmsprop` (0 if not given)."""
    beta1: OpenFraction | None = None
    """Decay of the first moment of `adam` and `adamw`; 0.9 if not given."""
    beta2: OpenFraction | None = None
    """Decay of the second moment of `adam` and `adamw`; 0.999 if not given."""
    alpha: OpenFraction | None = None
    """Decay of the squared-gradient average of `rmsprop`; 0.99 if not given."""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """Added to the denominator of `adam`, `adamw` and `rmsprop`; 1e-8 if not given."""

    schedule: ScheduleName = "linear"
    """How the rate falls after warm-up, over the trial's full length."""
    warmup_ratio: OpenFraction = 0.06
    """Fraction of the optimizer steps over which the rate rises linearly from zero."""
    decay_every: Annotated[float, Field(gt=0, le=1)] | None = None
    """`step`: the rate is cut each time this fraction of the steps after warm-up has passed; 1/3 if not given."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    """`step`: what the rate is multiplied by at each cut; 0.1 if not given."""

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

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        for name, (other, values) in APPLIES_TO.items():
            if getattr(self, name) is not None and getattr(self, other) not in values:
                raise ValueError(
                    f"{name!r} is {getattr(self, name)!r}, but it applies only where {other!r} is "
                    f"{' or '.join(values)}, and here it is {getattr(self, other)}; leave it out, or put it under "
                    f"`when: {{{other}: [{', '.join(values)}]}}`."
                )
        return self

    def to_mapping(self) -> dict[str, Any]:
        """Return the values that are set, as plain YAML values; `Hyperparameters(**mapping)` gives an equal one."""
        always = {name for name in type(self).model_fields if name not in APPLIES_TO}
        return {name: value for name, value in self.model_dump().items() if value is not None or name in always}
