"""Rows of one study: statements about them, in the transaction that is open."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

# What a statement is about; the names differ from those of columns, which an UPDATE would take for new values.
STUDY = sa.bindparam("of_study", type_=sa.Integer)
TRIAL = sa.bindparam("of_trial", type_=sa.Integer)
TO_TRIAL = sa.bindparam("to_trial", type_=sa.Integer)
ATTEMPT = sa.bindparam("of_attempt", type_=sa.Integer)


@dataclass(slots=True)
class StudyRows:
    """The rows of one study.

    Statements that are built once, with parameters, are run: building one in SQLAlchemy takes several times as long.
    """

    study_id: int
    connection: Connection | None = None
    """In a transaction; None outside of one."""

    @property
    def open_connection(self) -> Connection:
        """The connection of the transaction."""
        assert self.connection is not None, "the rows of a study are read and written inside a transaction"
        return self.connection

    def execute(self, statement: sa.Executable, **parameters: Any) -> sa.CursorResult[Any]:
        """Run a statement that takes `STUDY`, and these parameters."""
        return self.open_connection.execute(statement, {"of_study": self.study_id, **parameters})

    def insert(self, table: sa.Table, **values: Any) -> None:
        """Add a row to one of our tables."""
        self.open_connection.execute(sa.insert(table), {"study_id": self.study_id, **values})
