"""Study leadership: a coordinator that holds the study's lease, refused if the study has other settings."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from threading import Event
from typing import Any

from optuna.study import StudyDirection

from hpo.config.parsing import differences
from hpo.config.study_file import EvaluationConfig, ModelConfig, StudyConfig
from hpo.config.tasks import TaskConfig
from hpo.config.times import LOCAL_ZONE
from hpo.errors import StoreError, StudyMismatchError
from hpo.search.budget import Limits, limits_of
from hpo.search.coordinator import Coordinator, Proposes
from hpo.search.proposals import Proposals
from hpo.search.pruners import build_pruner
from hpo.search.samplers import build_sampler
from hpo.search.warm_start import read_earlier
from hpo.space.search_space import SearchSpace
from hpo.store.database import open_database
from hpo.store.leases import acquire_lease, renewed_lease
from hpo.store.study_store import StudyRecord, StudyStore, refuse_other_semantics
from hpo.store.tables import WARM_START_EVENT

MAX_NAMED = 6
# Settings that a later start of the same study may change; texts and space are compared by their content.
CHANGEABLE = ("budget", "compute", "store", "search", "data", "space", "notify", "confirmation")


@contextmanager
def leading(
    config: StudyConfig,
    space: SearchSpace,
    *,
    data_fingerprint: str,
    clock: Callable[[], float] = time.time,
    limits: Limits | None = None,
    proposes: Proposes = Proposals,
    stop: Event | None = None,
    searches: bool = True,
) -> Iterator[Coordinator]:
    """Lead the study that `config` names until the block ends; `Coordinator.begin` then starts or resumes it.

    Args:
        config: the study.
        space: its space.
        data_fingerprint: `Splits.fingerprint` of its data.
        clock: seconds since 1970, for the budget's times; the lease uses the database's own clock.
        limits: of this run; None for those of the budget.
        proposes: makes the proposer.
        stop: once it is set, or the deadline is past, an unreachable store is not waited for.
        searches: True if trials of the study itself are trained.

    Raises:
        ConfigurationError: the budget's deadline is past, or an earlier study for the warm start cannot be read.
        StudyLedError: another process leads it.
        StudyMismatchError: the stored study was made from another space, data set or model, or it is to be searched and
            has other semantics; nothing was changed.
        StoreError: the store cannot be opened or written.
    """
    record = StudyRecord(
        configuration=_recorded(config), space=space.to_mapping(), data_fingerprint=data_fingerprint, versions={}
    )
    now = datetime.fromtimestamp(clock(), LOCAL_ZONE)
    limits = limits or limits_of(config.budget, now, config.compute.devices_of_trial)

    def is_ending() -> bool:
        return (stop is not None and stop.is_set()) or clock() >= (limits.deadline or math.inf)

    with closing(open_database(config.store.url, is_ending=is_ending)) as database:
        store = StudyStore(database, config.study, build_sampler(config, space), build_pruner(config))
        with store.transaction():
            lease = acquire_lease(store)
            last_event = store.events.newest()
            stored = store.record()
            taken_over = store.events.all(WARM_START_EVENT) if stored else []
            if stored is None:
                _refuse_foreign_study(store)
            else:
                if searches:
                    refuse_other_semantics(store.name, stored.versions)
                refuse_other_study(store.name, stored, record)
        try:
            with renewed_lease(database, store, lease.fence):
                earlier = read_earlier(config, {event.detail["study"] for event in taken_over}) if searches else []
                yield Coordinator(
                    store, space, config, record, lease, limits=limits, last_event=last_event, clock=clock,
                    proposes=proposes, stop=stop, earlier=earlier,
                )  # fmt: skip
        finally:
            # If the store cannot be reached, the lease expires by itself.
            with suppress(StoreError), store.transaction():
                lease.release()


def _refuse_foreign_study(store: StudyStore) -> None:
    """Raise StudyMismatchError if a study without a record of hpo has any trials."""
    if store.trials.count() or store.study.directions != [StudyDirection.MAXIMIZE]:
        raise StudyMismatchError(
            f"The study {store.name!r} is in the store, but was not made by hpo. Start a new study with --study NAME. "
            "Nothing was changed."
        )


def refuse_other_study(name: str, stored: StudyRecord, now: StudyRecord) -> None:
    """Raise StudyMismatchError if a study recorded as `stored` cannot be resumed as `now`."""
    changed = differences(_widened(stored.space, now.space), now.space, "space.")
    changed += differences(_compared(stored.configuration), _compared(now.configuration))
    if stored.data_fingerprint != now.data_fingerprint:
        changed.append(_other_data(stored.configuration, now.configuration))
    if changed:
        more = f"; and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
        raise StudyMismatchError(
            f"The study {name!r} was begun otherwise, and its results would not compare; start a new study with "
            "--study NAME, or go back to what it was begun with, its PATH=VALUE overrides too. Nothing was changed. "
            "What differs: "
            f"{'; '.join(changed[:MAX_NAMED])}{more}."
        )


def _compared(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that must not change; keys newer than the study have their defaults.

    The first rung may change, like the pruner whose default it follows.
    """
    defaults = {"model": ModelConfig(name="", dtype="fp32"), "task": TaskConfig(), "evaluation": EvaluationConfig()}
    completed = {name: section.model_dump(mode="json") | configuration[name] for name, section in defaults.items()}
    completed["evaluation"].pop("first_rung")
    return {key: value for key, value in {**configuration, **completed}.items() if key not in CHANGEABLE}


def _widened(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored space with the ranges of `now` widened since, as Optuna allows for real numbers.

    Defaults stay as stored: where that of a wider range is its new middle, it is the only difference.
    """
    return {
        name: {**spec, "min": now[name]["min"], "max": now[name]["max"]}
        if _is_widened(name, spec, now.get(name))
        else spec
        for name, spec in stored.items()
    }


def _is_widened(name: str, before: Mapping[str, Any], now: Mapping[str, Any] | None) -> bool:
    # Rungs are shares of the longest trial, which data_fraction decides with epochs and batch_size.
    if now is None or name == "data_fraction" or before.get("distribution") not in ("uniform", "log_uniform_values"):
        return False
    free = ("min", "max", "default")
    same = {key: value for key, value in before.items() if key not in free}
    return (
        same == {key: value for key, value in now.items() if key not in free}
        and now["min"] <= before["min"]
        and before["max"] <= now["max"]
    )


def _other_data(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the sentence that the data differ, with the reason if known: old versions kept no rows for the verdict."""
    sentence = "data: the texts, labels or splits are not the same"
    before, after = _kept_share(stored), _kept_share(now)
    if before == after:
        return sentence
    kept = f"{before:.3g} of validation was kept for the confirmation, now {after:.3g} would be"
    return f"{sentence}: {kept}, by confirmation.validation_share (0 where finalists is 0)"


def _kept_share(configuration: Mapping[str, Any]) -> float:
    confirmation = configuration.get("confirmation") or {"finalists": 0}
    return float(confirmation["validation_share"]) if confirmation["finalists"] else 0.0


def _recorded(config: StudyConfig) -> dict[str, Any]:
    """Return the study file's content as plain values, without the store's address and other possible secrets."""
    return config.model_dump(mode="json", exclude={"store": {"url"}, "space": True, "notify": True, "warm_start": True})
