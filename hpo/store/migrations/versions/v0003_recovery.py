"""Micro-batch size and resumed examples of attempts; the machine of a leader's process number."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("hpo_leases", sa.Column("machine", sa.String(128)))
    op.add_column("hpo_attempts", sa.Column("rows_at_once", sa.Integer))
    op.add_column("hpo_attempts", sa.Column("resumed_examples", sa.BigInteger))
