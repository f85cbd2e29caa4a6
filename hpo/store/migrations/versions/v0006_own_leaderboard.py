"""Own table of trials, instead of a view on Optuna's tables and a typed index, which would block its migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

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
