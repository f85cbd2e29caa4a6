"""Deletes a study: Optuna's rows and ours in one transaction."""

from collections.abc import Callable

import sqlalchemy as sa

from hpo.store.engine import Database
from hpo.store.records import LeaseRecord
from hpo.store.results import chosen_study
from hpo.store.standing import read_lease
from hpo.store.tables import attempts, evaluations, events, studies


def delete_study(database: Database, name: str, *, refuse: Callable[[str, LeaseRecord], None]) -> None:
    """Delete all rows of a study but its lease, whose fence refuses who led it by the next study of its number.

    Args:
        database: the store.
        name: the study.
        refuse: is shown the study's name and its newest lease, and raises where that forbids it.

    Raises:
        ConfigurationError: there is no such study.
    """
    with database.transaction() as connection:
        study_id, _ = chosen_study(database, name)
        lease = read_lease(connection, study_id, lock=True)
        if lease is not None:
            refuse(name, lease)
        for table in (attempts, evaluations, events, studies):
            connection.execute(sa.delete(table).where(table.c.study_id == study_id))
        database.storage.delete_study(study_id)
