"""The records of one study: every write of a search, each inside one transaction with Optuna's own rows."""

import copy
import json
import threading
import uuid
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from hpo.messages import Action, Outcome, Report
from hpo.store import statements
from hpo.store.engine import Database, translated
from hpo.store.records import AttemptRecord, LeaseRecord, StudyRecord, read_attempt, scores_to_json
from hpo.store.tables import attempts, clock, evaluations, events, leases, studies

UID_ATTRIBUTE = "hpo:uid"


class StudyStore:
    """One study in one database. Every method but `transaction` must be called inside a transaction.

    Transactions of several threads follow one another.
    """

    def __init__(self, database: Database, name: str, sampler: BaseSampler, pruner: BasePruner) -> None:
        """Open the study `name`, made if it is not there."""
        self.name = name
        self._database = database
        self._sampler = sampler
        self._pruner = pruner
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self.study = self._opened()
        self.study_id = database.storage.get_study_id_from_name(name)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a transaction: what the block writes, here and through `study`, is kept whole or not at all."""
        with self._lock:
            try:
                with self._database.transaction() as self._connection:
                    yield
            except BaseException:
                # Optuna caches trials as it reads them; after a rollback it would show some that never were.
                self.study._storage = optuna.storages.get_storage(self._database.storage)
                raise
            finally:
                self._connection = None

    # -- the study itself

    def record(self) -> StudyRecord | None:
        """Return what the study was made from; None if it was not recorded yet."""
        uid = self.study.user_attrs.get(UID_ATTRIBUTE)
        row = self._execute(sa.select(studies).where(studies.c.study_id == self.study_id)).mappings().first()
        if row is None or row["uid"] != uid:
            return None
        return StudyRecord(
            configuration=json.loads(row["configuration"]),
            space=json.loads(row["space"]),
            data_fingerprint=row["data_fingerprint"],
            versions=json.loads(row["versions"]),
        )

    def create(self, record: StudyRecord, objective: str) -> None:
        """Record what the study is made from, and name its objective for Optuna's dashboard."""
        # Rows of an earlier study of this number, deleted with Optuna's own tools, are not ours. The lease stays: its
        # fence rises on, so that a leader of that study is refused.
        for table in (attempts, evaluations, events, studies):
            self._execute(sa.delete(table).where(table.c.study_id == self.study_id))
        uid = uuid.uuid4().hex
        values = {key: json.dumps(value) for key, value in asdict(record).items() if key != "data_fingerprint"}
        self._insert(studies, uid=uid, data_fingerprint=record.data_fingerprint, **values)
        self.study.set_user_attr(UID_ATTRIBUTE, uid)
        self.study.set_user_attr("hpo:metric", objective)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.study.set_metric_names([objective])

    def set_user_attribute(self, key: str, value: Any) -> None:
        """Set an attribute of the study, shown by Optuna's dashboard."""
        self.study.set_user_attr(key, value)

    def measurements(self) -> dict[str, Any] | None:
        """Return what was measured to choose precision and threads; None if nothing was."""
        here = studies.c.study_id == self.study_id
        measured = self._execute(sa.select(studies.c.measurements).where(here)).scalar()
        return json.loads(measured) if measured else None

    def set_measurements(self, measurements: Mapping[str, Any]) -> None:
        """Keep what was measured, for every later start of the study."""
        here = studies.c.study_id == self.study_id
        self._execute(sa.update(studies).where(here).values(measurements=json.dumps(dict(measurements))))

    # -- the lease

    def lease(self) -> LeaseRecord:
        """Return the newest lease, in force or not, locked until the transaction ends; fence 0 is nobody's."""
        # Of two first leaders on PostgreSQL the second waits here until the first has committed.
        with suppress(IntegrityError), self._open_connection().begin_nested():
            self._insert(leases, fence=0, host="", pid=0, process_started=0, acquired_at=0, expires_at=0)
        columns = [column for column in leases.c if column is not leases.c.study_id]
        newest = sa.select(*columns, clock().label("now")).where(leases.c.study_id == self.study_id)
        return LeaseRecord(**self._execute(newest.with_for_update()).mappings().one())

    def take_lease(self, *, fence: int, host: str, pid: int, process_started: float, seconds: float) -> None:
        """Write a lease over the newest one, which `lease` has locked."""
        self._execute(
            sa.update(leases)
            .where(leases.c.study_id == self.study_id)
            .values(
                fence=fence,
                host=host,
                pid=pid,
                process_started=process_started,
                acquired_at=clock(),
                expires_at=clock() + seconds,
            )
        )

    def renew_lease(self, fence: int, seconds: float) -> bool:
        """Let the lease of `fence` run `seconds` from now; False if there is a newer one, or no such study."""
        return renew_lease(self._open_connection(), self.study_id, fence, seconds)

    # -- trials and their attempts

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return Optuna's picture of the trials in one of `states`, or of all, by number; not to be changed."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def abandoned_attempts(self) -> list[tuple[int, int, int]]:
        """Return (trial, its newest attempt, how many of its attempts never ended) of what is marked as running."""
        running = [trial.number for trial in self.trials(TrialState.RUNNING)]
        newest, unended = sa.func.max(attempts.c.attempt), sa.func.count() - sa.func.count(attempts.c.ended_at)
        found = (
            sa.select(attempts.c.trial, newest.label("newest"), unended.label("unended"))
            .where(attempts.c.study_id == self.study_id, attempts.c.trial.in_(running))
            .group_by(attempts.c.trial)
            .order_by(attempts.c.trial)
        )
        return [(row.trial, row.newest, row.unended) for row in self._execute(found)]

    def latest_attempt(self, trial: int) -> int:
        """Return the number of the newest attempt at `trial`; 0 if it was never begun."""
        newest = self._execute(statements.LATEST_ATTEMPT, of_study=self.study_id, of_trial=trial)
        return int(newest.scalar() or 0)

    def attempt_of_request(self, request: str) -> AttemptRecord | None:
        """Return the attempt that `request` was answered with; None if it is a new request."""
        asked = self._execute(statements.ATTEMPT_OF_REQUEST, of_study=self.study_id, of_request=request)
        return read_attempt(asked.mappings().first())

    def attempt(self, trial: int, attempt: int) -> AttemptRecord | None:
        """Return one attempt; None if there is no such attempt."""
        which = self._execute(statements.ATTEMPT, of_study=self.study_id, of_trial=trial, of_attempt=attempt)
        return read_attempt(which.mappings().first())

    def is_open(self, trial: int, attempt: int) -> bool:
        """Return whether `attempt` is the newest at `trial`, has not ended, and its trial is running for Optuna too.

        A trial that somebody ended or put back with Optuna's own tools is so by their word.
        """
        standing = self._execute(statements.STANDING, of_study=self.study_id, of_trial=trial)
        return standing.first() == (attempt, None, TrialState.RUNNING)

    def begin_attempt(self, record: AttemptRecord, *, request: str, worker: str, device: str) -> None:
        """Record that `record.trial` is about to be trained."""
        self._insert(
            attempts, trial=record.trial, attempt=record.attempt, request=request, worker=worker, device=device,
            configuration=json.dumps(dict(record.configuration)), seed=record.seed,
            score_to_beat=record.score_to_beat,
        )  # fmt: skip

    def end_attempt(self, outcome: Outcome) -> None:
        """Record how an attempt ended."""
        which = sa.and_(self._trial(attempts, outcome.trial), attempts.c.attempt == outcome.attempt)
        self._execute(
            sa.update(attempts)
            .where(which)
            .values(
                ended_at=clock(),
                ending=str(outcome.ending),
                reason=outcome.reason,
                seconds=outcome.seconds,
                peak_memory_bytes=outcome.peak_memory_bytes,
                best_rung=outcome.best.rung if outcome.best else None,
                best_attempt=outcome.best.attempt if outcome.best else None,
            )
        )

    def answered(self, trial: int, attempt: int, rung: int) -> Action | None:
        """Return what a report was answered with; None if it is a new report."""
        answer = self._execute(
            statements.ANSWER, of_study=self.study_id, of_trial=trial, of_attempt=attempt, of_rung=rung
        ).scalar()
        return None if answer is None else Action(answer)

    def add_evaluation(self, report: Report, action: Action) -> None:
        """Record one evaluation and what it was answered with."""
        self._insert(
            evaluations, trial=report.trial, attempt=report.attempt, rung=report.rung, is_full=report.full,
            step=report.step, epoch=report.epoch, examples_seen=report.examples_seen,
            learning_rate=report.learning_rate, train_loss=report.train_loss, score=report.validation.objective,
            train_score=report.train.objective if report.train else None,
            validation_scores=scores_to_json(report.validation),
            train_scores=scores_to_json(report.train) if report.train else None,
            action=str(action), seconds=report.seconds, peak_memory_bytes=report.peak_memory_bytes,
        )  # fmt: skip

    def add_event(self, kind: str, trial: int | None = None, attempt: int | None = None, **detail: Any) -> None:
        """Add a line to the study's log."""
        self._insert(events, kind=kind, trial=trial, attempt=attempt, detail=json.dumps(detail))

    def has_event(self, kind: str, trial: int) -> bool:
        """Return whether the log has a line of this kind on `trial`."""
        which = sa.and_(self._trial(events, trial), events.c.kind == kind)
        count = self._execute(sa.select(sa.func.count()).select_from(events).where(which)).scalar_one()
        return bool(count)

    # -- what Optuna keeps of a trial

    def set_intermediate_value(self, trial: int, rung: int, score: float) -> None:
        """Give Optuna a score at a rung; that of a later attempt replaces that of an earlier one."""
        self._database.storage.set_trial_intermediate_value(self._optuna_id(trial), rung, score)

    def should_prune(self, trial: int) -> bool:
        """Ask the study's pruner about `trial`, whose newest score it was given.

        An enqueued trial, such as the default, is never given up: it is what the others are measured against.
        """
        trials = self.trials()
        enqueued = "fixed_params" in trials[trial].system_attrs
        return not enqueued and bool(self._pruner.prune(_ReadStudy(self.study, trials), trials[trial]))

    def set_attributes(self, trial: int, attributes: Mapping[str, Any]) -> None:
        """Set user attributes of a trial that has not finished, all at once; Optuna takes two statements for each."""
        trial_id = self._optuna_id(trial)
        self._execute(statements.FORGET_ATTRIBUTES, of_trial_id=trial_id, keys=list(attributes))
        rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(attributes[key])} for key in attributes]
        self._open_connection().execute(statements.ADD_ATTRIBUTES, rows)

    def set_constraint(self, trial: int, name: str, value: float) -> None:
        """Set a constraint of a running trial; above 0 it is violated."""
        Trial(self.study, self._optuna_id(trial)).set_constraint(name, value)

    def set_waiting(self, trial: int) -> None:
        """Put a running trial back among those that wait; it keeps its parameters and is handed out first."""
        self._database.storage.set_trial_state_values(self._optuna_id(trial), TrialState.WAITING)

    # -- plumbing

    def _open_connection(self) -> Connection:
        assert self._connection is not None, "the store's records are read and written inside a transaction"
        return self._connection

    def _opened(self) -> optuna.Study:
        with translated(self._database.engine.url), _quiet_optuna():
            return optuna.create_study(
                storage=self._database.storage,
                sampler=self._sampler,
                pruner=self._pruner,
                study_name=self.name,
                direction="maximize",
                load_if_exists=True,
            )

    def _optuna_id(self, trial: int) -> int:
        return self.study._storage.get_trial_id_from_study_id_trial_number(self.study_id, trial)

    def _trial(self, table: sa.Table, trial: int) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.study_id == self.study_id, table.c.trial == trial)

    def _execute(self, statement: sa.Executable, **parameters: Any) -> sa.CursorResult[Any]:
        return self._open_connection().execute(statement, parameters)

    def _insert(self, table: sa.Table, **values: Any) -> None:
        self._execute(sa.insert(table), study_id=self.study_id, **values)


class _ReadStudy(optuna.Study):
    """A study whose trials have just been read, for a pruner that would read them once more."""

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        vars(self).update(vars(study))
        self._trials = trials

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the trials as they were read, those in one of `states` or all."""
        chosen = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen


def renew_lease(connection: Connection, study_id: int, fence: int, seconds: float) -> bool:
    """Let the lease of `fence` run `seconds` from now; False if there is a newer one, or no such study."""
    parameters = {"of_study": study_id, "of_fence": fence, "seconds": seconds}
    return connection.execute(statements.RENEW_LEASE, parameters).rowcount == 1


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna from announcing a study that we announce ourselves."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
