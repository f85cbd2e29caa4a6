"""From the words after `hpo run` and other verbs to a study: of a file, of flags, or of the store."""

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import ConfigurationError

if TYPE_CHECKING:
    from hpo.config.study_file import StudyConfig

PATHS: Mapping[str, str] = {
    "model": "model.name",
    "train": "data.train",
    "validation": "data.validation",
    "test": "data.test",
    "text_column": "data.text_column",
    "label_column": "data.label_column",
    "strict": "data.strict",
    "space": "space",
    "study": "study",
    "store": "store.url",
    "trials": "budget.trials",
    "for_": "budget.time",
    "until": "budget.until",
    "gpu_hours": "budget.gpu_hours",
    "seed": "seed",
    "runner": "compute.runner",
    "ray_address": "compute.ray_address",
    "workers": "compute.workers",
    "keep_weights": "store.keep_weights",
    "notify": "notify",
}
"""Parameter of a verb -> the key of a study file that it sets."""
TIMES = {"budget.time", "budget.until"}
NEEDED = (("model", "--model PATH_OR_HUB_ID"), ("train", "--train FILE"))


def given_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a verb's parameters was given, by the keys of a study file that it sets."""
    given = {PATHS[name]: value for name, value in parameters.items() if name in PATHS}
    # A switch that was not given is False, and a flag that may be repeated is empty; a number that was given may be 0.
    return {
        path: value
        for path, value in given.items()
        if value is not None and value is not False and value not in ([], ())
    }


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted path as a study file has them."""
    content: dict[str, Any] = {}
    for dotted, value in values.items():
        *path, key = dotted.split(".")
        inner = content
        for part in path:
            inner = inner.setdefault(part, {})
        inner[key] = str(value) if isinstance(value, Path) else value
    return content


def studied(parameters: Mapping[str, Any], verb: str) -> "tuple[StudyConfig, tuple[str, ...]]":
    """Return the study that a verb's parameters describe, and what is to be said of its file.

    Raises:
        ConfigurationError: too little, too much, or what cannot be.
    """
    from hpo.config.study_file import load_config, sweep_notes

    file, overrides = _file_and_overrides(parameters["arguments"] or [], verb)
    values = given_values(parameters)
    if file is None:
        _refuse_missing(values, overrides, verb)
        values.setdefault("study", study_name(parameters["model"], parameters["train"]))
    return load_config(file, nested(values), overrides), sweep_notes(file) if file else ()


def study_of_store(parameters: Mapping[str, Any]) -> "StudyConfig":
    """Return a study as the store says that it was begun, with what a verb was given over it.

    Whom to tell is not there: that may be secret, and is given again. Of its times one that is given takes the place of
    both; else that of its first run is counted anew.

    Raises:
        ConfigurationError: no such study, several where none was named, or what cannot be.
        NoResultError, StoreError: there is none.
    """
    from hpo.cli import options
    from hpo.config.overrides import merge
    from hpo.config.study_file import load_config
    from hpo.store.results import read_search

    values = given_values(parameters)
    url = values.setdefault("store.url", options.DEFAULT_STORE)
    with options.opened(url) as database:
        results = read_search(database, values.get("study"))
    content: dict[str, Any] = {**deepcopy(dict(results.configuration)), "space": dict(results.space)}
    overrides: list[str] = parameters["arguments"] or []
    if TIMES & {*values, *(override.partition("=")[0].strip() for override in overrides)}:
        merge(content, {"budget": {"time": None, "until": None}})
    merge(content, nested(values))
    config = load_config(values=content, overrides=overrides)
    if (config.store.url, config.study) != (url, results.name):
        raise ConfigurationError("Without a study file the store and the study are named by --store and --study.")
    return config


def study_name(model: str | None, train: str | None) -> str:
    """Name a study after its texts and its model, so that the same command means the same study."""
    texts = Path((train or "").partition("?")[0]).name.partition(".")[0]
    name = f"{texts}-{Path(model or '').name}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:128] or "study"


def describes_study(parameters: Mapping[str, Any], verb: str) -> bool:
    """Return whether a verb was given a study file, or in its place a model."""
    file, overrides = _file_and_overrides(parameters["arguments"] or [], verb)
    names_model = any(override.startswith(("model.", "model=")) for override in overrides)
    return file is not None or parameters["model"] is not None or names_model


def _refuse_missing(values: Mapping[str, Any], overrides: list[str], verb: str) -> None:
    sections = tuple(override.partition("=")[0].partition(".")[0] for override in overrides)
    for name, flag in NEEDED:
        path = PATHS[name]
        if path not in values and path.partition(".")[0] not in sections:
            raise ConfigurationError(f"Without a study file {verb} needs {flag} too; hpo run alone shows an example.")


def _file_and_overrides(arguments: list[str], verb: str) -> tuple[Path | None, list[str]]:
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise ConfigurationError(
            f"{verb} takes one study file, and then PATH=VALUE, but got {', '.join(files)}; put a value after `=`."
        )
    return (Path(files[0]) if files else None), [argument for argument in arguments if "=" in argument]
