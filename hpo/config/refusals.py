"""Which hyperparameters cannot be together, and why: told before any training, of one trial or of a whole space."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A combination of values that cannot be trained."""

    fields: tuple[str, ...]
    """What it depends on."""
    concerns: Callable[[Values], bool]
    """Whether these values, all of `fields` among them, are such a combination."""
    reason: str
    """Why it cannot be, and what to do instead."""

    def sentence(self, values: Values) -> str:
        """Say which values they are, and why they cannot be together."""
        named = ", ".join(f"{name!r} is {values[name]}" for name in self.fields)
        return f"{named}: {self.reason}"


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        fields=("optimizer", "schedule"),
        concerns=lambda v: v["optimizer"] == "schedule_free_adamw" and v["schedule"] != "constant",
        reason="it averages its weights in place of a falling rate, so its schedule must be constant; put `schedule` "
        "under a `when` of the other optimizers.",
    ),
    Refusal(
        fields=("optimizer", "l1_strength", "l1_form"),
        concerns=lambda v: (
            v["optimizer"] == "schedule_free_adamw" and v["l1_strength"] > 0 and v["l1_form"] == "proximal"
        ),
        reason="its weights are an average, which keeps no exact zeros; take `l1_form: penalty`, or another optimizer.",
    ),
    Refusal(
        fields=("optimizer", "beta1"),
        concerns=lambda v: v["optimizer"] == "schedule_free_adamw" and v["beta1"] == 0,
        reason="its average is read off weights that lie between it and the last ones; give a `beta1` above 0.",
    ),
    Refusal(
        fields=("schedule", "final_rate_ratio"),
        concerns=lambda v: v["schedule"] in ("exponential", "inverse_sqrt") and v["final_rate_ratio"] == 0,
        reason="such a rate never reaches zero; give a `final_rate_ratio` above 0.",
    ),
    Refusal(
        fields=("method", "trained_layers", "kept_layers"),
        concerns=lambda v: (
            v["trained_layers"] is not None and v["kept_layers"] is not None and v["trained_layers"] > v["kept_layers"]
        ),
        reason="no more layers can be trained than are kept; lower `trained_layers`, or raise `kept_layers`.",
    ),
)
