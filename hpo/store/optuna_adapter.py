"""Optuna adapter: every private name of Optuna that hpo uses, each checked on import.

They make Optuna's calls join our transactions, and read its trials by plain statements, several times as fast as
through its ORM. An Optuna version in which one of them differs is refused, because it could store something else than
intended.
"""

import inspect
import json
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

import optuna
import sqlalchemy as sa
from optuna import Study
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from hpo.errors import StoreError

TESTED = ">=5,<5.1"
"""Supported versions of Optuna, as in pyproject.toml."""


def _refused(differs: str) -> StoreError:
    return StoreError(
        f"Optuna {optuna.__version__} is installed, and differs from the versions that hpo works with in {differs}: "
        f"pip install 'optuna{TESTED}'."
    )


try:
    from optuna.storages._rdb.models import (
        StudyModel,
        TrialIntermediateValueModel,
        TrialModel,
        TrialParamModel,
        TrialSystemAttributeModel,
        TrialUserAttributeModel,
        TrialValueModel,
    )
    from optuna.study._frozen import FrozenStudy
except ImportError as error:
    raise _refused(str(error)) from None

__all__ = ["FrozenStudy", "StudyModel", "TrialModel", "TrialParamModel", "TrialUserAttributeModel", "TrialValueModel"]

CALLS: Sequence[tuple[type, str, str, str]] = [
    (RDBStorage, "_create_new_trial", "self study_id template_trial", "scoped_session"),
    (RDBStorage, "_get_trials", "self study_id states included_trial_ids trial_id_greater_than", "scoped_session"),
    (RDBStorage, "get_all_trials", "self study_id deepcopy states", "_get_trials"),
    (TrialValueModel, "value_to_stored_repr", "value", "TrialValueType"),
    (TrialValueModel, "stored_repr_to_value", "value float_type", "TrialValueType"),
    (TrialIntermediateValueModel, "stored_repr_to_intermediate_value", "value float_type",
     "TrialIntermediateValueType"),
    (TrialIntermediateValueModel, "intermediate_value_to_stored_repr", "value", "TrialIntermediateValueType"),
    (Study, "__init__", "self study_name storage sampler pruner", "_storage"),
    (FrozenStudy, "__init__", "self study_name direction user_attrs system_attrs study_id directions", "_study_id"),
    (FrozenTrial, "__init__",
     "self number state value datetime_start datetime_complete params distributions user_attrs system_attrs "
     "intermediate_values trial_id values", "_trial_id"),
]  # fmt: skip
"""A class, a method, its parameters, and an attribute that it must read or set."""
COLUMNS: Mapping[type, str] = {
    StudyModel: "study_id study_name",
    TrialModel: "trial_id number study_id state datetime_start datetime_complete",
    TrialValueModel: "trial_id objective value value_type",
    TrialParamModel: "trial_id param_name param_value distribution_json",
    TrialIntermediateValueModel: "trial_id step intermediate_value intermediate_value_type",
    TrialUserAttributeModel: "trial_id key value_json",
    TrialSystemAttributeModel: "trial_id key value_json",
}
"""The columns of a table that are read or written."""


def differences() -> list[str]:
    """Return the private names used by hpo that the installed Optuna lacks or has changed."""
    calls = (f"{one[0].__name__}.{one[1]}" for one in CALLS if not _is_as_tested(*one))
    columns = (
        f"{model.__name__}.{name}"
        for model, names in COLUMNS.items()
        for name in names.split()
        if name not in sa.inspect(model).local_table.c
    )
    return [*calls, *columns]


def _is_as_tested(owner: type, method: str, parameters: str, attribute: str) -> bool:
    function = getattr(owner, method, None)
    if function is None or list(inspect.signature(function).parameters) != parameters.split():
        return False
    return attribute in inspect.unwrap(function).__code__.co_names


if _differences := differences():
    raise _refused(", ".join(_differences))


# -- transactions


class JoinedSession(Session):
    """A session inside a transaction of ours, which remembers why Optuna rolled it back."""

    failure: BaseException | None = None

    def rollback(self) -> None:
        """Undo the whole transaction; Optuna calls this after an error that it has caught, and may swallow."""
        self.failure = self.failure or sys.exception()
        super().rollback()


class JoiningSessions:
    """Factory of Optuna's sessions: that of this thread's open transaction, or a session of its own."""

    def __init__(self, engine: Engine) -> None:
        self._own = scoped_session(sessionmaker(bind=engine))
        self._thread = threading.local()

    def __call__(self) -> Session:
        """Return the session that Optuna's next call works in."""
        joined: JoinedSession | None = getattr(self._thread, "session", None)
        if joined is None:
            return self._own()
        if joined.failure is not None:
            # Optuna would continue, or retry, in a transaction that has ended.
            raise joined.failure
        return joined

    def remove(self) -> None:
        """Close this thread's own session, as `scoped_session.remove` does."""
        self._own.remove()

    @contextmanager
    def joined_to(self, connection: Connection) -> Iterator[None]:
        """Let Optuna work inside `connection`'s transaction: its commits flush, its rollbacks undo all of it.

        The reason of a rollback is raised at the end, even if it was swallowed on the way.
        """
        assert getattr(self._thread, "session", None) is None, "transactions do not nest"
        session = self._thread.session = JoinedSession(connection, join_transaction_mode="rollback_only")
        try:
            yield
        finally:
            self._thread.session = None
            session.close()
            if session.failure is not None:
                raise session.failure


class JoiningStorage(RDBStorage):
    """Optuna's own SQL storage over our engine; its calls join the transaction that is open in their thread."""

    def __init__(self, engine: Engine, pickled: tuple[Any, ...]) -> None:
        """Take the engine, and the replacement when pickled: a function and its arguments, without a password."""
        # Optuna treats `{...}` in a URL as a template and stores the URL in plain text, so it gets the bare dialect;
        # the connections come from our pool.
        super().__init__(f"{engine.url.drivername}://", engine_kwargs={"pool": engine.pool})
        self.engine = engine
        self.scoped_session: Any = JoiningSessions(engine)
        self._pickled = pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return self._pickled

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        with self.scoped_session() as session:
            if session.get(StudyModel, study_id) is None:
                raise KeyError(f"There is no study {study_id}.")
            which: sa.ColumnElement[bool] = TrialModel.study_id == study_id
            if states is not None:
                which &= TrialModel.state.in_([state for state in TrialState if state in states])
            if trial_id_greater_than >= 0:
                rows = TrialModel.trial_id
                which &= sa.or_(rows.in_(included_trial_ids), rows > trial_id_greater_than)
            return _read_trials(session, which)

    def read(self, study_id: int, rows: Set[int] | None = None) -> list[FrozenTrial]:
        """Return the trials of a study; only those in `rows`, if given."""
        return self._get_trials(study_id, None, set(rows or ()), -1 if rows is None else _NO_LATER)

    def execute(self, statement: sa.Executable, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement of ours, in the open transaction or outside one."""
        with self.scoped_session() as session:
            return [tuple(row) for row in session.execute(statement, parameters)]

    def begin_trial(self, study_id: int, template: FrozenTrial | None) -> FrozenTrial:
        """Make a trial, and return it without reading it."""
        return self._create_new_trial(study_id, template)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set the value at a step, by one statement instead of Optuna's three."""
        value, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate_value)
        row = {"step": step, "intermediate_value": value, "intermediate_value_type": kind}
        self.write(TrialIntermediateValueModel, "step", trial_id, [row])

    def set_state(self, trial_id: int, state: TrialState, values: Sequence[float] | None, now: datetime) -> bool:
        """Set a state as `set_trial_state_values` does, at the local time `now`."""
        stored = [TrialValueModel.value_to_stored_repr(value) for value in values or ()]
        rows = [{"objective": at, "value": one, "value_type": kind} for at, (one, kind) in enumerate(stored)]
        if rows:
            self.write(TrialValueModel, "objective", trial_id, rows)
        begins = state == TrialState.RUNNING
        before = TrialModel.state == TrialState.WAITING if begins else _UNFINISHED
        set_to: dict[str, Any] = {"state": state}
        if begins or state.is_finished():
            set_to["datetime_start" if begins else "datetime_complete"] = now.astimezone(UTC).replace(tzinfo=None)
        statement = sa.update(sa.inspect(TrialModel).local_table).where(TrialModel.trial_id == trial_id, before)
        with self.scoped_session() as session:
            is_set = session.connection().execute(statement.values(set_to)).rowcount == 1
            session.commit()
        return is_set or super().set_trial_state_values(trial_id, state, values)  # which gives the reason

    def write(self, model: type, key: str, trial_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of a trial, replacing those with the same `key`; raises as Optuna does for a finished trial."""
        statement = _written(self.engine.dialect.name, model, key)
        with self.scoped_session() as session:
            values = [{"of_row": trial_id} | {f"new_{name}": value for name, value in row.items()} for row in rows]
            written = session.connection().execute(statement, values, execution_options={"preserve_rowcount": True})
            session.commit()
        if written.rowcount != len(rows):
            self.check_trial_is_updatable(trial_id, self.get_trial(trial_id).state)


# -- rows


_distribution: Callable[[str], BaseDistribution] = lru_cache(maxsize=1024)(json_to_distribution)
_UNFINISHED = sa.or_(TrialModel.state == TrialState.RUNNING, TrialModel.state == TrialState.WAITING)
_NO_LATER = 2**31 - 1
"""Greater than every number that Optuna gives a trial's row."""


@cache
def _written(dialect: str, model: type, key: str) -> sa.Insert:
    """Return the statement that writes a row of an unfinished trial, replacing one with the same `key`."""
    table: sa.Table = sa.inspect(model).local_table
    columns = [column for column in table.c if not column.primary_key and column.name != "trial_id"]
    values = (sa.bindparam(f"new_{column.name}", type_=column.type) for column in columns)
    row = sa.select(TrialModel.trial_id, *values).where(TrialModel.trial_id == sa.bindparam("of_row"), _UNFINISHED)
    insert: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    replaced = {column.name: insert.excluded[column.name] for column in columns}
    written: sa.Insert = insert.from_select(["trial_id", *columns], row).on_conflict_do_update(
        index_elements=["trial_id", key], set_=replaced
    )
    return written


def row_of(one: FrozenTrial) -> int:
    """Return the number of a trial's row."""
    return one._trial_id


def studies_in(storage: BaseStorage) -> dict[int, FrozenStudy]:
    """Return the studies of a storage, by their numbers."""
    return {study._study_id: study for study in storage.get_all_studies()}


def _read_trials(session: Session, which: sa.ColumnElement[bool]) -> list[FrozenTrial]:
    """Return the trials that meet a condition on `TrialModel`, in the order in which they were created."""

    def fields(*columns: Any, read: Callable[..., Any]) -> Mapping[int, dict[Any, Any]]:
        """Return the result of `read` for all columns but the first, keyed by the first."""
        model = columns[0].class_
        rows = sa.select(model.trial_id, *columns).join(TrialModel, TrialModel.trial_id == model.trial_id).where(which)
        found: dict[int, dict[Any, Any]] = defaultdict(dict)
        for trial_id, key, *rest in session.execute(rows.order_by(sa.inspect(model).primary_key[0])):
            found[trial_id][key] = read(*rest)
        return found

    trial = TrialModel
    times = (sa.inspect(trial).local_table.c[name] for name in ("datetime_start", "datetime_complete"))
    rows = sa.select(trial.trial_id, trial.number, trial.state, *times)
    # First, because on PostgreSQL each statement sees what is committed at its start. If it were read last, a trial
    # that was told in between would seem to have ended without a value, and ended trials are not read again.
    made = session.execute(rows.where(which).order_by(trial.trial_id)).all()
    param, value, step = TrialParamModel, TrialValueModel, TrialIntermediateValueModel
    user, system = TrialUserAttributeModel, TrialSystemAttributeModel
    params = fields(
        param.param_name, param.param_value, param.distribution_json,
        read=lambda internal, text: (_distribution(text), internal),
    )  # fmt: skip
    values = fields(value.objective, value.value, value.value_type, read=value.stored_repr_to_value)
    steps = fields(
        step.step, step.intermediate_value, step.intermediate_value_type, read=step.stored_repr_to_intermediate_value
    )
    user_attrs = fields(user.key, user.value_json, read=json.loads)
    system_attrs = fields(system.key, system.value_json, read=json.loads)
    return [
        FrozenTrial(
            number=number,
            state=state,
            value=None,
            values=[one for _, one in sorted(values[row].items())] or None,
            datetime_start=_local(started),
            datetime_complete=_local(completed),
            params={name: known.to_external_repr(internal) for name, (known, internal) in params[row].items()},
            distributions={name: known for name, (known, _) in params[row].items()},
            user_attrs=user_attrs[row],
            system_attrs=system_attrs[row],
            intermediate_values=steps[row],
            trial_id=row,
        )
        for row, number, state, started, completed in made
    ]


def _local(moment: datetime | None) -> datetime | None:
    """Return a UTC time as a local one, as Optuna shows it."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


UNFINISHED = sa.text("trials.state IN ('RUNNING', 'WAITING')")
"""In plain SQL, because SQLite would use no index with the `= 1` that SQLAlchemy adds to a Boolean column."""


# -- storages over a storage


def storage_of(study: Study) -> BaseStorage:
    """Return the storage of an Optuna study."""
    return study._storage


def _passes_on(name: str) -> Callable[..., Any]:
    def passed_on(storage: Any, *arguments: Any, **named: Any) -> Any:
        return getattr(storage.backend, name)(*arguments, **named)

    return passed_on


PassingStorage: Any = type(
    "PassingStorage", (BaseStorage,), {name: _passes_on(name) for name in BaseStorage.__abstractmethods__}
)
"""A storage that delegates to its `backend` whatever a subclass does not implement."""


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from logging a study that hpo announces itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
