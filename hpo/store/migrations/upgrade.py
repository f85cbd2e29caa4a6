"""Upgrade of our tables to the version of the installed hpo, inside the caller's transaction."""

from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from hpo.errors import StoreError
from hpo.store.tables import LEADERBOARD, OPTUNA_INDEXES, metadata

# Optuna keeps its own version in a table `alembic_version` of the same database.
VERSION_TABLE = "hpo_alembic_version"


def upgrade(connection: Connection) -> None:
    """Create the tables of a new store, or apply all migrations that an older one lacks."""
    if connection.dialect.name == "postgresql":
        # Of two processes that start at once one migrates, and the other then finds it done.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(5205180113)")
    if is_current(connection):
        return
    scripts, context = migrations(), _context(connection)
    # It stands on the tables that are changed.
    connection.exec_driver_sql("DROP VIEW IF EXISTS hpo_leaderboard")
    if context.get_current_revision() is None:
        metadata.create_all(connection, checkfirst=False)
        for statement in OPTUNA_INDEXES:
            connection.exec_driver_sql(statement)
        context.stamp(scripts, "head")
    else:
        _migrate(connection, scripts)
    connection.exec_driver_sql(LEADERBOARD)


def _migrate(connection: Connection, scripts: ScriptDirectory) -> None:
    environment = EnvironmentContext(
        Config(), scripts, fn=lambda revision, _context: scripts._upgrade_revs("head", revision)
    )
    with environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=True)
        environment.run_migrations()


def is_current(connection: Connection) -> bool:
    """Return true if the database's tables are of the newest version known here.

    Raises:
        StoreError: they were written by a newer hpo.
    """
    scripts, found = migrations(), _context(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise StoreError(
            f"The store was written by a newer hpo (its tables are of version {found}, this hpo knows up to "
            f"{scripts.get_current_head()}); upgrade hpo (git pull in its checkout), or name another store."
        )
    return found == scripts.get_current_head()


@cache
def migrations() -> ScriptDirectory:
    """Return the migrations of this folder."""
    return ScriptDirectory(str(Path(__file__).parent))


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
