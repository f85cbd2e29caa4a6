"""Consistency of a search space: its combinations, and that hpo can train every trial it can propose."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from hpo.config.hyperparameters import APPLIES_TO, REFUSALS, Refusal, checked_value, deciding_field, resolved
from hpo.errors import Mistakes, SpaceError
from hpo.space.domains import Choice, Constant, Range, Value, as_yaml
from hpo.space.parameters import Condition, Parameter, rate_fields

Values = dict[str, Value]
# Values of earlier parameters on which later conditions depend.
Known = frozenset[tuple[str, Value]]


def all_combinations(parameters: Sequence[Parameter], space: str) -> Iterator[Values]:
    """Return every combination of values of the active parameters, in their order, the last varying fastest.

    Raises:
        SpaceError: a parameter with a continuous range.
    """
    refuse_continuous(parameters, space)
    return combinations_of(parameters, every_value, {})


def number_of_combinations(parameters: Sequence[Parameter], space: str) -> int:
    """Return the number of combinations without enumerating them.

    Processes one parameter after the other, with the number of ways to reach each set of values on which later
    conditions depend.

    Raises:
        SpaceError: a parameter with a continuous range.
    """
    refuse_continuous(parameters, space)
    ways: Counter[Known] = Counter({frozenset(): 1})
    for index, parameter in enumerate(parameters):
        later = [condition for other in parameters[index + 1 :] for condition in other.when]
        ways = _ways_past(parameter, ways, later)
    return ways.total()


def cases(parameters: Sequence[Parameter], fields: Iterable[str]) -> Iterator[Values]:
    """Return representative trials for `fields`: values of the active ones and of the parameters they depend on."""
    deciding = _deciding(parameters, fields)
    involved = [parameter for parameter in parameters if parameter.name in deciding]
    return combinations_of(involved, lambda parameter, _: _representative_values(parameter, involved), {})


def refuse_continuous(parameters: Sequence[Parameter], space: str) -> None:
    """Raise a `SpaceError` for a parameter whose values cannot be enumerated."""
    for parameter in parameters:
        if isinstance(parameter.domain, Range):
            raise SpaceError(
                f"Space {space}, {parameter.name} takes any number of a range, so the combinations of this space "
                "cannot be counted; list its `values:`, or give it steps by `distribution: q_uniform` with a `q`."
            )


def combinations_of(
    parameters: Sequence[Parameter], values_of: Callable[[Parameter, Values], Iterable[Value]], chosen: Values
) -> Iterator[Values]:
    """Return `chosen` with every combination of the values of `parameters` that are active under it.

    Args:
        parameters: each after those that its conditions name.
        values_of: the values of a parameter, given those chosen before it.
        chosen: values of earlier parameters.
    """
    if not parameters:
        yield chosen
        return
    first, rest = parameters[0], parameters[1:]
    if not first.active(chosen):
        yield from combinations_of(rest, values_of, chosen)
        return
    for value in values_of(first, chosen):
        yield from combinations_of(rest, values_of, chosen | {first.name: value})


def every_value(parameter: Parameter, _chosen: Values) -> Iterable[Value]:
    """Return the values of a parameter with distinct values."""
    assert not isinstance(parameter.domain, Range)
    return parameter.domain.values()


def _ways_past(parameter: Parameter, ways: Counter[Known], later: Sequence[Condition]) -> Counter[Known]:
    """Return the number of ways to each set of known values after `parameter` has its value or is inactive."""
    assert not isinstance(parameter.domain, Range)
    asked = frozenset((condition.parent, value) for condition in later for value in condition.values)
    own = [one for one in asked if one[0] == parameter.name]
    past: Counter[Known] = Counter()
    for known, number in ways.items():
        active = parameter.active(dict(known))
        named = own if active else []
        unnamed = (parameter.domain.count() if active else 1) - len(named)
        for one in named:
            past[(known | {one}) & asked] += number
        if unnamed:
            past[known & asked] += number * unnamed
    return past


def _deciding(parameters: Sequence[Parameter], fields: Iterable[str]) -> set[str]:
    """Return `fields`, and every field that decides whether one of them is active or what value is trained."""
    written = {parameter.name: parameter for parameter in parameters}
    found: set[str] = set()
    waiting = list(fields)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if decider := deciding_field(name):
            waiting.append(decider)
        if name in written:
            waiting += [condition.parent for condition in written[name].when]
            if factors := written[name].relative_to:
                waiting += rate_fields(factors)
    return found


def _representative_values(parameter: Parameter, others: Sequence[Parameter]) -> Iterable[Value]:
    """Return all names, or the ends of a range, the values that conditions name, and one that none names."""
    domain = parameter.domain
    if isinstance(domain, Constant | Choice):
        return domain.values()
    ends = (domain.low, domain.high)
    if isinstance(domain, Range):
        return ends
    conditions = [condition for other in others for condition in other.when if condition.parent == parameter.name]
    named = {value for condition in conditions for value in condition.values}
    unnamed = next((value for value in domain.values() if value not in named), domain.low)
    return dict.fromkeys((*ends, *named, unnamed))


def check_together(parameters: Sequence[Parameter], space: str) -> None:
    """Raise a `SpaceError` if `Hyperparameters` would refuse a trial of the space, with one trial per reason."""
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
    """Refuse a parameter that is active where it has no effect, such as `momentum` under adamw."""
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
    """Return the parameter that decides the kind of the field (it may be itself), and its values in `kinds`."""
    decider = field
    while not any(decider in values for values in kinds) and (above := deciding_field(decider)):
        decider = above
    return decider, list(dict.fromkeys(values[decider] for values in kinds if decider in values))


def _check_rates(parameter: Parameter, parameters: Sequence[Parameter], place: str) -> None:
    """Refuse a multiplier that has no base rate, or gives an impossible rate."""
    for values in cases(parameters, (parameter.name,)):
        if parameter.name in values:
            checked_value(parameter.name, parameter.trained(values, place), f"{place}, times its base rate")


def _check_refusal(refusal: Refusal, parameters: Sequence[Parameter], space: str) -> None:
    for values in cases(parameters, refusal.fields):
        trained = {name: resolved(name, values) for name in refusal.fields}
        if sentence := refusal.sentence(trained):
            raise SpaceError(f"Space {space}: {sentence}")
