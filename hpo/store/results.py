"""Reads what a store holds: studies, their trials as a leaderboard, and the record of a trial. Writes nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection

from hpo.errors import ConfigurationError, NoResultError, StoreError, nearest
from hpo.messages import Scores
from hpo.store.engine import Database
from hpo.store.records import scores_from_json
from hpo.store.studies import UID_ATTRIBUTE
from hpo.store.tables import attempts, evaluations, events, studies


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """One study of a store."""

    name: str
    metric: str | None
    """Its objective; None if the study was not made by hpo."""
    trials: int
    completed: int
    pruned: int
    failed: int
    unfinished: int
    best: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One trial of a study, as its newest attempt left it."""

    number: int
    state: str
    """COMPLETE, PRUNED, FAIL, RUNNING or WAITING, as Optuna names them."""
    score: float | None
    """Objective of a completed trial at its best full evaluation; else its newest one, if any."""
    train_score: float | None
    validation: Scores | None
    """Every score of its best full evaluation."""
    best_epoch: float | None
    rung: int | None
    """Where its newest evaluation stands, in per mille of the longest trial."""
    seconds: float | None
    seed: int | None
    proposed_by: str
    reason: str
    configuration: Mapping[str, Any]
    """Its hyperparameters, with the real learning rate; empty if hpo did not train it."""
    sampled: tuple[str, ...]
    """Names of the hyperparameters that the search varied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """A study read in one transaction: what it was made from and what its trials gave."""

    name: str
    configuration: Mapping[str, Any]
    data_fingerprint: str
    versions: Mapping[str, str]
    measurements: Mapping[str, Any]
    metric: str
    trials: tuple[TrialResult, ...]
    test: Mapping[int, Scores]
    """Trial -> what it scored on the test split, where that was read."""

    @property
    def leaderboard(self) -> tuple[TrialResult, ...]:
        """Completed trials from best to worst; of equals the earlier first."""
        completed = (trial for trial in self.trials if trial.state == "COMPLETE" and trial.score is not None)
        return tuple(sorted(completed, key=lambda trial: (-(trial.score or 0.0), trial.number)))

    @property
    def best(self) -> TrialResult:
        """The best completed trial.

        Raises:
            NoResultError: no trial has completed.
        """
        if not self.leaderboard:
            raise NoResultError(
                f"The study {self.name!r} has no completed trial yet (it has {len(self.trials)} in all); let it run on."
            )
        return self.leaderboard[0]


def read_studies(database: Database) -> list[StudySummary]:
    """Return the studies of a store, in the order in which they were made."""
    with database.reading():
        storage = database.storage
        return [
            _summary(study.study_name, study.user_attrs.get("hpo:metric"), storage.get_all_trials(study._study_id))
            for study in _begun_studies(database)
        ]


def read_results(database: Database, name: str | None = None) -> StudyResults:
    """Return one study's results.

    Args:
        database: the store.
        name: the study; None for the only one of the store.

    Raises:
        ConfigurationError: no such study, or several where none was named.
        NoResultError: there is no study yet.
        StoreError: a study that hpo did not make.
    """
    with database.reading() as connection:
        study_id, name = chosen_study(database, name)
        uid = database.storage.get_study_user_attrs(study_id).get(UID_ATTRIBUTE)
        row = connection.execute(sa.select(studies).where(studies.c.study_id == study_id)).mappings().first()
        if row is None or row["uid"] != uid:
            raise StoreError(f"The study {name!r} was not made by hpo, which knows nothing of its configurations.")
        return StudyResults(
            name=name,
            configuration=json.loads(row["configuration"]),
            data_fingerprint=row["data_fingerprint"],
            versions=json.loads(row["versions"]),
            measurements=json.loads(row["measurements"] or "{}"),
            metric=database.storage.get_study_user_attrs(study_id)["hpo:metric"],
            trials=_trials(connection, study_id, database.storage.get_all_trials(study_id)),
            test=_test_scores(connection, study_id),
        )


def _begun_studies(database: Database) -> list[FrozenStudy]:
    """Return every study but those whose first start was refused before it began, which are names alone."""
    return [
        study
        for study in database.storage.get_all_studies()
        if study.user_attrs or database.storage.get_n_trials(study._study_id)
    ]


def chosen_study(database: Database, name: str | None) -> tuple[int, str]:
    """Return (number, name) of a study, inside a transaction; raises as `read_results` does where it is not there."""
    ids = {study.study_name: study._study_id for study in _begun_studies(database)}
    if name is None and len(ids) == 1:
        name = next(iter(ids))
    if not ids:
        raise NoResultError("The store holds no study yet; begin one with hpo run, or try hpo demo.")
    if name is None:
        raise ConfigurationError(f"The store holds several studies; name one with --study: {', '.join(ids)}.")
    if name not in ids:
        raise ConfigurationError(f"The store holds no study {name!r}. {nearest(name, ids)}")
    return ids[name], name


def _summary(name: str, metric: str | None, trials: Sequence[FrozenTrial]) -> StudySummary:
    count = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    values = [trial.values[0] for trial in trials if trial.state == TrialState.COMPLETE]
    return StudySummary(
        name=name,
        metric=metric,
        trials=len(trials),
        completed=count[TrialState.COMPLETE],
        pruned=count[TrialState.PRUNED],
        failed=count[TrialState.FAIL],
        unfinished=count[TrialState.RUNNING] + count[TrialState.WAITING],
        best=max(values, default=None),
    )


def _trials(connection: Connection, study_id: int, frozen: Sequence[FrozenTrial]) -> tuple[TrialResult, ...]:
    newest: dict[int, Mapping[str, Any]] = {}
    rows = sa.select(attempts).where(attempts.c.study_id == study_id).order_by(attempts.c.attempt)
    for row in connection.execute(rows).mappings():
        newest[row["trial"]] = dict(row)
    best: dict[tuple[int, int, int], Mapping[str, Any]] = {}
    columns = (
        evaluations.c.trial,
        evaluations.c.attempt,
        evaluations.c.rung,
        evaluations.c.train_score,
        evaluations.c.validation_scores,
        evaluations.c.epoch,
    )
    for row in connection.execute(sa.select(*columns).where(evaluations.c.study_id == study_id)).mappings():
        best[row["trial"], row["attempt"], row["rung"]] = dict(row)
    return tuple(_trial(trial, newest.get(trial.number, {}), best) for trial in frozen)


def _trial(
    trial: FrozenTrial, attempt: Mapping[str, Any], best: Mapping[tuple[int, int, int], Mapping[str, Any]]
) -> TrialResult:
    at_best = best.get((trial.number, attempt.get("best_attempt") or 0, attempt.get("best_rung") or 0), {})
    newest = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
    return TrialResult(
        number=trial.number,
        state=trial.state.name,
        score=trial.values[0] if trial.values else newest,
        train_score=at_best.get("train_score"),
        validation=scores_from_json(at_best["validation_scores"]) if at_best else None,
        best_epoch=at_best.get("epoch"),
        rung=trial.last_step,
        seconds=attempt.get("seconds"),
        seed=attempt.get("seed"),
        proposed_by=trial.user_attrs.get("proposed_by", ""),
        reason=attempt.get("reason") or "",
        configuration=json.loads(attempt["configuration"]) if attempt else {},
        sampled=tuple(name.removesuffix("_multiplier") for name in trial.params),
    )


def _test_scores(connection: Connection, study_id: int) -> dict[int, Scores]:
    which = sa.and_(events.c.study_id == study_id, events.c.kind == "test_read")
    rows = connection.execute(sa.select(events.c.trial, events.c.detail).where(which).order_by(events.c.event_id))
    return {row.trial: scores_from_json(json.loads(row.detail)["scores"]) for row in rows}
