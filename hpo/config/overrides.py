"""Overrides: values over those of a study file, nested ones and single ones by their dotted path."""

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.naming import known_name, meaning, study_key
from hpo.config.other_names import ACCUMULATION, Alias
from hpo.config.parsing import parse_yaml
from hpo.errors import ConfigurationError, misspelt, nearest, without_credentials
from hpo.space.automatic import AUTO, space_for
from hpo.space.space_file import read_space

FIELDS = Hyperparameters.model_fields
RANGE = ("min", "max", "distribution", "q")
# What a parameter's spec loses when an override gives it other values: other kinds, and where the old ones came from.
REPLACES: Mapping[str, tuple[str, ...]] = {
    "value": ("values", "default", "relative_to", "source", *RANGE),
    "values": ("value", "default", "relative_to", "source", *RANGE),
    "min": ("value", "values", "source"),
    "max": ("value", "values", "source"),
}


def merge(target: dict[str, Any], values: Mapping[str, Any], *, replace: bool = True) -> None:
    """Put `values` into `target`, descending into mappings that both have; without `replace` only what is not there."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            merge(target[key], value, replace=replace)
        elif replace or key not in target:
            target[key] = value


def apply_override(target: dict[str, Any], override: str, keys: Collection[str]) -> list[str]:
    """Apply one `dotted.path=value` to the study `target`, whose dotted keys are `keys`; return what is to be said.

    Raises:
        ConfigurationError: an override that leads nowhere. It does not show the value, which may be a store's URL.
    """
    dotted, separator, text = override.partition("=")
    dotted = dotted.strip()
    if not separator or not all(dotted.split(".")):
        raise ConfigurationError(
            "An override reads `dotted.path=value`, as in budget.trials=40, but got "
            f"{without_credentials(dotted + separator)!r}."
        )
    notes = list[str]()
    path = find_path(target, dotted, keys, notes)
    set_path(target, path, parse_yaml(text, f"the value of {dotted}"), keys)
    return notes + alias_note(dotted, ".".join(path))


def find_path(target: dict[str, Any], dotted: str, keys: Collection[str], notes: list[str]) -> list[str]:
    """Return the path that a dotted key, perhaps in another library's names, means in the study `target`.

    A space that it leads into is opened there: its parameters take the place of its name; `notes` gets which it is
    where that is automatic.

    Raises:
        ConfigurationError: a key that leads nowhere.
    """
    path = dotted.split(".")
    if path[0] == "space" and len(path) > 1:
        target["space"], path = _opened_space(_found_space(target, notes), path)
        return path
    return _study_path(path, keys)


def set_path(target: dict[str, Any], path: list[str], value: Any, keys: Collection[str]) -> None:
    """Put a value into the study `target`; a text in place of a section that has a `url` is that.

    Raises:
        ConfigurationError: a path through a single value. It does not show the value, which may be a store's URL.
    """
    if path[0] == "space" and len(path) > 1:
        _drop_other_kinds(target["space"].get(path[1]), path[-1])
    if isinstance(value, str) and ".".join([*path, "url"]) in keys:
        path = [*path, "url"]
    inner: Any = target
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(
                f"The override of {'.'.join(path)!r} leads into {part!r}, which is a single value and has no keys."
            )
    inner[path[-1]] = value


def alias_note(name: str, ours: str) -> list[str]:
    """Return what is to be said of a key that has another name here."""
    return [] if name == ours else [f"{name} is taken for {ours}."]


def has_path(content: Any, path: list[str]) -> bool:
    """Return whether nested mappings have a value at a path."""
    for part in path:
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def meant_path(path: list[str], keys: Collection[str]) -> list[str] | None:
    """Return the path of the key that one of another library means; None where that is not known."""
    above = ".".join(path[:-1])
    here = {key.removeprefix(f"{above}.") if above else key: key for key in keys if key.rpartition(".")[0] == above}
    meant = study_key(path[-1], here)
    return None if meant is None else here.get(meant, meant).split(".")


def _study_path(path: list[str], keys: Collection[str]) -> list[str]:
    """Return the path of a study file's key as we name it; one that leads wrong further down is kept, to be refused."""
    dotted = ".".join(path)
    if same := known_name(dotted, keys):
        return same.split(".")
    if meant := meant_path(path, keys):
        return meant
    first = [key for key in keys if "." not in key]
    if path[0] in first:
        return path
    if "space" in keys and not misspelt(dotted, keys) and isinstance(entry := meaning(dotted, FIELDS), Alias):
        advice = f"Here it is space.{entry.ours}, as in space.{entry.ours}.value=..."
    else:
        advice = nearest(path[0], first, keys)
    raise ConfigurationError(f"Unknown key {path[0]!r} in {dotted!r}. {advice}")


def _drop_other_kinds(spec: Any, key: str) -> None:
    """Where `key` makes another kind of a parameter, such as a constant of a range, take the old kind out."""
    if isinstance(spec, dict) and key in REPLACES:
        for other in REPLACES[key]:
            spec.pop(other, None)


def _found_space(target: Mapping[str, Any], notes: list[str]) -> Any:
    """Return the space of the study `target`, the automatic one by its name."""
    space, model = target.get("space", AUTO), target.get("model")
    if space != AUTO:
        return space
    if not isinstance(model, Mapping) or "name" not in model:
        raise ConfigurationError(
            "'space' is auto, which goes by the model, but none is given before an override of it; name a space, such "
            "as space: encoder."
        )
    name, said = space_for(model)
    notes.append(said)
    return name


def _opened_space(space: Any, path: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters of `space` as a mapping that may be changed, and the path into it, by the key it has.

    A name of another library leads to the parameter that it means, however that is called there.
    """
    if not isinstance(space, str | dict):
        raise ConfigurationError(
            f"'space' is {space!r}, so it has no {path[1]!r} to override; give it the name of a shipped space, the "
            "path of a file, or parameters."
        )
    parameters = deepcopy(space) if isinstance(space, dict) else read_space(space)
    ours = {key: _ours(str(key), parameters) or key for key in parameters}
    for end in range(len(path), 1, -1):
        name = ".".join(path[1:end])
        meant = name if name in parameters else _ours(name, parameters)
        if meant is not None:
            key = name if name in parameters else next((key for key, one in ours.items() if one == meant), name)
            return parameters, ["space", key, *path[end:]]
    raise ConfigurationError(
        f"The space has no parameter {path[1]!r}. {nearest(path[1], map(str, parameters), FIELDS)}"
    )


def _ours(name: str, beside: Collection[str]) -> str | None:
    """Return the hyperparameter that a name means; of what means none, such as a path of the script, the name."""
    if name in FIELDS:
        return name
    entry = meaning(name, FIELDS, beside)
    return str(entry.ours) if isinstance(entry, Alias) and entry is not ACCUMULATION else name if entry else None
