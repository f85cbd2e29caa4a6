"""A study file in the words of other libraries, made ours: its keys, and the names among its values."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from hpo.config.naming import metric_note, metric_of, study_key, study_value
from hpo.config.other_study_names import STUDY_VALUES
from hpo.config.overrides import fill
from hpo.config.reading import dotted_keys, section


def in_our_words(content: Mapping[str, Any], model: type[BaseModel], notes: list[str]) -> dict[str, Any]:
    """Return a study file's content with every key that is understood by our name; `notes` gets what is to be said.

    A dotted key, `model.name`, stands for nested ones. A key that stands for ours where ours is given too stays as it
    is, to be refused.
    """
    read: dict[str, Any] = {}
    for path, value, meant in list(_keys(content, model, ())):
        inner = read
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        if meant is None or _has(content, meant.split(".")):
            inner[path[-1]] = value
            continue
        if meant != ".".join(path):
            notes.append(f"{'.'.join(path)} is taken for {meant}.")
        fill(read, _nested(meant.split("."), value))
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
        elif field or not isinstance(key, str):
            yield path, value, None
        elif key in dotted_keys(model):
            yield path, value, ".".join(path)
        else:
            meant = study_key(key, model.model_fields)
            yield path, value, ".".join((*above, meant)) if meant in model.model_fields else meant


def _has(content: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if path[1:] else value}


def translate_values(study: dict[str, Any], notes: list[str]) -> None:
    """Put our names for the values of a study that are another library's; `notes` gets a sentence for each."""
    for path in STUDY_VALUES:
        place, key = path.split(".")
        if _has(study, [place, key]) and (ours := study_value(path, study[place][key])):
            notes.append(f"{path} {study[place][key]} is taken for {ours}.")
            study[place][key] = ours
    metric = study["task"]["metric"] if _has(study, ["task", "metric"]) else None
    if isinstance(metric, str) and ":" not in metric and metric != "f1":
        ours, is_loss = metric_of(metric)
        # A loss that no goal was given for is refused where the metric is.
        if not is_loss and ours != metric:
            notes += metric_note(metric, ours)
            study["task"]["metric"] = ours
