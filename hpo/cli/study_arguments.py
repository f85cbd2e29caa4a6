"""From the words after `hpo run` and other verbs to a study: of a file, of flags, or of the store."""

from collections.abc import Mapping
from copy import deepcopy
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.config.study_names import as_study_name
from hpo.errors import ConfigurationError, without_credentials

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
NEEDED = dict.fromkeys(("model", "model.name"), "--model PATH_OR_HUB_ID") | dict.fromkeys(
    ("data", "data.train"), "--train FILE"
)


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
    from hpo.config.loading import load_study

    file, overrides = _file_and_overrides(parameters["arguments"] or [], verb)
    values = given_values(parameters)
    needed: dict[str, str] = {}
    if file is None:
        values.setdefault("study", study_name(_model_of(parameters, overrides), parameters["train"]))
        for path, flag in NEEDED.items():
            needed[path] = f"Without a study file {verb} needs {flag} too; hpo run alone shows an example."
    return load_study(file, nested(values), overrides, needed)


def study_of_store(parameters: Mapping[str, Any]) -> "StudyConfig":
    """Return a study as the store says that it was begun, with what a verb was given over it.

    Whom to tell is not there: that may be secret, and is given again. Of its times one that is given takes the place of
    both; else that of its first run is counted anew.

    Raises:
        ConfigurationError: no such study, several where none was named, or what cannot be.
        NoResultError, StoreError: there is none.
    """
    from hpo.cli import options
    from hpo.config.loading import load_config
    from hpo.config.overrides import merge
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
    return as_study_name(name.replace(" ", "-").strip("-._"), "study")


def describes_study(parameters: Mapping[str, Any], verb: str) -> bool:
    """Return whether a verb was given a study file, or in its place a model."""
    file, overrides = _file_and_overrides(parameters["arguments"] or [], verb)
    names_model = any(override.startswith(("model.", "model=")) for override in overrides)
    return file is not None or parameters["model"] is not None or names_model


def _model_of(parameters: Mapping[str, Any], overrides: list[str]) -> str | None:
    """Return the model's name, by its flag or by an override."""
    given = (override.partition("=")[2] for override in overrides if override.startswith("model.name="))
    return parameters["model"] or next(given, None)


def _file_and_overrides(arguments: list[str], verb: str) -> tuple[Path | None, list[str]]:
    overrides = [argument for argument in arguments if _is_override(argument)]
    files = [argument for argument in arguments if argument not in overrides]
    if len(files) > 1:
        raise ConfigurationError(
            f"{verb} takes one study file, and then PATH=VALUE, but got {without_credentials(', '.join(files))}; put a "
            "value after `=`."
        )
    return (Path(files[0]) if files else None), overrides


def _is_override(argument: str) -> bool:
    """Return whether it is PATH=VALUE, and no file or source that has a `=` in its name."""
    path, separator, _ = argument.partition("=")
    return bool(separator) and "://" not in path and not isfile(argument)
