"""Consistency checks of a search space: every trial that it can propose can be trained."""

from collections.abc import Sequence

from hpo.config.hyperparameters import APPLIES_TO, REFUSALS, Refusal, checked_value, deciding_field, resolved
from hpo.errors import Mistakes, SpaceError
from hpo.space.domains import Value, as_yaml
from hpo.space.enumeration import Values, cases
from hpo.space.parameters import Parameter


def check_together(parameters: Sequence[Parameter], space: str) -> None:
    """Raise a `SpaceError` if `Hyperparameters` would refuse a trial of the space; names one trial for each reason."""
    mistakes = Mistakes()
    for parameter in parameters:
        place = f"Space {space}, {parameter.name}"
        with mistakes.gathered():
            if parameter.name in APPLIES_TO:
                _check_applies(parameter, parameters, place)
        with mistakes.gathered():
            if parameter.relative_to:
                _check_rates(parameter, parameters, place)
    for refusal in REFUSALS:
        with mistakes.gathered():
            _check_refusal(refusal, parameters, space)
    mistakes.refuse()


def _check_applies(parameter: Parameter, parameters: Sequence[Parameter], place: str) -> None:
    """Refuse a parameter that is active where it means nothing, such as `momentum` under adamw."""
    other, fitting = APPLIES_TO[parameter.name]
    kinds = list(cases(parameters, (other, *(condition.parent for condition in parameter.when))))
    if all(resolved(other, values) in fitting for values in kinds if parameter.active(values)):
        return
    rule = f"{place} applies only where {other} is {' or '.join(fitting)}"
    decider, wanted = _decider(other, [values for values in kinds if resolved(other, values) in fitting])
    if not wanted:
        found = dict.fromkeys(as_yaml(resolved(other, values)) for values in kinds)
        raise SpaceError(f"{rule}, but here it is {' or '.join(found)}; leave {parameter.name} out.")
    lines = {one.parent: one.values for one in parameter.when} | {decider: tuple(wanted)}
    when = ", ".join(f"{key}: [{', '.join(map(as_yaml, values))}]" for key, values in lines.items())
    raise SpaceError(f"{rule}, but here it may be other; write `when: {{{when}}}` below {parameter.name}.")


def _decider(field: str, kinds: Sequence[Values]) -> tuple[str, list[Value]]:
    """Return the parameter that makes the field what it is in `kinds`, itself or what decides it, and its values."""
    decider = field
    while not any(decider in values for values in kinds) and (above := deciding_field(decider)):
        decider = above
    return decider, list(dict.fromkeys(values[decider] for values in kinds if decider in values))


def _check_rates(parameter: Parameter, parameters: Sequence[Parameter], place: str) -> None:
    """Refuse a multiplier that has no base rate, or makes an impossible rate."""
    for values in cases(parameters, (parameter.name,)):
        if parameter.name in values:
            checked_value(parameter.name, parameter.trained(values, place), f"{place}, times its base rate")


def _check_refusal(refusal: Refusal, parameters: Sequence[Parameter], space: str) -> None:
    for values in cases(parameters, refusal.fields):
        trained = {name: resolved(name, values) for name in refusal.fields}
        if sentence := refusal.sentence(trained):
            raise SpaceError(f"Space {space}: {sentence}")
