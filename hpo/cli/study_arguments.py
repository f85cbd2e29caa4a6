"""Study of a command: from a study file, from options, or from the store."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.cli.options import DEFAULT_STORE, opened, split_words
from hpo.config.study_names import as_study_name
from hpo.errors import ConfigurationError

if TYPE_CHECKING:
    from hpo.config.loading import StudyChecks
    from hpo.config.study_file import StudyConfig

TIMES = {"budget.time", "budget.until"}
NEEDED = dict.fromkeys(("model", "model.name"), "--model PATH_OR_HUB_ID") | dict.fromkeys(
    ("data", "data.train"), "--train FILE"
)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted path as nested mappings, like those of a study file."""
    content: dict[str, Any] = {}
    for dotted, value in values.items():
        *path, key = dotted.split(".")
        inner = content
        for part in path:
            inner = inner.setdefault(part, {})
        inner[key] = str(value) if isinstance(value, Path) else value
    return content


def study_of_words(
    words: Sequence[str] | None, given: Mapping[str, Any], verb: str, checks: "StudyChecks | None" = None
) -> "tuple[StudyConfig, tuple[str, ...]]":
    """Return the study that a verb's arguments and options describe, and notes on its file.

    Args:
        words: arguments after the verb.
        given: values of options, by dotted keys of a study file.
        verb: name of the verb for messages.
        checks: as in `hpo.config.loading.load_study`.

    Raises:
        ConfigurationError: a value is missing, unknown or out of range.
        HpoError: a mistake that `checks` has gathered.
    """
    from hpo.config.loading import load_study

    file, overrides = split_words(words, verb)
    needed: dict[str, str] = {}
    if file is None:
        model = given.get("model.name") or _overridden(overrides, "model.name")
        given = {"study": study_name(model, given.get("data.train")), **given}
        for path, flag in NEEDED.items():
            needed[path] = f"Without a study file {verb} needs {flag} too; hpo run alone shows an example."
    return load_study(file, nested(given), overrides, needed, checks)


def study_of_store(
    words: Sequence[str] | None, given: Mapping[str, Any], checks: "StudyChecks | None" = None
) -> "StudyConfig":
    """Return a study from the store, changed by a verb's overrides and options.

    The store has no recipients of notifications, which may be secret; they must be given again. A given time replaces
    both times of the study; otherwise the study's time starts again. `checks` are as in `study_of_words`.

    Raises:
        ConfigurationError: no such study, several if none was named, or a value out of range.
        HpoError: a mistake that `checks` has gathered.
        NoResultError, StoreError: there is no study, or no store.
    """
    from hpo.config.loading import load_study, merge
    from hpo.store.results import read_search

    overrides = list(words or ())
    given = {"store.url": DEFAULT_STORE, **given}
    with opened(given["store.url"]) as database:
        results = read_search(database, given.get("study"))
    content: dict[str, Any] = {**deepcopy(dict(results.configuration)), "space": dict(results.space)}
    if TIMES & {*given, *(override.partition("=")[0].strip() for override in overrides)}:
        merge(content, {"budget": {"time": None, "until": None}})
    merge(content, nested(given))
    config, _ = load_study(values=content, overrides=overrides, checks=checks)
    if (config.store.url, config.study) != (given["store.url"], results.name):
        raise ConfigurationError("Without a study file, give the store and the study by --store and --study.")
    return config


def study_name(model: str | None, train: str | None) -> str:
    """Return a name from a study's examples and model, so that the same command always means the same study."""
    examples = Path((train or "").partition("?")[0]).name.partition(".")[0]
    name = f"{examples}-{Path(model or '').name}"
    return as_study_name(name.replace(" ", "-").strip("-._"), "study")


def describes_study(words: Sequence[str] | None, given: Mapping[str, Any], verb: str) -> bool:
    """Return true if a verb was given a study file, or a model instead."""
    file, overrides = split_words(words, verb)
    names_model = any(override.startswith(("model.", "model=")) for override in overrides)
    return file is not None or "model.name" in given or names_model


def _overridden(overrides: Sequence[str], key: str) -> str | None:
    """Return the text that an override sets a key to."""
    return next((value for path, _, value in (one.partition("=") for one in overrides) if path == key), None)
