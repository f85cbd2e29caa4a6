"""Migrations: an older store becomes what `tables.py` says, once; a store of a newer version is left alone."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import event

from hpo.errors import StoreError
from hpo.store.database import Database, open_database
from hpo.store.migrations.upgrade import VERSION_TABLE, migrations
from hpo.store.migrations.versions import v0007_device_seconds
from hpo.store.tables import metadata
from tests.search.scripted import everything, led, rows, search, study_at, written

OLD_LEADERBOARD = """
CREATE VIEW hpo_leaderboard AS
SELECT studies.study_name AS study, trials.number AS trial, trials.state AS state, trial_values.value AS score,
       best.train_score AS train_score, best.epoch AS best_epoch, last.attempt AS attempts, last.seconds AS seconds,
       last.reason AS reason, last.configuration AS configuration
FROM trials
JOIN studies ON studies.study_id = trials.study_id
LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id AND trial_values.objective = 0
LEFT JOIN hpo_attempts AS last
  ON last.study_id = trials.study_id AND last.trial = trials.number
  AND last.attempt = (SELECT max(attempt) FROM hpo_attempts
                      WHERE study_id = trials.study_id AND trial = trials.number)
LEFT JOIN hpo_evaluations AS best
  ON best.study_id = last.study_id AND best.trial = last.trial AND best.attempt = last.attempt
  AND best.rung = last.best_rung
ORDER BY studies.study_name, CASE WHEN CAST(trials.state AS VARCHAR(16)) = 'COMPLETE' THEN 0 ELSE 1 END,
         trial_values.value DESC
"""
"""As versions before 0006 had it, on Optuna's tables."""


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    opened = open_database(empty_database_url)
    yield opened
    opened.close()


def ours(name: str | None, kind: str, _parents: object) -> bool:
    """Return whether a thing of the database is one of our tables, or in one."""
    return kind != "table" or (name is not None and name.startswith("hpo_") and name != VERSION_TABLE)


def schema(url: str) -> dict[str, object]:
    """Return our tables and those that we index, whatever the order of their columns."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    inspected = sa.inspect(engine)
    found = {}
    for name in (*metadata.tables, "trials"):
        columns = sorted((one["name"], str(one["type"]), one["nullable"]) for one in inspected.get_columns(name))
        indexes = sorted((one["name"] or "", one["column_names"]) for one in inspected.get_indexes(name))
        key = inspected.get_pk_constraint(name)["constrained_columns"]
        found[name] = columns, indexes, key, inspected.get_unique_constraints(name)
    return found


def test_a_new_store_has_the_tables_that_the_code_uses(database: Database) -> None:
    options = {"include_name": ours, "compare_type": True, "compare_server_default": True}
    with database.read_transaction() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        names = set(sa.inspect(connection).get_table_names())
    assert set(metadata.tables) | {VERSION_TABLE, "alembic_version", "trials"} <= names


def test_our_version_and_optunas_stand_side_by_side(database: Database, empty_database_url: str) -> None:
    assert rows(empty_database_url, f"SELECT version_num FROM {VERSION_TABLE}") == [("0007",)]
    assert rows(empty_database_url, "SELECT version_num FROM alembic_version") == [("v3.2.0.a",)]


def test_tables_that_another_process_makes_at_the_same_time_are_found_made(
    empty_sqlite_url: str, request: pytest.FixtureRequest
) -> None:
    """The worst that can be: it is ahead by one table whenever Optuna has found that table missing here."""
    faster = sa.create_engine(empty_sqlite_url, poolclass=sa.NullPool)
    made: list[str] = []

    def make_first(table: sa.Table, connection: sa.Connection, **_: object) -> None:
        if connection.engine is not faster and table.name not in made:
            made.append(table.name)
            table.create(faster)

    for table in BaseModel.metadata.tables.values():
        event.listen(table, "before_create", make_first)
        request.addfinalizer(partial(event.remove, table, "before_create", make_first))
    open_database(empty_sqlite_url).close()
    assert sorted(made) == sorted(BaseModel.metadata.tables)


def test_versions_follow_one_another_in_a_line() -> None:
    assert len(migrations().get_heads()) == len(migrations().get_bases()) == 1


def test_a_store_of_a_newer_version_is_refused_and_left_alone(database_url: str) -> None:
    written(database_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    before = everything(database_url)
    with pytest.raises(StoreError) as error:
        open_database(database_url)
    assert str(error.value) == (
        "The store was written by a newer hpo (its tables are of version 9999, this hpo knows up to 0007); "
        "upgrade hpo (git pull in its checkout), or name another store."
    )
    assert everything(database_url) == before


def test_a_store_of_another_optuna_is_refused_and_left_alone(database_url: str) -> None:
    written(database_url, "UPDATE alembic_version SET version_num = 'v9.0.0.a'")
    before = everything(database_url)
    with pytest.raises(StoreError, match="Optuna tables do not fit the installed Optuna"):
        open_database(database_url)
    assert everything(database_url) == before


def test_a_store_without_our_tables_gets_them_and_keeps_the_rest(database_url: str) -> None:
    written(database_url, "DROP VIEW hpo_leaderboard", *(f"DROP TABLE {name}" for name in [*metadata.tables]))
    written(database_url, f"DROP TABLE {VERSION_TABLE}")
    open_database(database_url).close()
    assert set(metadata.tables) <= set(everything(database_url))
    assert rows(database_url, "SELECT * FROM hpo_leaderboard") == []


def test_an_upgrade_that_fails_leaves_nothing_half_made(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written(database_url, "DROP VIEW hpo_leaderboard", *(f"DROP TABLE {name}" for name in [*metadata.tables]))
    written(database_url, f"DROP TABLE {VERSION_TABLE}", "CREATE TABLE hpo_events (other INTEGER)")
    before = everything(database_url)
    with pytest.raises(StoreError, match="hpo_events"):
        open_database(database_url)
    assert everything(database_url) == before


def test_a_store_of_the_first_version_is_brought_up_to_date_with_its_rows(
    database_url: str,
) -> None:
    """The best evaluation of an attempt was its own, until attempts went on from those before them."""
    with led(study_at(database_url, budget={"trials": 2})) as coordinator:
        outcomes = search(coordinator)
    expected = rows(database_url, "SELECT * FROM hpo_leaderboard ORDER BY trial")
    of_a_new_store = schema(database_url)
    written(
        database_url,
        "DROP VIEW hpo_leaderboard",
        "DROP INDEX hpo_trials_by_number",
        "DROP INDEX hpo_trials_by_state",
        "DROP TABLE hpo_trials",
        "ALTER TABLE hpo_studies DROP COLUMN name",
        "DROP INDEX hpo_events_by_kind",
        "CREATE INDEX ix_hpo_events_study_id ON hpo_events (study_id)",
        "ALTER TABLE hpo_leases DROP COLUMN machine",
        "ALTER TABLE hpo_attempts DROP COLUMN best_attempt",
        "ALTER TABLE hpo_attempts DROP COLUMN rows_at_once",
        "ALTER TABLE hpo_attempts DROP COLUMN resumed_examples",
        "ALTER TABLE hpo_attempts DROP COLUMN device_seconds",
        "ALTER TABLE hpo_attempts DROP COLUMN confirms",
        "ALTER TABLE hpo_evaluations DROP COLUMN reading",
        OLD_LEADERBOARD,
        f"UPDATE {VERSION_TABLE} SET version_num = '0001'",
    )
    assert [len(row) for row in rows(database_url, "SELECT train_score FROM hpo_leaderboard")] == [1, 1]
    open_database(database_url).close()
    assert rows(database_url, f"SELECT version_num FROM {VERSION_TABLE}") == [("0007",)]
    assert rows(database_url, "SELECT * FROM hpo_leaderboard ORDER BY trial") == expected
    assert rows(database_url, "SELECT best_attempt FROM hpo_attempts") == [(1,)] * len(outcomes)
    assert schema(database_url) == of_a_new_store


STATES = sa.Enum("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING", name="trialstate")
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "another type of a state": ("trials", {"column_name": "state", "type_": sa.String(16), "existing_type": STATES}),
    "a larger number": ("trials", {"column_name": "number", "type_": sa.BigInteger(), "existing_type": sa.Integer()}),
    "another name of it": ("trials", {"column_name": "number", "new_column_name": "place"}),
    "another type of a value": (
        "trial_values", {"column_name": "value", "type_": sa.Float(24), "existing_type": sa.Float(53)}
    ),
    "a longer name": (
        "studies", {"column_name": "study_name", "type_": sa.String(600), "existing_type": sa.String(512)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_optuna_may_change_its_tables_under_a_store_of_ours(database_url: str, change: str) -> None:
    """As its migrations do: SQLite drops a table for its copy, PostgreSQL looks for what stands on a column."""
    with led(study_at(database_url, budget={"trials": 2})) as coordinator:
        search(coordinator)
    before = rows(database_url, "SELECT * FROM hpo_leaderboard")
    table, changed = CHANGES[change]
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table(table) as batch:
            batch.alter_column(**changed)
    engine.dispose()
    assert [row[1:4] for row in before] == [(row[1], "COMPLETE", row[3]) for row in before]
    assert rows(database_url, "SELECT * FROM hpo_leaderboard") == before
    if "name" not in change:
        with led(study_at(database_url, budget={"trials": 3})) as coordinator:
            search(coordinator)
        assert len(rows(database_url, "SELECT * FROM hpo_leaderboard")) == 3


def test_an_older_store_is_brought_up_to_date_before_optuna_looks_at_its_own_tables(database_url: str) -> None:
    """Optuna, newer than the store, says how its tables are upgraded; our older view would have kept it from that."""
    written(
        database_url,
        "DROP VIEW hpo_leaderboard",
        "DROP TABLE hpo_trials",
        "ALTER TABLE hpo_studies DROP COLUMN name",
        "ALTER TABLE hpo_attempts DROP COLUMN device_seconds",
        OLD_LEADERBOARD,
        f"UPDATE {VERSION_TABLE} SET version_num = '0005'",
        "UPDATE alembic_version SET version_num = 'v9.0.0.a'",
    )
    with pytest.raises(StoreError, match="Optuna tables do not fit the installed Optuna"):
        open_database(database_url)
    assert rows(database_url, f"SELECT version_num FROM {VERSION_TABLE}") == [("0007",)]


def test_what_attempts_took_by_themselves_is_told_from_what_was_told_of_their_trial(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        search(coordinator)
    written(database_url, "DELETE FROM hpo_attempts WHERE trial > 0")
    columns = "study_id, request, worker, device, configuration, seed, started_at"
    for attempt, seconds, resumed in ((2, 30.0, 0), (3, 0.0, 0), (4, 50.0, 100), (5, 9.0, 0)):
        written(
            database_url,
            f"INSERT INTO hpo_attempts (trial, attempt, seconds, resumed_examples, {columns}) SELECT "
            f"0, {attempt}, {seconds}, {resumed}, study_id, 'r{attempt}', worker, device, configuration, seed, 0 "
            "FROM hpo_attempts WHERE attempt = 1",
        )
    written(database_url, "UPDATE hpo_attempts SET device_seconds = NULL")
    written(database_url, v0007_device_seconds.FILL)
    took = rows(database_url, "SELECT device_seconds FROM hpo_attempts ORDER BY attempt")
    assert [seconds for (seconds,) in took] == [12.5, 30.0, 0.0, 20.0, 9.0]
