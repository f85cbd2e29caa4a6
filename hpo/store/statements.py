"""The statements of every verb, built once: building one in SQLAlchemy takes several times as long as running it."""

import sqlalchemy as sa

from hpo.messages import Ending
from hpo.store.optuna_adapter import StudyModel, TrialModel, TrialUserAttributeModel, TrialValueModel
from hpo.store.tables import attempts, clock, evaluations, leases, trials

# What each is about; the names differ from those of columns, which an UPDATE would take for new values.
_STUDY = sa.bindparam("of_study", type_=sa.Integer)
_TRIAL = sa.bindparam("of_trial", type_=sa.Integer)
_ATTEMPT = sa.bindparam("of_attempt", type_=sa.Integer)

_trial_attempts = sa.and_(attempts.c.study_id == _STUDY, attempts.c.trial == _TRIAL)

FIRST_LEASE = sa.text(
    "INSERT INTO hpo_leases (study_id, fence, host, pid, process_started, acquired_at, expires_at) "
    "VALUES (:of_study, 0, '', 0, 0, 0, 0) ON CONFLICT DO NOTHING"
)
"""Takes of_study; makes a lease that is in force for nobody where there is none, and no error in the server's log."""

RENEW_LEASE = (
    sa.update(leases)
    .where(leases.c.study_id == _STUDY, leases.c.fence == sa.bindparam("of_fence"))
    .where(sa.exists().where(StudyModel.study_id == _STUDY))
    .values(expires_at=clock() + sa.bindparam("seconds", type_=sa.Double))
)
"""Takes of_study, of_fence, seconds; meets no row if the lease is another's or the study has been deleted."""

ATTEMPT_OF_REQUEST = sa.select(attempts).where(
    attempts.c.study_id == _STUDY, attempts.c.request == sa.bindparam("of_request")
)
"""Takes of_study, of_request."""

ATTEMPT = sa.select(attempts).where(_trial_attempts, attempts.c.attempt == _ATTEMPT)
"""Takes of_study, of_trial, of_attempt."""

LATEST_ATTEMPT = sa.select(sa.func.max(attempts.c.attempt)).where(_trial_attempts)
"""Takes of_study, of_trial."""

STANDING = (
    sa.select(attempts.c.attempt, attempts.c.ended_at, TrialModel.state)
    .join(TrialModel, sa.and_(TrialModel.study_id == _STUDY, TrialModel.number == _TRIAL))
    .where(_trial_attempts)
    .order_by(attempts.c.attempt.desc())
    .limit(1)
)
"""Takes of_study, of_trial; gives the newest attempt, when it ended, and the state that Optuna has of the trial."""

ANSWER = sa.select(evaluations.c.action).where(
    evaluations.c.study_id == _STUDY,
    evaluations.c.trial == _TRIAL,
    evaluations.c.attempt == _ATTEMPT,
    evaluations.c.rung == sa.bindparam("of_rung"),
)
"""Takes of_study, of_trial, of_attempt, of_rung."""

FORGET_ATTRIBUTES = sa.delete(TrialUserAttributeModel).where(
    TrialUserAttributeModel.trial_id == sa.bindparam("of_trial_id"),
    TrialUserAttributeModel.key.in_(sa.bindparam("keys", expanding=True)),
)
"""Takes of_trial_id, keys."""

ADD_ATTRIBUTES = sa.insert(TrialUserAttributeModel)
"""Takes rows of trial_id, key, value_json."""

UNFINISHED = sa.text("trials.state IN ('RUNNING', 'WAITING')")
"""In plain words: SQLite would use no index with the `= 1` that SQLAlchemy writes behind a Boolean column."""

_STATE = sa.select(TrialModel.trial_id, sa.cast(TrialModel.state, sa.String(16))).where(TrialModel.study_id == _STUDY)
STATES = sa.union(_STATE.where(UNFINISHED), _STATE.where(TrialModel.number >= _TRIAL))
"""Takes of_study, of_trial; gives row and state of trials that are not over, and of all from of_trial on."""

TRAINED = (
    sa.select(attempts.c.trial)
    .where(attempts.c.study_id == _STUDY, attempts.c.ending == str(Ending.COMPLETED))
    .where(attempts.c.trial.between(_TRIAL, sa.bindparam("to_trial", type_=sa.Integer)))
)
"""Takes of_study, of_trial, to_trial; gives the trials from of_trial to to_trial that hpo trained to their end."""

NEWEST_TRIAL = sa.select(sa.func.max(TrialModel.number)).where(TrialModel.study_id == _STUDY)
"""Takes of_study."""

TRIAL_STATES = sa.select(TrialModel.number, TrialModel.state).where(TrialModel.study_id == _STUDY)
"""Takes of_study."""

_NUMBERED = sa.and_(TrialModel.study_id == _STUDY, TrialModel.number == trials.c.trial)
_VALUE = sa.and_(TrialValueModel.trial_id == TrialModel.trial_id, TrialValueModel.objective == 0)
_AS_TEXT = sa.cast(TrialModel.state, sa.String(16))

CHANGED_TRIALS = (
    sa.update(trials)
    .where(trials.c.study_id == _STUDY, sa.text("hpo_trials.state IN ('RUNNING', 'WAITING')"))
    .where(sa.exists().where(_NUMBERED, trials.c.state != _AS_TEXT))
    .values(
        state=sa.select(_AS_TEXT).where(_NUMBERED).scalar_subquery(),
        score=sa.select(TrialValueModel.value).join(TrialModel, _VALUE).where(_NUMBERED).scalar_subquery(),
    )
)
"""Takes of_study; takes over what Optuna has of the trials that were not over."""

NEW_TRIALS = sa.text(
    "INSERT INTO hpo_trials (study_id, trial, state, score) "
    "SELECT trials.study_id, trials.number, CAST(trials.state AS VARCHAR(16)), trial_values.value FROM trials "
    "LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id AND trial_values.objective = 0 "
    "WHERE trials.study_id = :of_study AND trials.number > "
    "(SELECT coalesce(max(trial), -1) FROM hpo_trials WHERE study_id = :of_study) ON CONFLICT DO NOTHING"
)
"""Takes of_study; takes over the trials that came since, which another process may do at the same time."""

GONE_TRIALS = sa.delete(trials).where(trials.c.study_id.not_in(sa.select(StudyModel.study_id)))
"""Forgets the trials of studies that were deleted with Optuna's own tools."""
