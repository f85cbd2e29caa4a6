"""Warm start: the sampler learns from trials of earlier studies, and the best of them are tried first.

They are copied once, into the new study's space and log, so that it resumes without the earlier store. They are not
trials of the new study: only its sampler sees them.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial, create_trial

from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError, HpoError, StoreError
from hpo.search.grid_sampler import combination_key
from hpo.search.samplers import EarlierTrials, PerTrialSampler, sampler_of
from hpo.space.fitting import carried_over
from hpo.space.search_space import SearchSpace
from hpo.store.database import open_database, parsed_url, sqlite_path, without_password
from hpo.store.results import StudyResults, read_search
from hpo.store.study_store import StudyStore
from hpo.store.tables import WARM_START_EVENT

TRIED_FIRST = 3
"""Best trials of each earlier study that are trained after the default and before the sampler's proposals."""
LEARNING = ("tpe", "gp")
"""Samplers that can learn from trials that they did not propose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierStudy:
    """A study whose trials are to be taken over."""

    reference: str
    """Its name, preceded by the URL of another store, without a password."""
    results: StudyResults


def read_earlier(config: StudyConfig, known: Collection[str]) -> list[EarlierStudy]:
    """Read the studies that `config.warm_start` names, except the references in `known`.

    Raises:
        ConfigurationError: a study that does not exist, cannot be read, or is this one.
    """
    named = {_shown(one): one for one in config.warm_start}
    return [_read(config, one) for shown, one in named.items() if shown not in known]


def absolute(config: StudyConfig) -> StudyConfig:
    """Return the study with its store's URL before the names of earlier studies, so that another store can lead it."""
    located = (one if "#" in one else f"{config.store.url}#{one}" for one in config.warm_start)
    return config.model_copy(update={"warm_start": tuple(located)})


def take_over(
    store: StudyStore, space: SearchSpace, config: StudyConfig, earlier: Sequence[EarlierStudy], metric: str
) -> list[str]:
    """Record the trials taken over from earlier studies and enqueue the best; return a sentence on each study.

    Raises:
        ConfigurationError: a study of another task or metric.
    """
    found, sentences = [_carried(study, space, config, metric) for study in earlier], []
    for study, (taken, sentence) in zip(earlier, found, strict=True):
        store.events.add(WARM_START_EVENT, study=study.reference, reason=sentence, trials=taken)
        tried = _enqueue_best(store, taken)
        tells = f" The best {tried} of them are tried after the default." if tried else ""
        sentences.append(sentence + _unlearned(config, space, taken) + tells)
    sampler = store.study.sampler
    if sampler_of(config, space) in LEARNING and isinstance(sampler, PerTrialSampler):
        sampler.earlier = _recorded(store, space)
    return sentences


def carried_notes(earlier: Sequence[EarlierStudy], space: SearchSpace, config: StudyConfig, metric: str) -> list[str]:
    """Return sentences on what a search over `space` would take over of each study; raises as `take_over` does."""
    found = [_carried(study, space, config, metric) for study in earlier]
    return [sentence + _unlearned(config, space, taken) for taken, sentence in found]


def _unlearned(config: StudyConfig, space: SearchSpace, taken: Sequence[object]) -> str:
    """Append to a sentence that the study's sampler does not learn from the trials taken over."""
    sampler = sampler_of(config, space)
    return f" Sampler {sampler} does not learn from them; tpe and gp do." if taken and sampler not in LEARNING else ""


def _shown(reference: str) -> str:
    url, _, name = reference.rpartition("#")
    try:
        return f"{without_password(parsed_url(url))}#{name}" if url else name
    except StoreError as error:
        raise ConfigurationError(f"warm_start cannot take over a study {name}: {error}") from None


def _place(url: str) -> object:
    path = sqlite_path(url)
    return path.resolve() if path else parsed_url(url)


def _read(config: StudyConfig, reference: str) -> EarlierStudy:
    url, _, name = reference.rpartition("#")
    if name == config.study and (not url or _place(url) == _place(config.store.url)):
        raise ConfigurationError(f"warm_start names {name!r}, which is this study itself; name an earlier one.")
    try:
        with closing(open_database(url or config.store.url, must_exist=True)) as database:
            return EarlierStudy(reference=_shown(reference), results=read_search(database, name))
    except HpoError as error:
        raise ConfigurationError(f"warm_start cannot take over {_shown(reference)}: {error}") from None


def _carried(
    study: EarlierStudy, space: SearchSpace, config: StudyConfig, metric: str
) -> tuple[list[dict[str, Any]], str]:
    """Return the completed trials of a study in `space`, the oldest first, and how many are used and why not all."""
    of_task, results = study.results.configuration.get("task", {}).get("name", "classification"), study.results
    task = config.task.name
    if (of_task, results.metric) != (task, metric):
        raise ConfigurationError(
            f"warm_start names {study.reference}, a study of {of_task} by {results.metric}, but this one is of {task} "
            f"by {metric}, so its scores do not say what is good here; leave it out."
        )
    taken, outside = list[dict[str, Any]](), Counter[str]()
    for trial in sorted(results.leaderboard, key=lambda one: one.number):
        values = carried_over(space, trial.configuration, trial.sampled)
        if isinstance(values, str):
            outside[values] += 1
        else:
            taken.append({"parameters": space.sampled(values), "score": trial.score})
    reasons = [f"{outside.total()} had values outside the space ({', '.join(outside)})"] if outside else []
    if incomplete := len(results.trials) - len(results.leaderboard):
        reasons.append(f"{incomplete} did not complete")
    used = f"{len(taken)} of {len(results.trials)} trials of {study.reference} are used"
    return taken, f"{used}{': ' if reasons else ''}{', '.join(reasons)}."


def _enqueue_best(store: StudyStore, taken: Sequence[Mapping[str, Any]]) -> int:
    """Enqueue the best configurations that the study does not have yet, and return how many."""
    known = {combination_key(one.system_attrs.get("fixed_params", one.params)) for one in store.trials.get_all()}
    new: dict[Hashable, Mapping[str, Any]] = {}
    for one in sorted(taken, key=lambda one: -one["score"]):
        key = combination_key(one["parameters"])
        if key not in known and len(new) < TRIED_FIRST:
            new.setdefault(key, one["parameters"])
    for parameters in new.values():
        store.trials.enqueue(parameters, proposed_by="warm_start")
    return len(new)


def _recorded(store: StudyStore, space: SearchSpace) -> list[EarlierTrials]:
    """Return the trials that were taken over, as the sampler sees them."""
    studies = [event.detail["trials"] for event in store.events.all(WARM_START_EVENT)]
    numbers = count(-sum(map(len, studies)))
    return [EarlierTrials([_frozen(space, one, next(numbers)) for one in trials]) for trials in studies]


def _frozen(space: SearchSpace, recorded: Mapping[str, Any], number: int) -> FrozenTrial:
    asked = FixedTrial(recorded["parameters"])
    space.suggest(asked)
    trial = create_trial(value=recorded["score"], params=asked.params, distributions=asked.distributions)
    trial.number = number
    return trial
