"""W&B sweep files: conversion of a sweep configuration to the values of a study file.

The keys are those of W&B's sweep configuration (docs.wandb.ai, "Sweep configuration options"). Keys with another effect
in hpo are refused; keys that hpo does not need are ignored, with a note. Parameters are read like those of any space.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hpo.config.naming import metric_note, metric_of
from hpo.config.study_names import as_study_name
from hpo.errors import ConfigurationError, Mistakes, nearest
from hpo.space.search_space import SearchSpace

SAMPLERS: Mapping[str, str] = {"bayes": "tpe", "random": "random", "grid": "grid"}
"""W&B's method -> hpo's sampler."""

_USED = ("method", "metric", "parameters", "early_terminate", "run_cap", "name")
_SILENT = ("description", "project", "entity", "apiVersion", "kind")
_NOTED = ("program", "command")
_REFUSED: Mapping[str, str] = {
    "controller": "hpo itself proposes the trials",
    "scheduler": "`method` alone says who proposes the trials",
    "job": "hpo itself trains",
    "image_uri": "hpo itself trains",
    "imageUri": "hpo itself trains",
    "prefix": "parameters are called by their own names",
    "metrics": "a study has one metric, named under `metric`",
}
_NOTED_OF_METRIC: Mapping[str, str] = {
    "target": "the search goes on to the end of its budget",
    "impute": "a failed trial has no score here",
    "impute_while_running": "a running trial has no score here but its own",
}
_EARLY_KEYS = ("type", "min_iter", "max_iter", "s", "eta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The content of a sweep file in hpo's terms."""

    values: dict[str, Any]
    """Values of a study file; without model and data, which no sweep has."""
    notes: tuple[str, ...]
    """Sentences on keys that are ignored or have another name in hpo."""
    first_score: float | None = None
    """Number of scores of a run after which W&B first stops runs; None without `early_terminate`."""

    def of_space(self, space: SearchSpace) -> tuple[dict[str, Any], list[str]]:
        """Return default values for a study over `space`, and notes on settings without an effect there."""
        values: dict[str, Any] = {}
        if self.values["search"]["sampler"] == "grid" and "budget" not in self.values:
            values["budget"] = {"trials": space.size()}
        if self.first_score is None:
            return values, []
        scores = space.largest("epochs")
        # Rungs are per mille of the longest trial, which has one score per epoch. Rounded down, because later rungs are
        # multiples of the first, and must not fall after the score that they belong to.
        first = math.floor(1000 * self.first_score / scores)
        values["evaluation"] = {"first_rung": min(1000, max(1, first))}
        if self.first_score < scores:
            return values, []
        lower = f"set min_iter below {scores:g}, or " if scores > 1 else ""
        return values, [
            f"The sweep's early_terminate ends no trial early: hpo scores a trial after each epoch, of which it has at "
            f"most {scores:g}, but early_terminate begins with score {self.first_score:g}; {lower}allow more epochs."
        ]


def read_sweep(
    content: Mapping[str, Any], source: str, name: str, mistakes: Mistakes, *, metric_given: bool = False
) -> Sweep:
    """Convert the content of a sweep file; its parameters are not read yet.

    Args:
        content: the file's keys and values.
        source: name of the file in an error, usually its path.
        name: name of the study if the sweep has none.
        mistakes: gets a ConfigurationError for each key or value with another effect in hpo.
        metric_given: true if an override replaces the sweep's metric.
    """
    values: dict[str, Any] = {
        "study": as_study_name(str(content.get("name") or name), "sweep"),
        "search": {"sampler": "tpe", "pruner": "none"},
    }
    notes = list(_notes(content))
    first_score = None
    for key in content:
        with mistakes.gathered():
            _check_key(key, source)
    with mistakes.gathered():
        values["search"]["sampler"] = SAMPLERS[_method(content, source)]
    with mistakes.gathered():
        values["space"] = _mapping(content, "parameters", source)
    if "metric" in content and not metric_given:
        with mistakes.gathered():
            metric, note = _metric(_mapping(content, "metric", source), source)
            values["task"] = {"metric": metric}
            notes += note
    if "early_terminate" in content:
        with mistakes.gathered():
            early = _mapping(content, "early_terminate", source)
            eta = _eta(early, source)
            first_score = _first_score(early, eta, source)
            # W&B's hyperband has a single bracket, so it is successive halving: all runs have the same rungs.
            values["search"] |= {"pruner": "successive_halving", "reduction_factor": eta}
    if "run_cap" in content:
        values["budget"] = {"trials": content["run_cap"]}
    return Sweep(values=values, notes=tuple(notes), first_score=first_score)


def _check_key(key: str, source: str) -> None:
    if key in _REFUSED:
        raise ConfigurationError(f"{source}: {key!r} is not for hpo, since {_REFUSED[key]}; take it out.")
    known = (*_USED, *_SILENT, *_NOTED)
    if key not in known:
        raise ConfigurationError(f"{source}: unknown key {key!r} of a W&B sweep. {nearest(str(key), known)}")


def _mapping(content: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    """Return the mapping under `key`; empty if there is no such key."""
    inner = content.get(key, {})
    if not isinstance(inner, Mapping):
        raise ConfigurationError(f"{source}: {key!r} must be keys and values, but is {inner!r}.")
    return inner


def _method(content: Mapping[str, Any], source: str) -> str:
    """Return the search strategy, which W&B requires; a file of parameters without it is a space file."""
    if "method" not in content:
        raise ConfigurationError(
            f"{source} has parameters but no `method: {' | '.join(SAMPLERS)}`, as a W&B sweep has; a file of "
            f"parameters alone is a search space, given as `--space {source}`."
        )
    method = str(content["method"])
    if method not in SAMPLERS:
        raise ConfigurationError(f"{source}: method {method!r} is not for hpo. {nearest(method, SAMPLERS)}")
    return method


def _metric(metric: Mapping[str, Any], source: str) -> tuple[str, list[str]]:
    """Return the metric to maximise on validation, and a note if its name was translated."""
    known = ("name", "goal", *_NOTED_OF_METRIC)
    unknown = [key for key in metric if key not in known]
    if unknown:
        raise ConfigurationError(
            *(f"{source}: unknown key {key!r} of metric. {nearest(str(key), known)}" for key in unknown)
        )
    if not isinstance(metric.get("name"), str):
        raise ConfigurationError(f"{source}: metric needs a `name:`, such as macro_f1.")
    name, is_loss = metric_of(metric["name"])
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise ConfigurationError(f"{source}: metric.goal cannot be {goal!r}. Known: maximize, minimize.")
    if is_loss == (goal == "minimize"):
        return name, metric_note(metric["name"], name)
    if is_loss:
        raise ConfigurationError(f"{source}: metric {metric['name']!r} is a loss; write `goal: minimize`.")
    usual = "" if "goal" in metric else ", which is W&B's usual goal"
    raise ConfigurationError(
        f"{source}: metric {metric['name']!r} is to be minimised{usual}, but hpo maximises, and minimises losses "
        "alone; write `goal: maximize`, or name another metric, by task.metric=NAME on the command line too."
    )


def _eta(early: Mapping[str, Any], source: str) -> int:
    """Return the reduction factor of W&B's hyperband, after a check of the keys of `early_terminate`."""
    if early.get("type") != "hyperband":
        raise ConfigurationError(f"{source}: early_terminate.type must be hyperband, but is {early.get('type')!r}.")
    unknown = [key for key in early if key not in _EARLY_KEYS]
    if unknown:
        raise ConfigurationError(
            *(
                f"{source}: early_terminate has {key!r}, which hpo does not do; take it out. "
                f"{nearest(str(key), _EARLY_KEYS)}"
                for key in unknown
            )
        )
    return _whole(early, "eta", 2, source) if "eta" in early else 3


def _first_score(early: Mapping[str, Any], eta: int, source: str) -> int:
    """Return the number of scores after which W&B first stops runs."""
    given = {"min_iter", "max_iter", "s"} & early.keys()
    if given == {"min_iter"}:
        return _whole(early, "min_iter", 1, source)
    if given == {"max_iter", "s"}:
        first = _whole(early, "max_iter", 1, source) * float(eta) ** -_whole(early, "s", 1, source)
        # W&B drops brackets before the first score. Rounding may leave a quotient slightly below a whole number.
        return max(1, math.floor(first + 1e-9))
    raise ConfigurationError(
        f"{source}: early_terminate needs min_iter, or max_iter and s, but has "
        f"{' and '.join(sorted(given)) or 'none of them'}; keep to one way."
    )


def _whole(early: Mapping[str, Any], key: str, least: int, source: str) -> int:
    value = early[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < least or value % 1:
        raise ConfigurationError(
            f"{source}: early_terminate.{key} must be a whole number of at least {least}, but is {value!r}."
        )
    return int(value)


def _notes(content: Mapping[str, Any]) -> Iterator[str]:
    unused = [key for key in _NOTED if key in content]
    if unused:
        yield f"The sweep's {' and '.join(unused)} {'is' if len(unused) == 1 else 'are'} not used: hpo itself trains."
    for key, why in _NOTED_OF_METRIC.items():
        if key in (content.get("metric") or ()):
            yield f"The sweep's metric.{key} is not used: {why}."
