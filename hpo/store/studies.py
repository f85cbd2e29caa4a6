"""The records of one study: every write of a search, each inside one transaction with Optuna's own rows."""

import json
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import Connection, RowMapping

from hpo.errors import StoreUnavailableError
from hpo.messages import SEMANTICS, SEMANTICS_KEY
from hpo.store import statements
from hpo.store.attempts import AttemptStore
from hpo.store.records import LeaseRecord, StudyRecord
from hpo.store.tables import attempts, clock, evaluations, events, leases, studies, trials
from hpo.store.trial_statistics import TrialStatistics

UID_ATTRIBUTE = "hpo:uid"
CONFIRMS_ATTRIBUTE = "hpo:confirms"
"""Of a study the one that it confirms, of a trial of it the trial there."""
UNSEEN_ATTRIBUTE = "hpo:unseen"
"""Whether a study that confirms another does so on rows that the other never saw."""


class StudyStore(AttemptStore):
    """A study: what it was made from, who leads it, its attempts, and its trials as Optuna has them."""

    # -- the study itself

    def record(self) -> StudyRecord | None:
        """Return what the study was made from; None if it was not recorded yet."""
        uid = self.study.user_attrs.get(UID_ATTRIBUTE)
        row = self._row()
        if row is None or row["uid"] != uid:
            return None
        told = {name: json.loads(row[name]) for name in ("configuration", "space", "versions")}
        return StudyRecord(data_fingerprint=row["data_fingerprint"], **told)

    def create(self, record: StudyRecord, objective: str) -> None:
        """Record what the study is made from, and name its objective for Optuna's dashboard."""
        # Rows of an earlier study of this number, deleted with Optuna's own tools, are not ours. The lease stays: its
        # fence rises on, so that a leader of that study is refused.
        for table in (attempts, evaluations, events, studies, trials):
            self._execute(sa.delete(table).where(table.c.study_id == self.study_id))
        uid = uuid.uuid4().hex
        made = replace(record, versions={SEMANTICS_KEY: str(SEMANTICS), **record.versions})
        values = {key: json.dumps(value) for key, value in asdict(made).items() if key != "data_fingerprint"}
        self._execute(statements.GONE_TRIALS)
        self._insert(studies, name=self.name, uid=uid, data_fingerprint=record.data_fingerprint, **values)
        self.study.set_user_attr(UID_ATTRIBUTE, uid)
        self.study.set_user_attr("hpo:metric", objective)
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            self.study.set_metric_names([objective])

    def set_space(self, space: Mapping[str, Any]) -> None:
        """Record the space that the study goes on over, of which some ranges may be wider than before."""
        self._write(space=json.dumps(space))

    def measurements(self) -> dict[str, Any] | None:
        """Return what was measured to choose precision and threads; None if nothing was."""
        row = self._row()
        return json.loads(row["measurements"]) if row and row["measurements"] else None

    def set_measurements(self, measurements: Mapping[str, Any]) -> None:
        """Keep what was measured, for every later start of the study."""
        self._write(measurements=json.dumps(dict(measurements)))

    def _row(self) -> RowMapping | None:
        return self._execute(sa.select(studies).where(studies.c.study_id == self.study_id)).mappings().first()

    def _write(self, **values: Any) -> None:
        self._execute(sa.update(studies).where(studies.c.study_id == self.study_id).values(values))

    # -- the lease

    def lease(self) -> LeaseRecord:
        """Return the newest lease, in force or not, locked until the transaction ends; fence 0 is nobody's."""
        # Of two first leaders on PostgreSQL the second waits here until the first has committed.
        self._execute(statements.FIRST_LEASE, of_study=self.study_id)
        newest = read_lease(self._open_connection(), self.study_id, lock=True)
        assert newest is not None, "the first one was made"
        return newest

    def take_lease(
        self, *, fence: int, host: str, machine: str, pid: int, process_started: float, seconds: float
    ) -> None:
        """Write a lease over the newest one, which `lease` has locked."""
        holder = {"fence": fence, "host": host, "machine": machine, "pid": pid, "process_started": process_started}
        taken = sa.update(leases).where(leases.c.study_id == self.study_id)
        self._execute(taken.values(holder | {"acquired_at": clock(), "expires_at": clock() + seconds}))

    def renew_lease(self, fence: int, seconds: float) -> bool:
        """Let the lease of `fence` run `seconds` from now; False if there is a newer one, or no such study."""
        return renew_lease(self._open_connection(), self.study_id, fence, seconds)

    # -- trials, as Optuna has them

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in one of `states`, or all, by number; not to be changed.

        Those that are finished make it a list as long as the study: where a few of them are asked for, see `tally`.
        """
        return self.study.get_trials(deepcopy=False, states=states or None)

    def trial(self, number: int) -> FrozenTrial:
        """Return one trial, not to be changed."""
        return self._picture.get_trial(self._optuna_id(number))

    def size(self) -> int:
        """Return how many trials the study has."""
        return self._picture.size()

    def tally(self) -> TrialStatistics:
        """Return what the finished trials come to."""
        return self._picture.tally()

    def states(self) -> dict[int, TrialState]:
        """Return the state of every trial, read for itself."""
        rows = self._execute(statements.TRIAL_STATES, of_study=self.study_id)
        return {row.number: row.state for row in rows}

    def enqueue(self, parameters: Mapping[str, Any]) -> int:
        """Make a trial that waits with these parameters, and return its number."""
        self.study.enqueue_trial(dict(parameters))
        # Optuna holds the study's row from there to the end of the transaction, so no later one can have been made.
        return int(self._execute(statements.NEWEST_TRIAL, of_study=self.study_id).scalar_one())

    def ask(self, waiting: int | None, sampler: BaseSampler | None = None) -> Trial:
        """Return a trial to suggest parameters for, running from now on: one that waits, or a new one.

        Args:
            waiting: the trial's number; None for a new one.
            sampler: in the place of the study's own; None for that.
        """
        # By no pruner: all that Hyperband's would do is to hide trials from the sampler.
        study = optuna.load_study(
            study_name=self.name, storage=self._picture, sampler=sampler or self.study.sampler, pruner=NopPruner()
        )
        if waiting is None:
            return Trial(study, self._picture.create_new_trial(self.study_id))
        row = self._optuna_id(waiting)
        if not self._picture.set_trial_state_values(row, TrialState.RUNNING):
            raise StoreUnavailableError(f"Trial {waiting} waits no more: another program has begun it.")
        return Trial(study, row)

    def set_intermediate_value(self, trial: int, rung: int, score: float) -> None:
        """Give Optuna a score at a rung; that of a later attempt replaces that of an earlier one."""
        self._picture.set_trial_intermediate_value(self._optuna_id(trial), rung, score)

    def should_prune(self, trial: int) -> bool:
        """Ask the study's pruner about `trial`, whose newest score it was given.

        An enqueued trial, such as the default, is never given up: it is what the others are measured against.
        """
        judged = self.trial(trial)
        enqueued = "fixed_params" in judged.system_attrs
        return not enqueued and bool(self._pruner.prune(self.study, judged))

    def set_attributes(self, trial: int, attributes: Mapping[str, Any]) -> None:
        """Set user attributes of a trial that has not finished, all at once; Optuna takes two statements for each."""
        trial_id = self._optuna_id(trial)
        self._execute(statements.FORGET_ATTRIBUTES, of_trial_id=trial_id, keys=list(attributes))
        rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(attributes[key])} for key in attributes]
        self._open_connection().execute(statements.ADD_ATTRIBUTES, rows)
        self._picture.wrote_attributes(trial_id, attributes)

    def set_constraint(self, trial: int, name: str, value: float) -> None:
        """Set a constraint of a running trial; above 0 it is violated."""
        Trial(self.study, self._optuna_id(trial)).set_constraint(name, value)

    def set_waiting(self, trial: int) -> None:
        """Put a running trial back among those that wait; it keeps its parameters and is handed out first."""
        self._picture.set_trial_state_values(self._optuna_id(trial), TrialState.WAITING)

    def _optuna_id(self, trial: int) -> int:
        return self._picture.get_trial_id_from_study_id_trial_number(self.study_id, trial)


def read_lease(connection: Connection, study_id: int, *, lock: bool = False) -> LeaseRecord | None:
    """Return the newest lease of a study; None if nobody ever led it. `lock` holds it until the transaction ends."""
    columns = [column for column in leases.c if column is not leases.c.study_id]
    newest = sa.select(*columns, clock().label("now")).where(leases.c.study_id == study_id)
    row = connection.execute(newest.with_for_update() if lock else newest).mappings().first()
    return None if row is None else LeaseRecord(**row)


def renew_lease(connection: Connection, study_id: int, fence: int, seconds: float) -> bool:
    """Let the lease of `fence` run `seconds` from now; False if there is a newer one, or no such study."""
    parameters = {"of_study": study_id, "of_fence": fence, "seconds": seconds}
    return connection.execute(statements.RENEW_LEASE, parameters).rowcount == 1
