"""YAML reading: plain mappings to typed models, with one sentence for each mistake."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from hpo.config.files_nearby import files_nearby
from hpo.config.naming import advice
from hpo.errors import ConfigurationError, misspelt, nearest

Model = TypeVar("Model", bound=BaseModel)

SECRETS = ("store", "notify", "warm_start")
"""Sections whose values no error shows, because the URLs of stores and of notifications may contain passwords."""

ENDINGS = (".yaml", ".yml", ".json")
ABSENT = "nothing"
"""Text for a missing value in a difference."""


class Typed(BaseModel):
    """Base class of configurations: immutable, without unknown keys, each field documented by the string below it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic takes true for 1; as a text it refuses it, in the words for any other text.
        if isinstance(value, bool) and info.field_name is not None:
            types = _types_in(cls.model_fields[info.field_name].annotation)
            return value if bool in types or not {int, float} & types else str(value).lower()
        return value


def _types_in(annotation: Any) -> set[Any]:
    """Return the plain types of which an annotation is made."""
    return {annotation} if isinstance(annotation, type) else set().union(*map(_types_in, get_args(annotation)))


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML 1.2, where `1e-4` is a number and `off` a string.

    Args:
        text: one YAML document.
        source: its name in an error, usually its path.

    Raises:
        ConfigurationError: invalid YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        # For a duplicate key, the problem also contains both values as Python objects.
        problem = str(error.problem).partition(" with value ")[0]
        raise ConfigurationError(f"{source} is not valid YAML: {line}{problem}.") from None
    except (YAMLError, ValueError, RecursionError) as error:  # also a date of no calendar, lists a thousand deep
        raise ConfigurationError(f"{source} is not valid YAML: {str(error).splitlines()[0]}.") from None


def read_yaml_mapping(path: Path, kind: str = "a YAML file") -> dict[str, Any]:
    """Read the YAML mapping in the file `path`; `kind` is what is expected there, for a message.

    Raises:
        ConfigurationError: the file cannot be read, is not YAML, or has no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        nearby = files_nearby(path, lambda one: one.suffix in ENDINGS)
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.{nearby}") from None
    except IsADirectoryError:
        raise ConfigurationError(f"Cannot read {path}: it is a folder, but {kind} is expected.") from None
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"Cannot read {path}: it is not UTF-8 text.") from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must hold `key: value` lines, but holds {_kind(content)}.")
    return content


def write_yaml(content: Mapping[str, Any]) -> str:
    """Return `content` as YAML 1.2 that `parse_yaml` reads back equal."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 4096
    stream = StringIO()
    yaml.dump(dict(content), stream)
    return stream.getvalue()


def read_model(
    model: type[Model], values: Mapping[str, Any], source: str, needed: Mapping[str, str] | None = None
) -> Model:
    """Validate `values` as an instance of `model`.

    Args:
        model: the class.
        values: field -> value.
        source: name of the values in an error.
        needed: dotted key -> message if it is missing.

    Raises:
        ConfigurationError: one sentence for each mistake.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        sentences = dict.fromkeys(_sentences(model, error.errors(), needed or {}))
        raise ConfigurationError(*(f"{source}: {sentence}" for sentence in sentences)) from None


def valid_part(model: type[Model], values: Mapping[str, Any]) -> Model | None:
    """Return `values` without the wrong ones as an instance of `model`; None if the rest is none either."""
    kept = deepcopy(dict(values))
    for _ in range(2):  # A second time, because rules on several keys are tried once each key is right.
        try:
            return model.model_validate(kept)
        except ValidationError as error:
            for detail in error.errors():
                _remove(kept, _place(model, detail["loc"])[0])
    return None


def _remove(values: Any, path: Sequence[str]) -> None:
    """Remove the value at a path of nested mappings, if it is there."""
    for part in path[:-1]:
        values = values.get(part) if isinstance(values, dict) else None
    if path and isinstance(values, dict):
        values.pop(path[-1], None)


def dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted path of every key of a model, including those of nested models."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        inner = section(field.annotation)
        keys += [prefix + name, *(dotted_keys(inner, f"{prefix}{name}.") if inner else ())]
    return keys


def section(annotation: Any) -> type[BaseModel] | None:
    """Return the nested model that is a field's type; None if it is another type."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _sentences(model: type[BaseModel], details: Iterable[ErrorDetails], needed: Mapping[str, str]) -> Iterable[str]:
    """Yield one sentence for each wrong key; a missing key is left out if an unknown key is a misspelling of it."""
    keys = dotted_keys(model)
    # Pydantic does not call a default factory that depends on an invalid field.
    reported = [detail for detail in details if detail["type"] != "default_factory_not_called"]

    def key_of(detail: ErrorDetails) -> str:
        return ".".join(_place(model, detail["loc"])[0])

    by_key = {key_of(detail): detail for detail in reversed(reported)}
    words = {key_of(one): one["ctx"]["expected"] for one in reported if one["type"] == "literal_error"}
    meant = {
        one for key, detail in by_key.items() if detail["type"] == "extra_forbidden" for one in misspelt(key, keys)
    }
    for key, detail in reversed(by_key.items()):
        if detail["type"] != "missing":
            yield _sentence(model, detail, keys, words.get(key))
        elif not any(one == key or one.startswith(f"{key}.") for one in meant):
            yield needed.get(key, f"{key!r} is missing.")


def _sentence(model: type[BaseModel], detail: ErrorDetails, keys: Sequence[str], words: str | None) -> str:
    """Return a sentence on one wrong value: the rule, the value, the choices; `words` are literals besides numbers."""
    path, known = _place(model, detail["loc"])
    name, value = ".".join(path), detail["input"]
    shown = "(not shown)" if path and path[0] in SECRETS else repr(value)
    match detail["type"]:
        case "extra_forbidden":
            above = name.removesuffix(path[-1])
            return f"unknown key {name!r}. {advice(name, [above + key for key in known], keys)}"
        case "literal_error" | "enum":
            expected = detail["ctx"]["expected"]
            choices = [choice.strip("' ") for choice in expected.replace(" or ", ", ").split(",")]
            return f"{name!r} cannot be {shown}. {nearest(str(value), choices)}"
        case "model_type":
            inside = [key for key in keys if key.startswith(f"{name}.")]
            return f"{name!r} is {shown}, but it is a section, of `key: value` lines. Known: {', '.join(inside)}."
        case "value_error":
            return f"{detail['ctx']['error']}"
        case _:
            rule = detail["msg"][0].lower() + detail["msg"][1:]
            rule = rule.replace("input should", "it should") + (f", or {words}" if words else "")
            return f"{name!r} is {shown}, but {rule}."


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Return the path of the key with the mistake, and the valid fields at its level.

    The key within a mapping is included. The member of a union that pydantic tried, which it appends, is left out.
    """
    path: list[str] = []
    for place, part in enumerate(map(str, location)):
        path.append(part)
        field = model.model_fields.get(part)
        inner = section(field.annotation) if field else None
        if inner is None:
            if field and get_origin(field.annotation) is dict:
                path += map(str, location[place + 1 : place + 2])
            break
        model = inner
    return path, list(model.model_fields)


def _kind(content: object) -> str:
    return "nothing" if content is None else f"a {type(content).__name__}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return one phrase for each value that differs, such as `space.epochs.max: 3 before, 5 now`."""
    found: list[str] = []
    for key in {**before, **after}:
        old, new = before.get(key, ABSENT), after.get(key, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old} before, {new} now")
    return found
