"""Store of one study: every write of a search, each inside one transaction with Optuna's own rows."""

import json
import shlex
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from sqlalchemy.engine import RowMapping

from hpo.errors import StudyMismatchError
from hpo.messages import SEMANTICS, SEMANTICS_KEY, WEIGHTS_KEY
from hpo.store.database import Database, translated
from hpo.store.optuna_adapter import quiet_optuna
from hpo.store.tables import STUDY, EventLog, StudyRows, attempts, evaluations, events, studies, trials
from hpo.store.trial_cache import TrialCache
from hpo.store.trials import Attempts, Trials

UID_ATTRIBUTE = "hpo:uid"
METRIC_ATTRIBUTE = "hpo:metric"
CONFIRMS_ATTRIBUTE = "hpo:confirms"
"""Attribute of a study and its trials: the confirmed study, and the confirmed trial of it."""
RUNGS_ATTRIBUTE = "rungs"
"""Attribute of a trial: the rungs at which the pruner `promotion` may pause it."""
UNSEEN_ATTRIBUTE = "hpo:unseen"
"""Attribute: true if a confirmation uses rows that the confirmed study never saw."""

STUDY_ROW = sa.select(studies).where(studies.c.study_id == STUDY)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """Settings of a study, which a later start must match."""

    configuration: Mapping[str, Any]
    space: Mapping[str, Any]
    data_fingerprint: str
    versions: Mapping[str, str]


class StudyStore:
    """One study in one database: its settings, its trials, their attempts, and its log.

    Everything except `transaction` is used inside a transaction. Transactions of several threads are serialised.
    """

    def __init__(self, database: Database, name: str, sampler: BaseSampler, pruner: BasePruner) -> None:
        """Open the study `name`; create it if it does not exist."""
        self.name = name
        self.database = database
        self._lock = threading.Lock()
        with translated(database.engine.url), quiet_optuna():
            optuna.create_study(storage=database.storage, study_name=name, direction="maximize", load_if_exists=True)
            self._cache = TrialCache(database.storage, name)
        self.study = optuna.load_study(study_name=name, storage=self._cache, sampler=sampler, pruner=pruner)
        self.rows = StudyRows(self._cache.study_id)
        self.trials = Trials(self.rows, self._cache, self.study, pruner)
        self.attempts = Attempts(self.rows)
        self.events = EventLog(self.rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a transaction: what the block writes, here and through `study`, is committed together or not at all."""
        with self._lock:
            self._cache.within(True)
            try:
                with self.database.transaction() as self.rows.connection:
                    yield
                    self._cache.write_params()
                    self.trials.record_states()
            except BaseException:
                self._cache.forget()
                self.attempts.forget()
                raise
            finally:
                self.rows.connection = None
                self._cache.within(False)

    def record(self) -> StudyRecord | None:
        """Return the settings of the study; None if not recorded yet."""
        row = recorded_row(self.rows, self.study.user_attrs)
        return None if row is None else StudyRecord(**made_from(row))

    def create(self, record: StudyRecord, metric: str) -> None:
        """Record the settings of the study, and name its metric for Optuna's dashboard."""
        # Rows of an earlier study with this number, deleted with Optuna's own tools, are not ours. The lease stays: its
        # fence continues, so that a leader of that study is refused.
        delete_rows(self.rows)
        self.trials.forget_deleted_studies()
        uid = uuid.uuid4().hex
        made = replace(record, versions={SEMANTICS_KEY: str(SEMANTICS), **record.versions})
        values = {key: json.dumps(value) for key, value in asdict(made).items() if key != "data_fingerprint"}
        self.rows.insert(studies, name=self.name, uid=uid, data_fingerprint=record.data_fingerprint, **values)
        self.study.set_user_attr(UID_ATTRIBUTE, uid)
        self.study.set_user_attr(METRIC_ATTRIBUTE, metric)
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            self.study.set_metric_names([metric])

    def set_space(self, space: Mapping[str, Any]) -> None:
        """Record the space over which the study resumes; some ranges may be wider than before."""
        self._write(space=json.dumps(space))

    def measurements(self) -> dict[str, Any] | None:
        """Return the measurements that chose precision and threads; None if there were none."""
        row = self._row()
        return json.loads(row["measurements"]) if row and row["measurements"] else None

    def set_measurements(self, measurements: Mapping[str, Any]) -> None:
        """Store the measurements, for every later start of the study."""
        self._write(measurements=json.dumps(dict(measurements)))

    def _row(self) -> RowMapping | None:
        return self.rows.execute(STUDY_ROW).mappings().first()

    def _write(self, **values: Any) -> None:
        self.rows.execute(sa.update(studies).where(studies.c.study_id == STUDY).values(values))


def recorded_row(rows: StudyRows, attributes: Mapping[str, Any]) -> RowMapping | None:
    """Return our row of a study with these attributes; None if hpo did not make it.

    A row may be left of an earlier study with the same number, deleted with Optuna's own tools; its uid is another.
    """
    row = rows.execute(STUDY_ROW).mappings().first()
    return row if row is not None and row["uid"] == attributes.get(UID_ATTRIBUTE) else None


def made_from(row: RowMapping) -> dict[str, Any]:
    """Return the fields of a `StudyRecord` in a row of studies."""
    read = {name: json.loads(row[name]) for name in ("configuration", "space", "versions")}
    return read | {"data_fingerprint": row["data_fingerprint"]}


def delete_rows(rows: StudyRows) -> None:
    """Delete our rows of a study except its lease, whose fence refuses a leader of it in the next one's number."""
    for table in (attempts, evaluations, events, studies, trials):
        rows.execute(sa.delete(table).where(table.c.study_id == STUDY))


def has_other_weights(recorded: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Return true if the pretrained weights in the versions of a study are not those in the versions `now`.

    False under another transformers, which may name the same weights otherwise, or if either does not say them.
    """
    before, after = ([versions.get(key) for key in ("transformers", WEIGHTS_KEY)] for versions in (recorded, now))
    return before[0] == after[0] and None not in (before[1], after[1]) and before[1] != after[1]


def refuse_other_weights(name: str, recorded: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise StudyMismatchError if the study `name` was begun over pretrained weights that the model no longer has.

    Args:
        name: the study.
        recorded: versions that were recorded with it.
        now: those of this start.
    """
    if has_other_weights(recorded, now):
        raise StudyMismatchError(
            f"The study {name!r} was begun over other pretrained weights than its model.name has now, and its results "
            "would not compare; start a new study with --study NAME, or put those weights back. Nothing was changed."
        )


def refuse_other_semantics(name: str, versions: Mapping[str, str], confirms: str | None = None) -> None:
    """Raise StudyMismatchError if a study was trained by an hpo under which its trials score differently.

    Args:
        name: the study.
        versions: recorded with it.
        confirms: the study whose trials its runs confirm; None for a search.
    """
    if int(versions.get(SEMANTICS_KEY, 1)) == SEMANTICS:
        return
    begun = "was begun by another version of hpo, under which the same configuration scores a little otherwise, so new"
    if confirms is not None:
        raise StudyMismatchError(
            f"The confirmation of {confirms!r} {begun} runs would not compare. hpo best, report and export work with "
            f"what it gave; to confirm anew, delete its runs first: hpo studies delete {shlex.quote(name)}"
        )
    raise StudyMismatchError(
        f"The study {name!r} {begun} trials would not compare. hpo best, report and export work with it, and hpo "
        "confirm unless it had begun; to search on, start a new study with --study NAME. Nothing was changed."
    )
