"""Device seconds that each attempt took by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

FILL = """
UPDATE hpo_attempts SET device_seconds = seconds - CASE WHEN coalesce(resumed_examples, 0) = 0 THEN 0 ELSE coalesce((
    SELECT before.seconds FROM hpo_attempts AS before
    WHERE before.study_id = hpo_attempts.study_id AND before.trial = hpo_attempts.trial
    AND before.attempt < hpo_attempts.attempt AND before.seconds > 0 ORDER BY before.attempt DESC LIMIT 1
), 0) END
"""
"""Each trial was on one device; what an attempt went on from was counted with it too."""


def upgrade() -> None:
    """Add the column, and fill it from what was told of the trial as a whole."""
    op.add_column("hpo_attempts", sa.Column("device_seconds", sa.Double))
    op.execute(FILL)
