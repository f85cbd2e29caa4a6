"""Reads Optuna's trials by plain statements, several times as fast as Optuna does by the objects of an ORM."""

import json
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Set
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

_distribution: Callable[[str], BaseDistribution] = lru_cache(maxsize=1024)(json_to_distribution)

Fields = Mapping[int, dict[Any, Any]]
"""Of a kind, by the row of a trial; empty where it has none."""


def read_trials(session: Session, which: sa.ColumnElement[bool]) -> list[FrozenTrial]:
    """Return the trials that meet a condition on `TrialModel`, in the order in which they were made."""

    def fields(*columns: Any, read: Callable[..., Any]) -> Fields:
        """Return what `read` makes of all columns but the first, by that one."""
        model = columns[0].class_
        rows = sa.select(model.trial_id, *columns).join(TrialModel, TrialModel.trial_id == model.trial_id).where(which)
        found: dict[int, dict[Any, Any]] = defaultdict(dict)
        for trial_id, key, *rest in session.execute(rows.order_by(sa.inspect(model).primary_key[0])):
            found[trial_id][key] = read(*rest)
        return found

    trial = TrialModel
    rows = sa.select(trial.trial_id, trial.number, trial.state, trial._datetime_start_utc, trial._datetime_complete_utc)
    # First: on PostgreSQL each statement sees what is committed by then. Read last, a trial that was told in between
    # would seem to have ended with nothing, and what has ended is not read again.
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
            values=[told for _, told in sorted(values[row].items())] or None,
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


def of_study(
    study_id: int, states: Container[TrialState] | None, included: Set[int], later_than: int
) -> sa.ColumnElement[bool]:
    """Return the condition on the trials of a study, as Optuna's storages are asked for them.

    Args:
        study_id: the study.
        states: those in which a trial may be; None for any.
        included: rows of trials that are wanted.
        later_than: so are all rows after this one; -1 for all there are.
    """
    which: sa.ColumnElement[bool] = TrialModel.study_id == study_id
    if states is not None:
        which &= TrialModel.state.in_([state for state in TrialState if state in states])
    if later_than >= 0:
        which &= sa.or_(TrialModel.trial_id.in_(included), TrialModel.trial_id > later_than)
    return which


def _local(moment: datetime | None) -> datetime | None:
    """Return a time of day in UTC as one of here, as Optuna shows it."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
