"""User commands to a running search, from another process: enqueue a trial, stop the search, stop a trial.

Each is one transaction, plus one for a confirmation. The leader reads `stop_asked` from the study's log; an enqueued
trial waits in Optuna's rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from hpo.errors import ConfigurationError, StoreError, StudyLedError
from hpo.space.domains import Value
from hpo.space.fitting import fitted
from hpo.space.search_space import SearchSpace
from hpo.store.database import Database
from hpo.store.leases import LeaseRecord, leader_of, lock_lease
from hpo.store.studies import chosen_study, confirmation_of, study_names
from hpo.store.study_store import StudyStore, refuse_other_semantics

UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequests:
    """Stops requested by a user while the search runs."""

    stop: bool
    trials: frozenset[int]
    """Trials to be pruned."""


def enqueue(
    database: Database, study: str | None, given: Mapping[str, Any], source: str
) -> tuple[int, dict[str, Value]]:
    """Enqueue a configuration ahead of the sampler's proposals; return its trial and the values of its parameters.

    Args:
        database: the store.
        study: the study's name; None for the only one of the store.
        given: hyperparameter -> value, including the real learning rate; missing ones are as in the default
            configuration of the study's space.
        source: name of `given` in an error, usually its path.

    Raises:
        ConfigurationError: no such study, or a configuration outside its space.
        StudyMismatchError: the study is from another version of hpo, and cannot be searched further.
    """
    store = _opened(database, study)
    with store.transaction():
        record = store.record()
        if record is None:
            raise StoreError(f"The study {store.name!r} was not made by hpo, which does not know its space.")
        refuse_other_semantics(store.name, record.versions)
        space = SearchSpace.from_mapping(record.space, f"of the study {store.name}")
        values = fitted(space, given, source)
        trial = store.trials.enqueue(space.sampled(values))
        store.events.add("enqueued", trial)
        made = space.hyperparameters(values)
        varied = [parameter.name for parameter in space.parameters if parameter.is_sampled]
        return trial, {name: getattr(made, name) for name in varied if name in values}


def ask_to_stop(database: Database, study: str | None, trial: int | None = None) -> tuple[str, str]:
    """Ask the leader of a study to end its search, or to prune `trial`; return the study's name and its leader.

    Raises:
        ConfigurationError: no process leads the study, or the trial does not exist or is over.
    """
    store = _opened(database, study)
    with store.transaction():
        leader = leader_of(lock_lease(store.rows))
        if leader is None:
            raise ConfigurationError(f"Nobody leads the study {store.name!r} now, so there is nothing to stop.")
        if trial is not None:
            _refuse_finished(store, trial)
        store.events.add("stop_asked", trial)
    # After the request is recorded, because a confirmation checks for it before it starts.
    if trial is None and (confirmation := confirmation_of(store.name)) in study_names(database):
        # One process leads both, and reads the log of the study that it is training.
        runs = _opened(database, confirmation)
        with runs.transaction():
            runs.events.add("stop_asked")
    return store.name, leader


def refuse_led(study: str, lease: LeaseRecord) -> None:
    """Raise StudyLedError if `lease` is valid."""
    if leader := leader_of(lease):
        raise StudyLedError(f"The study {study!r} is led by {leader}; end that search first, with hpo stop.")


def _opened(database: Database, study: str | None) -> StudyStore:
    with database.read_transaction():
        name = chosen_study(database, study)[1]
    return StudyStore(database, name, RandomSampler(), NopPruner())


def _refuse_finished(store: StudyStore, trial: int) -> None:
    states = {one.number: one.state for one in store.trials.get_all()}
    if trial not in states:
        raise ConfigurationError(
            f"The study {store.name!r} has no trial {trial}; those in it are 0 to {len(states) - 1}."
        )
    if states[trial] not in UNFINISHED:
        unfinished = ", ".join(str(number) for number, state in states.items() if state in UNFINISHED)
        raise ConfigurationError(
            f"Trial {trial} of the study {store.name!r} is over already ({states[trial].name}); "
            + (f"not over are {unfinished}." if unfinished else "so are all others.")
        )
