"""Deletes a study: Optuna's rows and ours in one transaction."""

from collections.abc import Callable

import sqlalchemy as sa

from hpo.store.engine import Database
from hpo.store.records import LeaseRecord
from hpo.store.results import chosen_study, confirmation_of
from hpo.store.standing import read_lease
from hpo.store.tables import attempts, evaluations, events, studies


def delete_study(database: Database, name: str, *, refuse: Callable[[str, LeaseRecord], None]) -> None:
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
        ids = {study.study_name: study._study_id for study in database.storage.get_all_studies()}
        for each in (name, confirmation_of(name)):
            if each not in ids:
                continue
            lease = read_lease(connection, ids[each], lock=True)
            if lease is not None:
                refuse(each, lease)
            for table in (attempts, evaluations, events, studies):
                connection.execute(sa.delete(table).where(table.c.study_id == ids[each]))
            database.storage.delete_study(ids[each])
