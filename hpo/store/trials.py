"""Trials of a study in Optuna's form, and the attempts at each with their evaluations."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import TypeAdapter
from sqlalchemy.engine import RowMapping

from hpo.errors import StoreUnavailableError
from hpo.messages import Action, HeldOutEvaluation, Outcome, Report, Scores
from hpo.store.optuna_adapter import StudyModel, TrialModel, TrialValueModel
from hpo.store.tables import ATTEMPT, STUDY, TO_TRIAL, TRIAL, StudyRows, attempts, clock, evaluations, trials
from hpo.store.trial_cache import TrialCache, TrialStatistics

_NUMBERED = sa.and_(TrialModel.study_id == STUDY, TrialModel.number == trials.c.trial)
_VALUE = sa.and_(TrialValueModel.trial_id == TrialModel.trial_id, TrialValueModel.objective == 0)
_AS_TEXT = sa.cast(TrialModel.state, sa.String(16))
_CHANGED = (
    sa.update(trials)
    .where(trials.c.study_id == STUDY, sa.text("hpo_trials.state IN ('RUNNING', 'WAITING')"))
    .where(trials.c.trial.between(TRIAL, TO_TRIAL))
    .where(sa.exists().where(_NUMBERED, trials.c.state != _AS_TEXT))
    .values(
        state=sa.select(_AS_TEXT).where(_NUMBERED).scalar_subquery(),
        score=sa.select(TrialValueModel.value).join(TrialModel, _VALUE).where(_NUMBERED).scalar_subquery(),
    )
)
"""Copies Optuna's values of the trials from `TRIAL` to `TO_TRIAL` that were unfinished."""
_NEW = sa.text(
    "INSERT INTO hpo_trials (study_id, trial, state, score) "
    "SELECT trials.study_id, trials.number, CAST(trials.state AS VARCHAR(16)), trial_values.value FROM trials "
    "LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id AND trial_values.objective = 0 "
    "WHERE trials.study_id = :of_study AND trials.number > "
    "(SELECT coalesce(max(trial), -1) FROM hpo_trials WHERE study_id = :of_study) ON CONFLICT DO NOTHING"
)
"""Copies newer trials; another process may do so at the same time."""
_GONE = sa.delete(trials).where(trials.c.study_id.not_in(sa.select(StudyModel.study_id)))
"""Deletes the trials of studies that were deleted with Optuna's own tools."""


class Trials:
    """Trials of one study, in a transaction."""

    def __init__(self, rows: StudyRows, cache: TrialCache, study: optuna.Study, pruner: BasePruner) -> None:
        self._rows, self._cache, self._study, self._pruner = rows, cache, study, pruner

    # -- what is read

    def get_all(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in one of `states`, or all, by number; not to be changed.

        With finished ones the list is as long as the study: for a few of them, see `statistics`.
        """
        return self._study.get_trials(deepcopy=False, states=states or None)

    def get(self, number: int) -> FrozenTrial:
        """Return one trial, not to be changed."""
        return self._cache.get_trial(self._row(number))

    def count(self) -> int:
        """Return how many trials the study has."""
        return self._cache.count()

    def statistics(self) -> TrialStatistics:
        """Return statistics of the finished trials."""
        return self._cache.statistics()

    # -- what is written

    def enqueue(self, parameters: Mapping[str, Any], **attributes: Any) -> int:
        """Create a waiting trial with these parameters and user attributes, and return its number."""
        self._study.enqueue_trial(dict(parameters), user_attrs=attributes)
        # Optuna holds the study's row from then to the end of the transaction, so no later trial can have been created.
        return self._cache.count() - 1

    def ask(self, waiting: int | None, sampler: BaseSampler | None = None) -> Trial:
        """Return a trial to suggest parameters for, running from now on: a waiting or a new one.

        Args:
            waiting: the trial's number; None for a new one.
            sampler: used instead of the study's own; None for that.
        """
        # Without a pruner: Hyperband's would only hide trials from the sampler.
        study = optuna.load_study(
            study_name=self._study.study_name, storage=self._cache, sampler=sampler or self._study.sampler,
            pruner=NopPruner(),
        )  # fmt: skip
        if waiting is None:
            return Trial(study, self._cache.create_new_trial(self._rows.study_id))
        row = self._row(waiting)
        if not self._cache.set_trial_state_values(row, TrialState.RUNNING):
            raise StoreUnavailableError(f"Trial {waiting} waits no more: another program has begun it.")
        return Trial(study, row)

    def set_intermediate_value(self, trial: int, rung: int, score: float) -> None:
        """Give Optuna a score at a rung; that of a later attempt replaces that of an earlier one."""
        self._cache.set_trial_intermediate_value(self._row(trial), rung, score)

    def should_prune(self, trial: int, *, enqueued: bool = False) -> bool:
        """Ask the study's pruner about `trial`, after its newest score was recorded.

        An enqueued trial, such as the default, can be pruned only if `enqueued`, because the others are compared with
        it.
        """
        judged = self.get(trial)
        spared = not enqueued and "fixed_params" in judged.system_attrs
        return not spared and bool(self._pruner.prune(self._study, judged))

    def set_attributes(self, trial: int, attributes: Mapping[str, Any]) -> None:
        """Set user attributes of an unfinished trial, all by one statement."""
        self._cache.set_attributes(self._row(trial), attributes)

    def set_constraint(self, trial: int, name: str, value: float) -> None:
        """Set a constraint of a running trial; above 0 it is violated."""
        Trial(self._study, self._row(trial)).set_constraint(name, value)

    def set_waiting(self, trial: int) -> None:
        """Return a running trial to the waiting ones; it keeps its parameters and is assigned first."""
        self._cache.set_trial_state_values(self._row(trial), TrialState.WAITING)

    def record_states(self) -> None:
        """Copy the states of trials that may have changed into our own table."""
        if changed := self._cache.changed:
            self._rows.execute(_CHANGED, of_trial=min(changed), to_trial=max(changed))
            self._rows.execute(_NEW)
            self._cache.changed = set()

    def forget_deleted_studies(self) -> None:
        """Delete from our own table the trials of studies that were deleted with Optuna's own tools."""
        self._rows.execute(_GONE)

    def _row(self, number: int) -> int:
        """Return the number of a trial's row in Optuna's table."""
        return self._cache.get_trial_id_from_study_id_trial_number(self._rows.study_id, number)


_scores: TypeAdapter[Scores] = TypeAdapter(Scores)
_held_out: TypeAdapter[HeldOutEvaluation] = TypeAdapter(HeldOutEvaluation)

OF_ATTEMPT = sa.and_(*(evaluations.c[name] == attempts.c[name] for name in ("study_id", "trial", "attempt")))
"""Joins attempts with their evaluations."""
BEST_OF_TRIAL = sa.and_(
    evaluations.c.study_id == attempts.c.study_id, evaluations.c.trial == attempts.c.trial,
    evaluations.c.attempt == attempts.c.best_attempt, evaluations.c.rung == attempts.c.best_rung,
)  # fmt: skip
"""Joins attempts with the best full evaluation of their trial, which may be of an earlier one."""
DEVICE_SECONDS = sa.select(sa.func.sum(attempts.c.device_seconds)).where(attempts.c.study_id == STUDY)
"""Of all attempts that ended."""

_OF_STUDY = attempts.c.study_id == STUDY
_OF_TRIAL = sa.and_(_OF_STUDY, attempts.c.trial == TRIAL)
_LATEST = sa.select(sa.func.max(attempts.c.attempt)).where(_OF_TRIAL)
_NEWEST = sa.select(attempts).where(_OF_TRIAL).order_by(attempts.c.attempt.desc()).limit(1)
_OF_REQUEST = sa.select(attempts).where(_OF_STUDY, attempts.c.request == sa.bindparam("of_request"))
_CUT_BATCHES = sa.select(attempts).where(_OF_STUDY, attempts.c.rows_at_once.is_not(None))
_OPEN = _NEWEST.with_only_columns(attempts.c.attempt, attempts.c.ended_at, TrialModel.state).join(
    TrialModel, sa.and_(TrialModel.study_id == STUDY, TrialModel.number == TRIAL)
)
_BY_ATTEMPT = attempts.c.study_id, attempts.c.trial, attempts.c.attempt
_SEEN = sa.func.coalesce(sa.func.max(evaluations.c.examples_seen), 0).label("seen")
_ENDS = (
    sa.select(attempts.c.attempt, attempts.c.worker, attempts.c.ending, _SEEN)
    .join(evaluations, OF_ATTEMPT, isouter=True)
    .where(_OF_TRIAL)
    .group_by(*_BY_ATTEMPT)
    .order_by(attempts.c.attempt)
)
_FURTHEST = (sa.func.max(evaluations.c[name]).label(name) for name in ("rung", "seconds"))
_REACHED = (
    sa.select(attempts.c.trial, *_FURTHEST, attempts.c.configuration)
    .join(evaluations, OF_ATTEMPT)
    .where(_OF_STUDY)
    .group_by(*_BY_ATTEMPT)
    .order_by(attempts.c.trial, attempts.c.attempt)
)
_ANSWER = _OPEN.add_columns(
    sa.select(evaluations.c.action)
    .where(evaluations.c.study_id == STUDY, evaluations.c.trial == TRIAL, evaluations.c.attempt == ATTEMPT)
    .where(evaluations.c.rung == sa.bindparam("of_rung"))
    .scalar_subquery()
)
_BEST = (
    sa.select(evaluations)
    .join(attempts, BEST_OF_TRIAL)
    .where(_OF_TRIAL, attempts.c.attempt == _LATEST.scalar_subquery())
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt at a trial, as it was assigned."""

    trial: int
    attempt: int
    configuration: Mapping[str, Any]
    seed: int
    score_to_beat: float | None
    micro_batch_size: int | None
    ended: bool
    confirms: int | None = None
    """The trial of the search that it confirms; None in a search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """End of an attempt at a trial."""

    attempt: int
    worker: str
    ending: str | None
    """None if it never ended: the leader of the study died."""
    seen: int
    """Examples seen at its newest evaluation; 0 if there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Progress of an attempt."""

    trial: int
    rung: int
    seconds: float
    """Seconds of training and evaluation so far."""
    configuration: Mapping[str, Any]


class Attempts:
    """Attempts at the trials of one study, in a transaction."""

    def __init__(self, rows: StudyRows) -> None:
        self._rows = rows
        self.forget()

    def forget(self) -> None:
        """Clear the cache of the rows, because a rollback undoes some of them."""
        self._device_seconds: float | None = None

    def latest(self, trial: int) -> int:
        """Return the number of the newest attempt at `trial`; 0 if it was never begun."""
        return int(self._rows.execute(_LATEST, of_trial=trial).scalar() or 0)

    def of_request(self, request: str) -> AttemptRecord | None:
        """Return the attempt that answered `request`; None if it is a new request."""
        row = self._rows.execute(_OF_REQUEST, of_request=request).mappings().first()
        return None if row is None else _record(row)

    def newest(self, trial: int) -> AttemptRecord | None:
        """Return the newest attempt at `trial`; None if it was never begun."""
        row = self._rows.execute(_NEWEST, of_trial=trial).mappings().first()
        return None if row is None else _record(row)

    def micro_batch_sizes(self) -> list[AttemptRecord]:
        """Return the attempts in which memory did not suffice for whole batches."""
        return [_record(row) for row in self._rows.execute(_CUT_BATCHES).mappings()]

    def is_open(self, trial: int, attempt: int) -> bool:
        """Return true if `attempt` is the newest at `trial`, has not ended, and its trial is running for Optuna too.

        A trial may be ended or requeued with Optuna's own tools.
        """
        return self._rows.execute(_OPEN, of_trial=trial).first() == (attempt, None, TrialState.RUNNING)

    def ends(self, trial: int) -> list[AttemptEnd]:
        """Return the ending and progress of every attempt at `trial`, by number."""
        return [AttemptEnd(**row) for row in self._rows.execute(_ENDS, of_trial=trial).mappings()]

    def reached(self) -> list[Reached]:
        """Return the progress and the seconds of each attempt, from which the cost of later trials is estimated."""
        rows = self._rows.execute(_REACHED).mappings()
        return [Reached(**{**row, "configuration": json.loads(row["configuration"])}) for row in rows]

    def device_seconds(self) -> float:
        """Return the device seconds of all attempts that ended."""
        if self._device_seconds is None:
            self._device_seconds = float(self._rows.execute(DEVICE_SECONDS).scalar() or 0.0)
        return self._device_seconds

    def answer(self, trial: int, attempt: int, rung: int) -> Action | None:
        """Return the recorded answer to a report, `STOP` if it is new and `is_open` is false; else None."""
        row = self._rows.execute(_ANSWER, of_trial=trial, of_attempt=attempt, of_rung=rung).first()
        *known, answer = row or (None,)
        if answer is None and known != [attempt, None, TrialState.RUNNING]:
            return Action.STOP
        return None if answer is None else Action(answer)

    def best_report(self, trial: int) -> Report | None:
        """Return the best full evaluation of an ended trial, as it was reported; None if there is none."""
        row = self._rows.execute(_BEST, of_trial=trial).mappings().first()
        return None if row is None else _report(row)

    def begin(self, record: AttemptRecord, *, request: str, worker: str, device: str) -> None:
        """Record that `record.trial` is about to be trained."""
        self._rows.insert(
            attempts, trial=record.trial, attempt=record.attempt, request=request, worker=worker, device=device,
            configuration=json.dumps(dict(record.configuration)), seed=record.seed,
            score_to_beat=record.score_to_beat, rows_at_once=record.micro_batch_size, confirms=record.confirms,
        )  # fmt: skip

    def add_evaluation(self, report: Report, action: Action) -> None:
        """Record one evaluation and the answer to it."""
        self._rows.insert(
            evaluations,
            **{name: getattr(report, name) for name in _AS_REPORTED},
            is_full=report.full,
            score=report.validation.objective,
            train_score=report.train.objective if report.train else None,
            validation_scores=to_json(report.validation),
            train_scores=to_json(report.train) if report.train else None,
            reading=to_json(report.held_out) if report.held_out else None,
            action=str(action),
        )

    def end(self, outcome: Outcome, devices: float = 1.0) -> None:
        """Record the end of an attempt, with its number of devices."""
        device_seconds = devices * max(0.0, outcome.seconds - outcome.resumed_seconds)
        values: dict[str, Any] = {
            "ended_at": clock(),
            "ending": str(outcome.ending),
            "reason": outcome.reason,
            "seconds": outcome.seconds,
            "peak_memory_bytes": outcome.peak_memory_bytes,
            "best_rung": outcome.best.rung if outcome.best else None,
            "best_attempt": outcome.best.attempt if outcome.best else None,
            "resumed_examples": outcome.resumed_examples,
            "device_seconds": device_seconds,
        }
        if outcome.micro_batch_size is not None:
            values["rows_at_once"] = outcome.micro_batch_size
        ended = sa.update(attempts).where(_OF_TRIAL, attempts.c.attempt == ATTEMPT).values(values)
        self._rows.execute(ended, of_trial=outcome.trial, of_attempt=outcome.attempt)
        if self._device_seconds is not None:
            self._device_seconds += device_seconds


_AS_REPORTED = (
    "trial", "attempt", "rung", "step", "epoch", "examples_seen", "learning_rate", "train_loss", "seconds",
    "peak_memory_bytes",
)  # fmt: skip
"""Columns of evaluations that are fields of a report."""


def _record(row: RowMapping) -> AttemptRecord:
    return AttemptRecord(
        **{name: row[name] for name in ("trial", "attempt", "seed", "score_to_beat", "confirms")},
        configuration=json.loads(row["configuration"]),
        micro_batch_size=row["rows_at_once"],
        ended=row["ended_at"] is not None,
    )


def _report(row: RowMapping) -> Report:
    """Return a row of evaluations as the report, except whether it could be pruned there."""
    return Report(
        **{name: row[name] for name in _AS_REPORTED},
        full=row["is_full"],
        decides=False,
        validation=scores_from_json(row["validation_scores"]),
        train=scores_from_json(row["train_scores"]) if row["train_scores"] else None,
        held_out=held_out_from_json(row["reading"]) if row["reading"] else None,
    )


def to_json(scores: Scores | HeldOutEvaluation) -> str:
    """Return scores as JSON that `scores_from_json` or `held_out_from_json` reads back equal."""
    return json.dumps(asdict(scores))


def scores_from_json(text: str) -> Scores:
    """Return the scores that `to_json` wrote."""
    return _scores.validate_json(text)


def held_out_from_json(text: str) -> HeldOutEvaluation:
    """Return the held-out evaluation that `to_json` wrote."""
    return _held_out.validate_json(text)
