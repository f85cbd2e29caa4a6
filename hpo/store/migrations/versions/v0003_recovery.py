"""What a later attempt or trial needs to know: rows that fit at once, and where an attempt went on from."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("hpo_attempts", sa.Column("rows_at_once", sa.Integer))
    op.add_column("hpo_attempts", sa.Column("resumed_examples", sa.BigInteger))
