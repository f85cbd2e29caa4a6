"""Studies of a store: listed, chosen by name, deleted."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection

from hpo.errors import ConfigurationError, NoResultError, StoreError, nearest
from hpo.store.database import Database
from hpo.store.leases import LeaseRecord, read_lease
from hpo.store.optuna_adapter import FrozenStudy, studies_in
from hpo.store.study_store import CONFIRMS_ATTRIBUTE, METRIC_ATTRIBUTE, UID_ATTRIBUTE, delete_rows, recorded_row
from hpo.store.tables import StudyRows

Refuse = Callable[[str, LeaseRecord], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """One study of a store."""

    name: str
    metric: str | None
    """Its metric; None if the study was not made by hpo."""
    trials: int
    completed: int
    pruned: int
    failed: int
    unfinished: int
    best: float | None


def confirmation_of(study: str) -> str:
    """Return the name of the study of a confirmation; study files cannot use such names."""
    return f"{study} (confirmation)"


def is_confirmation(name: str) -> bool:
    """Return true if a study of that name is a confirmation."""
    return name.endswith(confirmation_of(""))


def read_studies(database: Database) -> list[StudySummary]:
    """Return the studies of a store, in the order in which they were created."""
    with database.read_transaction():
        storage = database.storage
        return [
            _summary(study, storage.get_all_trials(study_id)) for study_id, study in _begun_studies(database).items()
        ]


def study_names(database: Database) -> list[str]:
    """Return the names of the studies of a store, confirmations among them."""
    with database.read_transaction():
        return [study.study_name for study in _begun_studies(database).values()]


def recorded_configuration(database: Database, name: str) -> dict[str, Any] | None:
    """Return the configuration that a study was begun with; None if hpo has begun no study of that name."""
    with database.read_transaction() as connection:
        for study_id, study in studies_in(database.storage).items():
            if study.study_name == name and (row := recorded_row(StudyRows(study_id, connection), study.user_attrs)):
                return dict(json.loads(row["configuration"]))
    return None


@contextmanager
def opened_study(database: Database, name: str | None) -> Iterator[tuple[str, StudyRows]]:
    """Read one study in one transaction: its name, and its rows.

    Args:
        database: the store.
        name: the study; None for the only one that hpo made.

    Raises:
        ConfigurationError: no such study, or several where none was named.
        NoResultError: there is no study yet.
        StoreError: a study that hpo did not make.
    """
    with database.read_transaction() as connection:
        study_id, name = chosen_study(database, name)
        rows, attributes = StudyRows(study_id, connection), database.storage.get_study_user_attrs(study_id)
        if recorded_row(rows, attributes) is None:
            raise StoreError(f"The study {name!r} was not made by hpo, which knows nothing of its configurations.")
        yield name, rows


def chosen_study(database: Database, name: str | None) -> tuple[int, str]:
    """Return (number, name) of a study, inside a transaction; raises as `opened_study` does if it does not exist."""
    begun = _begun_studies(database)
    ids = {study.study_name: study_id for study_id, study in begun.items()}
    searches = [study.study_name for study in begun.values() if CONFIRMS_ATTRIBUTE not in study.user_attrs]
    # A program with studies of its own in the same store does not make this one harder to name.
    searches = [name for name in searches if UID_ATTRIBUTE in begun[ids[name]].user_attrs] or searches
    if name is None and len(searches) == 1:
        name = searches[0]
    if not ids:
        raise NoResultError("The store holds no study yet; begin one with hpo run, or try hpo demo.")
    if name is None and not searches:
        raise NoResultError(
            f"The store holds only {', '.join(ids)}, runs for a search that was deleted; see hpo studies."
        )
    if name is None:
        raise ConfigurationError(f"The store holds several studies; name one with --study: {', '.join(searches)}.")
    if name not in ids:
        raise ConfigurationError(f"The store holds no study {name!r}. {nearest(name, searches or list(ids))}")
    return ids[name], name


def delete_study(database: Database, name: str, *, refuse: Refuse) -> None:
    """Delete all rows of a study and of its confirmation, Optuna's and ours in one transaction.

    Args:
        database: the store.
        name: the study.
        refuse: called with the study's name and its newest lease; raises an error to refuse.

    Raises:
        ConfigurationError: there is no such study.
    """
    with database.transaction() as connection:
        chosen_study(database, name)
        _delete(database, connection, name, refuse)
        delete_runs(database, connection, name, refuse=refuse)


def delete_runs(database: Database, connection: Connection, name: str, *, refuse: Refuse) -> None:
    """Delete all rows of a study's confirmation, if there is one, inside an open transaction."""
    _delete(database, connection, confirmation_of(name), refuse)


def _delete(database: Database, connection: Connection, name: str, refuse: Refuse) -> None:
    for study_id, study in studies_in(database.storage).items():
        if study.study_name == name:
            rows = StudyRows(study_id, connection)
            if (lease := read_lease(rows, lock=True)) is not None:
                refuse(name, lease)
            delete_rows(rows)
            database.storage.delete_study(study_id)


def _begun_studies(database: Database) -> dict[int, FrozenStudy]:
    """Return every study by its number, except names without content, whose first start was refused."""
    return {
        study_id: study
        for study_id, study in studies_in(database.storage).items()
        if study.user_attrs or database.storage.get_n_trials(study_id)
    }


def _summary(study: FrozenStudy, trials: Sequence[FrozenTrial]) -> StudySummary:
    metric, count = study.user_attrs.get(METRIC_ATTRIBUTE), Counter(trial.state for trial in trials)
    # In a study of hpo's, a trial that hpo did not train has no configuration to recommend, whatever its score.
    trained = [trial for trial in trials if metric is None or "proposed_by" in trial.user_attrs]
    return StudySummary(
        name=study.study_name,
        metric=metric,
        trials=len(trials),
        completed=count[TrialState.COMPLETE],
        pruned=count[TrialState.PRUNED],
        failed=count[TrialState.FAIL],
        unfinished=count[TrialState.RUNNING] + count[TrialState.WAITING],
        best=_best(study, [trial for trial in trained if trial.state == TrialState.COMPLETE]),
    )


def _best(study: FrozenStudy, completed: Sequence[FrozenTrial]) -> float | None:
    """Return the best score; None without one, or where a study has several objectives and so no single best."""
    if len(study.directions) > 1:
        return None
    choose = min if study.directions[0] == StudyDirection.MINIMIZE else max
    return choose((trial.values[0] for trial in completed), default=None)
