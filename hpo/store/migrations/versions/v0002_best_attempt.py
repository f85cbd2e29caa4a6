"""Best evaluation of an attempt that resumed from a checkpoint: it may be of an earlier attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; until now every best evaluation was of the attempt itself."""
    op.add_column("hpo_attempts", sa.Column("best_attempt", sa.Integer))
    op.execute("UPDATE hpo_attempts SET best_attempt = attempt WHERE best_rung IS NOT NULL")
