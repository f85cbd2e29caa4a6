"""Study loading: a study file or W&B sweep, values and overrides, in our names or another library's, all validated.

The way of a study: file -> our names -> values over it -> overrides -> space -> `StudyConfig`; all mistakes are told
at once.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hpo.config.naming import meaning, metric_note, metric_of, study_key, study_value
from hpo.config.other_names import STUDY_VALUES, Alias
from hpo.config.overrides import FIELDS, alias_note, apply_override, find_path, has_path, meant_path, merge, set_path
from hpo.config.parsing import dotted_keys, read_model, read_yaml_mapping, section
from hpo.config.study_file import StudyConfig
from hpo.config.sweep_file import Sweep, read_sweep
from hpo.errors import ConfigurationError, Mistakes
from hpo.space.automatic import AUTO
from hpo.space.space_file import space_of

KEYS = dotted_keys(StudyConfig)
SECTIONS = StudyConfig.model_fields


def load_config(
    path: Path | None = None, values: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> StudyConfig:
    """Read a study: the file at `path`, then `values` over it, then `overrides` such as `budget.trials=40`.

    Args:
        path: a YAML study file, or a W&B sweep file; relative paths in it are taken from the working folder.
        values: nested values that replace those of the file.
        overrides: `dotted.path=value`, the value in YAML. Below `space.` they reach into the named space, as in
            `space.learning_rate.max=10`.

    Raises:
        ConfigurationError: all unknown keys, bad values, and overrides that lead nowhere.
    """
    return load_study(path, values, overrides)[0]


def load_study(
    path: Path | None = None,
    values: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    needed: Mapping[str, str] | None = None,
) -> tuple[StudyConfig, tuple[str, ...]]:
    """Return the study that `load_config` does, and notes on what its file calls otherwise or what is not used of it.

    Notes on its space are in the space. `needed` is what to say where a dotted key is missing.
    """
    content, source = (read_yaml_mapping(path), str(path)) if path else ({}, "study")
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
    # That of the model first, which the space may follow from.
    for override in sorted(overrides, key=lambda override: not override.lstrip().startswith("model.")):
        with mistakes.gathered():
            notes += apply_override(study, override, KEYS)
    _translate_values(study, notes)
    with mistakes.gathered():
        # What is neither a name nor parameters is no space's fault.
        named = study.get("space", AUTO)
        if isinstance(named, str | Mapping) and named != AUTO:
            space = space_of(named, source if sweep else "of the study")
            if sweep:
                usual, said = sweep.of_space(space)
                merge(study, usual, replace=False)
                notes += said
    read = None
    with mistakes.gathered():
        read = read_model(StudyConfig, study, source, needed)
    mistakes.refuse()
    assert read is not None
    return read, tuple(notes)


def _as_sweep(
    content: Mapping[str, Any], path: Path | None, mistakes: Mistakes, overrides: Sequence[str]
) -> Sweep | None:
    """Return the content of the file at `path` where that is a W&B sweep: it has `parameters`, and no key of ours."""
    if path is None or "parameters" not in content or content.keys() & SECTIONS.keys():
        return None
    metric_given = any(override.partition("=")[0].strip() == "task.metric" for override in overrides)
    return read_sweep(content, str(path), path.stem, mistakes, metric_given=metric_given)


def _in_our_names(content: Mapping[str, Any], notes: list[str], mistakes: Mistakes) -> dict[str, Any]:
    """Return a study's content with every key that is understood by our name; `notes` gets what is to be said.

    Dotted keys that lead nowhere, or to what is given already, are left to `mistakes`. A key that stands for ours where
    ours is given too stays as it is, to be refused. A text in place of a section that has a `url` is that.
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
    """Return whether a key at the top of a study is a path, or a hyperparameter, whose place is told as a path's is."""
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
    """Return the path and the value of each key that is no section; nothing of an empty section."""
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
    """Put our names for the values of a study that are another library's; `notes` gets a sentence for each."""
    for path in STUDY_VALUES:
        place, key = path.split(".")
        if has_path(study, [place, key]) and (ours := study_value(path, study[place][key])):
            notes.append(f"{path} {study[place][key]} is taken for {ours}.")
            study[place][key] = ours
    metric = study["task"]["metric"] if has_path(study, ["task", "metric"]) else None
    if isinstance(metric, str) and ":" not in metric and metric != "f1":
        ours, is_loss = metric_of(metric)
        # A loss that no goal was given for is refused where the metric is.
        if not is_loss and ours != metric:
            notes += metric_note(metric, ours)
            study["task"]["metric"] = ours
