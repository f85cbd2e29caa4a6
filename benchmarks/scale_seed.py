"""Finished trials by the thousand: rows copied in the database from trials that were searched, in every table."""

from collections.abc import Sequence

import sqlalchemy as sa

TEMPLATES = 90
"""Finished trials that are copied, from the third on: the first two are the default."""
OPTUNAS = (
    "trial_params", "trial_values", "trial_user_attributes", "trial_system_attributes", "trial_intermediate_values",
)  # fmt: skip
OURS = ("hpo_attempts", "hpo_evaluations", "hpo_events")
NUMBERED_BY_ITSELF = {"hpo_events": "event_id", "hpo_attempts": None, "hpo_evaluations": None, "trials": None}
INSTEAD = {"trial_id": "new_row", "number": "new_trial", "trial": "new_trial", "request": "'copy-' || new_trial"}
"""Column -> what a copy has in it."""
CHOSEN = f"""
CREATE TEMP TABLE copies AS
SELECT trials.trial_id AS row, trials.number AS trial, newest.row + 1 + copy AS new_row,
       newest.trial + 1 + copy AS new_trial
FROM (SELECT max(trial_id) AS row, max(number) AS trial FROM trials) AS newest,
     generate_series(0, CAST(:copies AS integer) - 1) AS copy
     JOIN trials ON trials.number = 2 + copy % {TEMPLATES}
"""
NUMBERING = "SELECT setval(pg_get_serial_sequence('trials', 'trial_id'), (SELECT max(trial_id) FROM trials))"


def seed(url: str, trials: int) -> None:
    """Fill the only study of the PostgreSQL store at `url` up to so many trials; it has at least 92, all finished."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        there = connection.execute(sa.text("SELECT count(*) FROM trials")).scalar_one()
        connection.execute(sa.text(CHOSEN), {"copies": trials - there})
        for table in ("trials", *OPTUNAS, *OURS):
            connection.execute(sa.text(_copying(table, sa.inspect(connection))))
        connection.execute(sa.text(NUMBERING))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))  # As the server does by itself while a study grows.
    engine.dispose()


def _copying(table: str, inspector: sa.Inspector) -> str:
    """Return the statement that copies what `table` has of the trials chosen."""
    [key, *_] = inspector.get_pk_constraint(table)["constrained_columns"]
    own = NUMBERED_BY_ITSELF.get(table, key)
    columns: Sequence[str] = [name for column in inspector.get_columns(table) if (name := column["name"]) != own]
    values = ", ".join(INSTEAD.get(name, f"{table}.{name}") for name in columns)
    by = f"{table}.trial = copies.trial" if table in OURS else f"{table}.trial_id = copies.row"
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM copies JOIN {table} ON {by}"
