"""Optuna's own migrations may change its tables: no view of ours stands on them, no index has a condition on a type."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

LEADERBOARD = """
CREATE VIEW hpo_leaderboard AS
SELECT hpo_studies.name AS study, hpo_trials.trial AS trial, hpo_trials.state AS state, hpo_trials.score AS score,
       best.train_score AS train_score, best.epoch AS best_epoch, last.attempt AS attempts, last.seconds AS seconds,
       last.reason AS reason, last.configuration AS configuration
FROM hpo_trials
JOIN hpo_studies ON hpo_studies.study_id = hpo_trials.study_id
LEFT JOIN hpo_attempts AS last
  ON last.study_id = hpo_trials.study_id AND last.trial = hpo_trials.trial
  AND last.attempt = (SELECT max(attempt) FROM hpo_attempts
                      WHERE study_id = hpo_trials.study_id AND trial = hpo_trials.trial)
LEFT JOIN hpo_evaluations AS best
  ON best.study_id = last.study_id AND best.trial = last.trial AND best.attempt = last.best_attempt
  AND best.rung = last.best_rung
ORDER BY hpo_studies.name, CASE WHEN hpo_trials.state = 'COMPLETE' THEN 0 ELSE 1 END, hpo_trials.score DESC
"""
NAMES = "UPDATE hpo_studies SET name = (SELECT study_name FROM studies WHERE studies.study_id = hpo_studies.study_id)"
TRIALS = """
INSERT INTO hpo_trials (study_id, trial, state, score)
SELECT trials.study_id, trials.number, CAST(trials.state AS VARCHAR(16)), trial_values.value
FROM trials
JOIN hpo_studies ON hpo_studies.study_id = trials.study_id
LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id AND trial_values.objective = 0
"""
UNFINISHED = sa.text("state IN ('RUNNING', 'WAITING')")


def upgrade() -> None:
    """Make the table of trials, and fill it."""
    op.execute("DROP VIEW hpo_leaderboard")
    op.add_column("hpo_studies", sa.Column("name", sa.String(512)))
    op.create_table(
        "hpo_trials",
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("score", sa.Double),
        sa.PrimaryKeyConstraint("study_id", "trial"),
    )
    op.create_index("hpo_trials_open", "hpo_trials", ["study_id"], postgresql_where=UNFINISHED, sqlite_where=UNFINISHED)
    # PostgreSQL refuses another type for a column that the condition of an index names.
    op.drop_index("hpo_trials_unfinished", "trials", if_exists=True)
    op.create_index("hpo_trials_by_state", "trials", ["study_id", "state"], if_not_exists=True)
    op.execute(NAMES)
    op.execute(TRIALS)
    op.execute(LEADERBOARD)
