"""Study loading: a study file or W&B sweep, values and overrides, translated to hpo's names and validated.

Steps: read the file, translate its names, merge `values`, apply overrides, read the space, validate as `StudyConfig`.
All mistakes are reported in one error.
"""

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from string import punctuation
from typing import Any

from pydantic import BaseModel

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.naming import known_name, meaning, metric_note, metric_of, study_key, study_value
from hpo.config.other_names import ACCUMULATION, STUDY_VALUES, Alias
from hpo.config.parsing import dotted_keys, parse_yaml, read_model, read_yaml_mapping, section, valid_part
from hpo.config.study_file import StudyConfig
from hpo.config.sweep_file import Sweep, read_sweep
from hpo.errors import ConfigurationError, Mistakes, misspelt, nearest, without_credentials
from hpo.space.space_file import AUTO, read_space, space_for, space_of

StudyChecks = Callable[[StudyConfig, Mistakes], None]
FIELDS = Hyperparameters.model_fields
RANGE = ("min", "max", "distribution", "q")
SIGNS = frozenset(punctuation) - {"~"}
"""Single characters that an override takes as text, such as a separator, although most are invalid YAML."""
# Key that an override sets in a parameter's spec -> keys that it removes: other kinds of values, the old source.
REPLACES: Mapping[str, tuple[str, ...]] = {
    "value": ("values", "default", "relative_to", "source", *RANGE),
    "values": ("value", "default", "relative_to", "source", *RANGE),
    "min": ("value", "values", "source"),
    "max": ("value", "values", "source"),
}


def merge(target: dict[str, Any], values: Mapping[str, Any], *, replace: bool = True) -> None:
    """Merge nested `values` into `target`; existing values are kept unless `replace`."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            merge(target[key], value, replace=replace)
        elif replace or key not in target:
            target[key] = value


def apply_override(target: dict[str, Any], override: str, keys: Collection[str]) -> list[str]:
    """Apply one `dotted.path=value` to the study `target`, whose dotted keys are `keys`; return notes for the user.

    Raises:
        ConfigurationError: no such key. The message does not contain the value, which may be a store's URL.
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
    set_path(target, path, text if text in SIGNS else parse_yaml(text, f"the value of {dotted}"), keys)
    return notes + alias_note(dotted, ".".join(path))


def find_path(target: dict[str, Any], dotted: str, keys: Collection[str], notes: list[str]) -> list[str]:
    """Return the path of a dotted key, which may have another library's name, in the study `target`.

    If the path is below `space`, the name of the space in `target` is replaced by its parameters. If the space is
    automatic, a sentence with the choice is added to `notes`.

    Raises:
        ConfigurationError: no such key.
    """
    path = dotted.split(".")
    if path[0] == "space" and len(path) > 1:
        target["space"], path = _opened_space(_found_space(target, notes), path)
        return path
    return _study_path(path, keys)


def set_path(target: dict[str, Any], path: list[str], value: Any, keys: Collection[str]) -> None:
    """Set the value at `path` in the study `target`; a string for a section with a `url`, such as `store`, is that URL.

    Raises:
        ConfigurationError: a path below a single value. The message does not contain the value, which may be a URL.
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
    """Return a note that a key was translated; none if it has the same name in hpo."""
    return [] if name == ours else [f"{name} is taken for {ours}."]


def has_path(content: Any, path: list[str]) -> bool:
    """Return true if nested mappings have a value at a path."""
    for part in path:
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def meant_path(path: list[str], keys: Collection[str]) -> list[str] | None:
    """Return the path of the key that corresponds to another library's key; None if there is none."""
    above = ".".join(path[:-1])
    here = {key.removeprefix(f"{above}.") if above else key: key for key in keys if key.rpartition(".")[0] == above}
    meant = study_key(path[-1], here)
    return None if meant is None else here.get(meant, meant).split(".")


def _study_path(path: list[str], keys: Collection[str]) -> list[str]:
    """Return the path of a key in hpo's names; an unknown key within a known section is kept, and refused later."""
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
        advice = nearest(path[0], first or keys, keys)
    raise ConfigurationError(f"Unknown key {path[0]!r} in {dotted!r}. {advice}")


def _drop_other_kinds(spec: Any, key: str) -> None:
    """Remove keys from a parameter's spec that contradict the new `key`, such as a range if `value` is set."""
    if isinstance(spec, dict) and key in REPLACES:
        for other in REPLACES[key]:
            spec.pop(other, None)


def _found_space(target: Mapping[str, Any], notes: list[str]) -> Any:
    """Return the space of the study `target`; for `auto`, the name of the chosen shipped space, with a note."""
    space, model = target.get("space", AUTO), target.get("model")
    if space != AUTO:
        return space
    if not isinstance(model, Mapping) or "name" not in model:
        raise ConfigurationError(
            "'space' is auto, which goes by the model, but none is given before an override of it; name a space, such "
            "as space: encoder."
        )
    name, note = space_for(model)
    notes.append(note)
    return name


def _opened_space(space: Any, path: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return a copy of the parameters of `space`, and `path` with the parameter's key as written in the space.

    The parameter in `path` and the space may each use hpo's name or another library's.
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
    """Return hpo's name of a hyperparameter; the name itself if it is known but no hyperparameter; None if unknown."""
    if name in FIELDS:
        return name
    entry = meaning(name, FIELDS, beside)
    return str(entry.ours) if isinstance(entry, Alias) and entry is not ACCUMULATION else name if entry else None


KEYS = dotted_keys(StudyConfig)
SECTIONS = StudyConfig.model_fields


def load_config(
    path: Path | str | None = None, values: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> StudyConfig:
    """Read a study file, and apply `values` and then `overrides` such as `budget.trials=40`.

    Args:
        path: a YAML study file, or a W&B sweep file; paths in it are relative to the working folder.
        values: nested values that replace those of the file.
        overrides: `dotted.path=value`, the value in YAML. Keys below `space.` change a parameter of the study's
            space, as in `space.learning_rate.max=10`.

    Raises:
        ConfigurationError: lists all unknown keys and invalid values.
    """
    return load_study(None if path is None else Path(path), values, overrides)[0]


def load_study(
    path: Path | None = None,
    values: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    needed: Mapping[str, str] | None = None,
    checks: StudyChecks | None = None,
) -> tuple[StudyConfig, tuple[str, ...]]:
    """Return the result of `load_config`, and notes on keys and values that were translated or ignored.

    Notes on the space's names are in the space itself.

    Args:
        path: as in `load_config`.
        values: as in `load_config`.
        overrides: as in `load_config`.
        needed: dotted key -> message if it is missing.
        checks: gathers further mistakes in the study, as far as its values are valid, to be reported with the others.

    Raises:
        ConfigurationError: as in `load_config`.
        HpoError: a mistake that `checks` has gathered.
    """
    content, source = (read_yaml_mapping(path, "a study file"), str(path)) if path else ({}, "study")
    if "hyperparameters" in content:
        raise ConfigurationError(
            f"{path} holds one configuration, as hpo export writes it, and no study; train it with "
            f"`hpo train {shlex.quote(source)} --output FOLDER`, or see whether it gives its score again with "
            f"`hpo reproduce {shlex.quote(source)}`."
        )
    mistakes, notes = Mistakes(), list[str]()
    sweep = _as_sweep(content, path, mistakes, overrides)
    if sweep:
        notes += sweep.notes
        lacking = "a W&B sweep says neither the model nor the texts; add --model PATH_OR_HUB_ID and --train FILE."
        needed = dict.fromkeys(("model", "data"), lacking)
    study = sweep.values if sweep else {}
    for given in ({} if sweep else content, deepcopy(dict(values or {}))):
        merge(study, _in_our_names(given, notes, mistakes))
    # Overrides of the model come first, because an automatic space depends on it.
    for override in sorted(overrides, key=lambda override: not override.lstrip().startswith("model.")):
        with mistakes.gathered():
            notes += apply_override(study, override, KEYS)
    _translate_values(study, notes)
    with mistakes.gathered():
        # Other types of values are refused by `read_model`.
        named = study.get("space", AUTO)
        if isinstance(named, str | Mapping) and named != AUTO:
            space = space_of(named, source if sweep else "of the study")
            if sweep:
                usual, unused = sweep.of_space(space)
                merge(study, usual, replace=False)
                notes += unused
    read = None
    with mistakes.gathered():
        read = read_model(StudyConfig, study, source, needed)
    if checks and (valid := read or valid_part(StudyConfig, study)):
        checks(valid, mistakes)
    mistakes.refuse()
    assert read is not None
    return read, tuple(notes)


def _as_sweep(
    content: Mapping[str, Any], path: Path | None, mistakes: Mistakes, overrides: Sequence[str]
) -> Sweep | None:
    """Read the file's content as a W&B sweep; None if it is none: it lacks `parameters`, or has a study file's key."""
    if path is None or "parameters" not in content or content.keys() & SECTIONS.keys():
        return None
    metric_given = any(override.partition("=")[0].strip() == "task.metric" for override in overrides)
    return read_sweep(content, str(path), path.stem, mistakes, metric_given=metric_given)


def _in_our_names(content: Mapping[str, Any], notes: list[str], mistakes: Mistakes) -> dict[str, Any]:
    """Return a study's content with all known keys translated to hpo's names; each translation is added to `notes`.

    Dotted keys that are unknown or given twice are added to `mistakes`. If a key is given under both names, the other
    library's is kept, and refused later. A string for a section with a `url` is that URL.
    """
    dotted = {key: value for key, value in content.items() if _is_dotted(key)}
    given = _nested_keys({key: value for key, value in content.items() if key not in dotted}, notes)
    read, paths = deepcopy(given), list[list[str]]()
    for key, value in dotted.items():
        with mistakes.gathered():
            path = find_path(read, key, KEYS, notes)
            if has_path(given, path) or any(path[: len(one)] == one[: len(path)] for one in paths):
                raise ConfigurationError(f"{'.'.join(path)!r} is given twice.")
            set_path(read, path, value, KEYS)
            notes += alias_note(key, ".".join(path))
            paths.append(path)
    return read


def _is_dotted(key: Any) -> bool:
    """Return true if a top-level key is a dotted path, or a hyperparameter, whose place is then reported."""
    if not isinstance(key, str) or key in SECTIONS or study_key(key, SECTIONS):
        return False
    return "." in key or isinstance(meaning(key, FIELDS), Alias)


def _nested_keys(content: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for path, value in list(_leaves(content, StudyConfig, ())):
        inner = read
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        dotted = ".".join(path)
        ours = None if dotted in KEYS and "." not in path[-1] else meant_path(path, KEYS)
        if ours is None or any(has_path(known, ours) for known in (content, read)):
            inner[path[-1]] = value
            continue
        notes += alias_note(dotted, ".".join(ours))
        for key in reversed(ours):
            value = {key: value}
        merge(read, value, replace=False)
    return read


def _leaves(
    content: Mapping[str, Any], model: type[BaseModel], above: Sequence[str]
) -> Iterator[tuple[list[str], Any]]:
    """Yield the path and the value of each key that is not a section; empty sections are left out."""
    for key, value in content.items():
        path = [*above, str(key)]
        field = model.model_fields.get(key)
        inner = section(field.annotation) if field else None
        if inner and isinstance(value, Mapping) and value:
            yield from _leaves(value, inner, path)
        elif inner and isinstance(value, str) and "url" in inner.model_fields:
            yield [*path, "url"], value
        elif value is not None or not inner:
            yield path, value


def _translate_values(study: dict[str, Any], notes: list[str]) -> None:
    """Translate values of a study that have another library's name, with a sentence in `notes` for each."""
    for path in STUDY_VALUES:
        place, key = path.split(".")
        if has_path(study, [place, key]) and (ours := study_value(path, study[place][key])):
            notes.append(f"{path} {study[place][key]} is taken for {ours}.")
            study[place][key] = ours
    metric = study["task"]["metric"] if has_path(study, ["task", "metric"]) else None
    if isinstance(metric, str) and ":" not in metric and metric != "f1":
        ours, is_loss = metric_of(metric)
        # A loss without a goal is refused later, together with unknown metrics.
        if not is_loss and ours != metric:
            notes += metric_note(metric, ours)
            study["task"]["metric"] = ours
