"""Values over those of a study file: nested ones, and single ones by their dotted path."""

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.reading import parse_yaml
from hpo.errors import ConfigurationError, nearest
from hpo.space.space_file import read_space

RANGE = ("min", "max", "distribution", "q")
# What a parameter's spec loses when an override gives it other values: other kinds, and where the old ones came from.
REPLACES: Mapping[str, tuple[str, ...]] = {
    "value": ("values", "default", "relative_to", "source", *RANGE),
    "values": ("value", "default", "relative_to", "source", *RANGE),
    "min": ("value", "values", "source"),
    "max": ("value", "values", "source"),
}


def merge(target: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Put `values` into `target`, descending into mappings that both have."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def apply(target: dict[str, Any], override: str, known: Collection[str]) -> None:
    """Apply one `dotted.path=value` to the study `target`, whose keys are `known`.

    Raises:
        ConfigurationError: an override that leads nowhere. It does not show the value, which may be a store's URL.
    """
    dotted, separator, text = override.partition("=")
    path = dotted.strip().split(".")
    if not separator or not all(path):
        raise ConfigurationError(
            f"An override reads `dotted.path=value`, as in budget.trials=40, but got {dotted + separator!r}."
        )
    if path[0] not in known:
        raise ConfigurationError(f"Unknown key {path[0]!r} in the override of {dotted!r}. {nearest(path[0], known)}")
    if path[0] == "space" and len(path) > 1:
        target["space"] = _opened_space(target.get("space", "encoder"), path[1])
        _drop_other_kinds(target["space"].get(path[1]), path[-1])
    inner: Any = target
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(
                f"The override of {dotted!r} leads into {part!r}, which is a single value and has no keys."
            )
    inner[path[-1]] = parse_yaml(text, f"the value of {dotted}")


def _drop_other_kinds(spec: Any, key: str) -> None:
    """Where `key` makes another kind of a parameter, such as a constant of a range, take the old kind out."""
    if isinstance(spec, dict) and key in REPLACES:
        for other in REPLACES[key]:
            spec.pop(other, None)


def _opened_space(space: Any, parameter: str) -> dict[str, Any]:
    """Return the parameters of `space` as a mapping that may be changed, known to have room for `parameter`."""
    if not isinstance(space, str | dict):
        raise ConfigurationError(
            f"'space' is {space!r}, so it has no {parameter!r} to override; give it the name of a shipped space, the "
            "path of a file, or parameters."
        )
    parameters = deepcopy(space) if isinstance(space, dict) else read_space(space)
    if parameter not in parameters and parameter not in Hyperparameters.model_fields:
        raise ConfigurationError(
            f"The space has no parameter {parameter!r}. {nearest(parameter, map(str, parameters))}"
        )
    return parameters
