"""Confirmed trial of a run, and its held-out evaluation at each new best."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("hpo_attempts", sa.Column("confirms", sa.Integer))
    op.add_column("hpo_evaluations", sa.Column("reading", sa.Text))
    _convert_tests(op.get_bind())


def _convert_tests(connection: sa.Connection) -> None:
    """Store scores on test splits as held-out evaluations without a jackknife."""
    found = connection.execute(sa.text("SELECT event_id, detail FROM hpo_events WHERE kind = 'test_read'")).all()
    for event_id, detail in found:
        reading = {"scores": json.loads(json.loads(detail)["scores"]), "deviations": [], "slices": []}
        connection.execute(
            sa.text("UPDATE hpo_events SET detail = :detail WHERE event_id = :event_id"),
            {"detail": json.dumps({"reading": json.dumps(reading)}), "event_id": event_id},
        )
