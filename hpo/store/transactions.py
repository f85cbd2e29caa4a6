"""One study in one database, and the transactions in which its rows are read and written."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from sqlalchemy.engine import Connection

from hpo.store import statements
from hpo.store.engine import Database, translated
from hpo.store.trial_cache import TrialCache


class StudyTransactions:
    """One study in one database. Every method but `transaction` must be called inside a transaction.

    Transactions of several threads follow one another.
    """

    def __init__(self, database: Database, name: str, sampler: BaseSampler, pruner: BasePruner) -> None:
        """Open the study `name`, made if it is not there."""
        self.name = name
        self._database = database
        self._pruner = pruner
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        with translated(database.engine.url), quiet_optuna():
            optuna.create_study(storage=database.storage, study_name=name, direction="maximize", load_if_exists=True)
            self._picture = TrialCache(database.storage, name)
        self.study_id = self._picture.study_id
        self.study = optuna.load_study(study_name=name, storage=self._picture, sampler=sampler, pruner=pruner)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a transaction: what the block writes, here and through `study`, is kept whole or not at all."""
        with self._lock:
            self._picture.within(True)
            try:
                with self._database.transaction() as self._connection:
                    yield
                    self._record_states()
            except BaseException:
                self._forget()
                raise
            finally:
                self._connection = None
                self._picture.within(False)

    def _record_states(self) -> None:
        """Take over into our own table how trials stand, where some may stand otherwise than before."""
        if self._picture.states_changed:
            self._execute(statements.CHANGED_TRIALS, of_study=self.study_id)
            self._execute(statements.NEW_TRIALS, of_study=self.study_id)

    def _forget(self) -> None:
        """Forget what is remembered of the rows: after a rollback some of it never was."""
        self._picture.forget()

    def _open_connection(self) -> Connection:
        assert self._connection is not None, "the store's records are read and written inside a transaction"
        return self._connection

    def _trial(self, table: sa.Table, trial: int) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.study_id == self.study_id, table.c.trial == trial)

    def _execute(self, statement: sa.Executable, **parameters: Any) -> sa.CursorResult[Any]:
        return self._open_connection().execute(statement, parameters)

    def _insert(self, table: sa.Table, **values: Any) -> None:
        self._execute(sa.insert(table), study_id=self.study_id, **values)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from announcing a study that we announce ourselves."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
