"""What a hyperparameter is trained with, given the values that a trial has from its space, its own or not.

The same as `Hyperparameters` fills in, told without building one, so that it can be asked of values that it refuses.
"""

from collections.abc import Mapping

from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters
from hpo.space.domains import Value


def deciding_field(name: str) -> str | None:
    """Return the field that decides the usual value of the field `name`; None where it is always the same."""
    if name in APPLIES_TO:
        return APPLIES_TO[name][0]
    # Each factory asks for the optimizer and for nothing else.
    return "optimizer" if Hyperparameters.model_fields[name].default_factory else None


def resolved_value(name: str, values: Mapping[str, Value]) -> Value:
    """Return the value of the field `name` under `values`, field -> value: the one there, else the usual one."""
    if name in APPLIES_TO:
        other, usual = APPLIES_TO[name]
        given = values.get(name)
        return given if given is not None else usual.get(str(resolved_value(other, values)))
    return values[name] if name in values else _usual_value(name, values)


def _usual_value(name: str, values: Mapping[str, Value]) -> Value:
    decider = deciding_field(name)
    decided = {decider: resolved_value(decider, values)} if decider else {}
    usual: Value = Hyperparameters.model_fields[name].get_default(call_default_factory=True, validated_data=decided)
    return usual
