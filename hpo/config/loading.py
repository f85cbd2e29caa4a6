"""From a file, values and overrides to a study: read in our words, over each other, all mistakes told at once."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hpo.config.overrides import apply, merge
from hpo.config.reading import Model, dotted_keys, read_model, read_yaml_mapping
from hpo.config.study_words import in_our_words, translate_values
from hpo.config.sweep_file import Sweep, read_sweep
from hpo.errors import ConfigurationError, Mistakes
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import space_of


def read_study(
    model: type[Model],
    path: Path | None,
    values: Mapping[str, Any],
    overrides: Sequence[str],
    needed: Mapping[str, str],
) -> tuple[Model, tuple[str, ...]]:
    """Return a study, and what was taken for ours or left out of its file, in sentences.

    Args:
        model: what a study is.
        path: a YAML study file, or a W&B sweep file.
        values: nested values that replace those of the file.
        overrides: `dotted.path=value`, the value in YAML.
        needed: what to say where a dotted key is missing.

    Raises:
        ConfigurationError: all unknown keys, bad values, and overrides that lead nowhere.
    """
    content, source = read_yaml_mapping(path) if path else {}, str(path) if path else "study"
    if "hyperparameters" in content:
        raise ConfigurationError(
            f"{path} holds one configuration, as hpo export writes it, and no study; train it with "
            f"`hpo train {shlex.quote(str(path))} --output FOLDER`, or see whether it gives its score again with "
            f"`hpo reproduce {shlex.quote(str(path))}`."
        )
    mistakes, notes = Mistakes(), list[str]()
    sweep = _as_sweep(content, path, mistakes, overrides, model.model_fields)
    if sweep:
        notes += sweep.notes
        lacking = "a W&B sweep says neither the model nor the texts; add --model PATH_OR_HUB_ID and --train FILE."
        needed = dict.fromkeys(("model", "data"), lacking)
    merged = sweep.values if sweep else {}
    for given in ({} if sweep else content, deepcopy(dict(values))):
        merge(merged, in_our_words(given, model, notes, mistakes))
    for override in overrides:
        with mistakes.gathered():
            notes += apply(merged, override, dotted_keys(model))
    translate_values(merged, notes)
    with mistakes.gathered():
        space = _space(merged.get("space", model.model_fields["space"].default), source if sweep else "of the study")
        if sweep and space:
            usual, said = sweep.of_space(space)
            merge(merged, usual, replace=False)
            notes += said
    read = None
    with mistakes.gathered():
        read = read_model(model, merged, source, needed)
    mistakes.refuse()
    assert read is not None
    return read, tuple(notes)


def _space(space: Any, name: str) -> SearchSpace | None:
    """Return the space that a study names or holds; None for what is neither, which is no space's fault."""
    if isinstance(space, Mapping):
        return space_of(space, name)
    return space_of(space) if isinstance(space, str) else None


def _as_sweep(
    content: Mapping[str, Any], path: Path | None, mistakes: Mistakes, overrides: Sequence[str], keys: Collection[str]
) -> Sweep | None:
    """Return the content of the file at `path` where that is a W&B sweep: it has `parameters`, and no key of ours."""
    if path is None or "parameters" not in content or content.keys() & set(keys):
        return None
    metric_given = any(override.partition("=")[0].strip() == "task.metric" for override in overrides)
    return read_sweep(content, str(path), path.stem, mistakes, metric_given=metric_given)
