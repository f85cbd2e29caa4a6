"""Device seconds of each attempt, without those of earlier attempts."""

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
"""Each trial had one device, and the seconds of an attempt included those up to the checkpoint that it resumed."""


def upgrade() -> None:
    """Add the column, and compute it from the totals recorded for each trial."""
    op.add_column("hpo_attempts", sa.Column("device_seconds", sa.Double))
    op.execute(FILL)
