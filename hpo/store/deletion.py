"""Deletion of a study: Optuna's rows and ours in one transaction."""

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hpo.store.engine import Database
from hpo.store.listing import chosen_study, confirmation_of
from hpo.store.optuna_adapter import studies_in
from hpo.store.records import LeaseRecord
from hpo.store.studies import read_lease
from hpo.store.tables import attempts, evaluations, events, studies, trials

Refuse = Callable[[str, LeaseRecord], None]


def delete_study(database: Database, name: str, *, refuse: Refuse) -> None:
    """Delete all rows of a study and of its confirmation, but for their leases.

    The fence of a lease refuses who led the study by the next one of its number.

    Args:
        database: the store.
        name: the study.
        refuse: is shown the study's name and its newest lease, and raises where that forbids it.

    Raises:
        ConfigurationError: there is no such study.
    """
    with database.transaction() as connection:
        chosen_study(database, name)
        _delete(database, connection, (name, confirmation_of(name)), refuse)


def delete_confirmation(database: Database, name: str, *, refuse: Refuse) -> None:
    """Delete the confirmation of a study, where there is one, likewise: of a study that was deleted without it."""
    with database.transaction() as connection:
        _delete(database, connection, (confirmation_of(name),), refuse)


def _delete(database: Database, connection: Connection, names: Sequence[str], refuse: Refuse) -> None:
    ids = {study.study_name: study_id for study_id, study in studies_in(database.storage).items()}
    for name in names:
        if name not in ids:
            continue
        lease = read_lease(connection, ids[name], lock=True)
        if lease is not None:
            refuse(name, lease)
        for table in (attempts, evaluations, events, studies, trials):
            connection.execute(sa.delete(table).where(table.c.study_id == ids[name]))
        database.storage.delete_study(ids[name])
