"""What a verb asks of a long study is found by an index: a trial by its number, those unfinished, the log by kind."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

UNFINISHED = sa.text("state IN ('RUNNING', 'WAITING')")


def upgrade() -> None:
    """Add the indexes; those on Optuna's table are there already where our tables were dropped and its own were not."""
    op.create_index("hpo_trials_by_number", "trials", ["study_id", "number"], if_not_exists=True)
    op.create_index(
        "hpo_trials_unfinished", "trials", ["study_id"], if_not_exists=True,
        postgresql_where=UNFINISHED, sqlite_where=UNFINISHED,
    )  # fmt: skip
    op.drop_index("ix_hpo_events_study_id", "hpo_events")
    op.create_index("hpo_events_by_kind", "hpo_events", ["study_id", "kind", "event_id"])
