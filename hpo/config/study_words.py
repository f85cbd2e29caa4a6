"""A study file in the words of other libraries, made ours: its keys, and the names among its values."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from hpo.config.naming import meaning, metric_note, metric_of, study_key, study_value
from hpo.config.other_names import Alias
from hpo.config.other_study_names import STUDY_VALUES
from hpo.config.overrides import FIELDS, has, merge, path_into, put, taken_for
from hpo.config.reading import dotted_keys, section
from hpo.errors import ConfigurationError, Mistakes


def in_our_words(
    content: Mapping[str, Any], model: type[BaseModel], notes: list[str], mistakes: Mistakes
) -> dict[str, Any]:
    """Return a study's content with every key that is understood by our name; `notes` gets what is to be said.

    Dotted keys that lead nowhere, or to what is given already, are left to `mistakes`. A key that stands for ours where
    ours is given too stays as it is, to be refused. A text in place of a section that has a `url` is that.
    """
    dotted = {key: value for key, value in content.items() if _is_dotted(key, model)}
    given = _nested_keys({key: value for key, value in content.items() if key not in dotted}, model, notes)
    read, paths, keys = deepcopy(given), list[list[str]](), dotted_keys(model)
    for key, value in dotted.items():
        with mistakes.gathered():
            path = path_into(read, key, keys)
            if has(given, path) or any(path[: len(one)] == one[: len(path)] for one in paths):
                raise ConfigurationError(f"{'.'.join(path)!r} is given twice.")
            put(read, path, value, keys)
            notes += taken_for(key, ".".join(path))
            paths.append(path)
    return read


def _is_dotted(key: Any, model: type[BaseModel]) -> bool:
    """Return whether a key at the top of a study is a path, or a hyperparameter, whose place is told as a path's is."""
    if not isinstance(key, str) or key in model.model_fields or study_key(key, model.model_fields):
        return False
    return "." in key or ("space" in model.model_fields and isinstance(meaning(key, FIELDS), Alias))


def _nested_keys(content: Mapping[str, Any], model: type[BaseModel], notes: list[str]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for path, value, meant in list(_keys(content, model, ())):
        inner = read
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        if meant is None or any(has(known, meant.split(".")) for known in (content, read)):
            inner[path[-1]] = value
            continue
        notes += taken_for(".".join(path), meant)
        merge(read, _nested(meant.split("."), value), replace=False)
    return read


def _keys(
    content: Mapping[str, Any], model: type[BaseModel], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, str | None]]:
    """Return the path of each key, its value, and of one that is not ours what it means."""
    for key, value in content.items():
        path = (*above, str(key))
        field = model.model_fields.get(key)
        inner = section(field.annotation) if field else None
        if inner and isinstance(value, Mapping) and value:
            yield from _keys(value, inner, path)
        elif inner and isinstance(value, str) and "url" in inner.model_fields:
            yield (*path, "url"), value, None
        elif inner and value is None:
            continue
        elif field or not isinstance(key, str):
            yield path, value, None
        else:
            meant = study_key(key, model.model_fields)
            yield path, value, ".".join((*above, meant)) if meant in model.model_fields else meant


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if path[1:] else value}


def translate_values(study: dict[str, Any], notes: list[str]) -> None:
    """Put our names for the values of a study that are another library's; `notes` gets a sentence for each."""
    for path in STUDY_VALUES:
        place, key = path.split(".")
        if has(study, [place, key]) and (ours := study_value(path, study[place][key])):
            notes.append(f"{path} {study[place][key]} is taken for {ours}.")
            study[place][key] = ours
    metric = study["task"]["metric"] if has(study, ["task", "metric"]) else None
    if isinstance(metric, str) and ":" not in metric and metric != "f1":
        ours, is_loss = metric_of(metric)
        # A loss that no goal was given for is refused where the metric is.
        if not is_loss and ours != metric:
            notes += metric_note(metric, ours)
            study["task"]["metric"] = ours
