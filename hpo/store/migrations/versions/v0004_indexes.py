"""Indexes for long studies: trials by number, the log by kind."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the indexes; the one on Optuna's table may exist already, if only our tables were dropped."""
    op.create_index("hpo_trials_by_number", "trials", ["study_id", "number"], if_not_exists=True)
    op.drop_index("ix_hpo_events_study_id", "hpo_events")
    op.create_index("hpo_events_by_kind", "hpo_events", ["study_id", "kind", "event_id"])
