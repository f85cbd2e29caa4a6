"""The first tables, and the leaderboard for plain SQL."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

LEADERBOARD = """
CREATE VIEW hpo_leaderboard AS
SELECT studies.study_name AS study, trials.number AS trial, trials.state AS state, trial_values.value AS score,
       best.train_score AS train_score, best.epoch AS best_epoch, last.attempt AS attempts, last.seconds AS seconds,
       last.reason AS reason, last.configuration AS configuration
FROM trials
JOIN studies ON studies.study_id = trials.study_id
LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id AND trial_values.objective = 0
LEFT JOIN hpo_attempts AS last
  ON last.study_id = trials.study_id AND last.trial = trials.number
  AND last.attempt = (SELECT max(attempt) FROM hpo_attempts
                      WHERE study_id = trials.study_id AND trial = trials.number)
LEFT JOIN hpo_evaluations AS best
  ON best.study_id = last.study_id AND best.trial = last.trial AND best.attempt = last.attempt
  AND best.rung = last.best_rung
ORDER BY studies.study_name, CASE WHEN CAST(trials.state AS VARCHAR(16)) = 'COMPLETE' THEN 0 ELSE 1 END,
         trial_values.value DESC
"""


def upgrade() -> None:
    """Make the tables of version 0001."""
    big = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "hpo_studies",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("configuration", sa.Text, nullable=False),
        sa.Column("space", sa.Text, nullable=False),
        sa.Column("data_fingerprint", sa.String(64), nullable=False),
        sa.Column("versions", sa.Text, nullable=False),
        sa.Column("measurements", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "hpo_leases",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("fence", big, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("process_started", sa.Double, nullable=False),
        sa.Column("acquired_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_table(
        "hpo_attempts",
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("worker", sa.String(128), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("configuration", sa.Text, nullable=False),
        sa.Column("seed", big, nullable=False),
        sa.Column("score_to_beat", sa.Double),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("ending", sa.String(16)),
        sa.Column("reason", sa.Text),
        sa.Column("seconds", sa.Double),
        sa.Column("peak_memory_bytes", sa.BigInteger),
        sa.Column("best_rung", sa.Integer),
        sa.PrimaryKeyConstraint("study_id", "trial", "attempt"),
        sa.UniqueConstraint("study_id", "request"),
    )
    op.create_table(
        "hpo_evaluations",
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("rung", sa.Integer, nullable=False),
        sa.Column("is_full", sa.Boolean, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Double, nullable=False),
        sa.Column("examples_seen", sa.BigInteger, nullable=False),
        sa.Column("learning_rate", sa.Double, nullable=False),
        sa.Column("train_loss", sa.Double, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("train_score", sa.Double),
        sa.Column("validation_scores", sa.Text, nullable=False),
        sa.Column("train_scores", sa.Text),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("reported_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("study_id", "trial", "attempt", "rung"),
    )
    op.create_table(
        "hpo_events",
        sa.Column("event_id", big, primary_key=True, autoincrement=True),
        sa.Column("study_id", sa.Integer, nullable=False, index=True),
        sa.Column("happened_at", sa.Double, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("trial", sa.Integer),
        sa.Column("attempt", sa.Integer),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.execute(LEADERBOARD)
