"""Rows that fit at once and where an attempt went on from, for later ones; whose process number a leader has."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("hpo_leases", sa.Column("machine", sa.String(128)))
    op.add_column("hpo_attempts", sa.Column("rows_at_once", sa.Integer))
    op.add_column("hpo_attempts", sa.Column("resumed_examples", sa.BigInteger))
