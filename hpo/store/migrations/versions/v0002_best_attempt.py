"""An attempt that goes on from a checkpoint may have its best evaluation from an earlier attempt: say from which."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

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
  ON best.study_id = last.study_id AND best.trial = last.trial AND best.attempt = last.best_attempt
  AND best.rung = last.best_rung
ORDER BY studies.study_name, CASE WHEN CAST(trials.state AS VARCHAR(16)) = 'COMPLETE' THEN 0 ELSE 1 END,
         trial_values.value DESC
"""


def upgrade() -> None:
    """Add the column; until now every best evaluation was of the attempt itself."""
    op.execute("DROP VIEW hpo_leaderboard")
    op.add_column("hpo_attempts", sa.Column("best_attempt", sa.Integer))
    op.execute("UPDATE hpo_attempts SET best_attempt = attempt WHERE best_rung IS NOT NULL")
    op.execute(LEADERBOARD)
