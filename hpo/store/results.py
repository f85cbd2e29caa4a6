"""Results of a study: trials, their evaluations, confirming runs, baselines, test evaluations. Read-only."""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import RowMapping

from hpo.config.hyperparameters import with_later_fields
from hpo.errors import ConfigurationError, NoResultError
from hpo.messages import Ending, HeldOutEvaluation, Scores
from hpo.store.database import Database
from hpo.store.optuna_adapter import StudyModel
from hpo.store.studies import confirmation_of, opened_study
from hpo.store.study_store import (
    CONFIRMS_ATTRIBUTE,
    METRIC_ATTRIBUTE,
    RUNGS_ATTRIBUTE,
    STUDY_ROW,
    UNSEEN_ATTRIBUTE,
    made_from,
)
from hpo.store.tables import AUDIT_EVENT, BASELINE_EVENT, STUDY, TEST_EVENT, EventLog, StudyRows, attempts, evaluations
from hpo.store.trials import BEST_OF_TRIAL, held_out_from_json, scores_from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation of a trial in training."""

    trial: int
    attempt: int
    rung: int
    """Examples seen divided by those of the study's longest trial, in per mille. With folds, the share of folds scored,
    and 1000 for their mean."""
    full: bool
    """True if all of validation was scored."""
    epoch: float
    examples_seen: int
    learning_rate: float
    """Learning rate of the last step, including the schedule."""
    train_loss: float
    """Nats per example."""
    score: float
    """The score on validation."""
    seconds: float
    """Training and evaluation time of the trial so far."""
    reported_at: float
    """Seconds since 1970, by the database's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHistory:
    """History of a study, from its first attempt on."""

    begun_at: float | None
    """Seconds since 1970, by the database's clock; None if no trial has begun."""
    evaluations: tuple[Evaluation, ...]
    """By trial and rung; for a trial that was restarted, the evaluations that its newest attempt is based on."""
    completed: tuple[FrozenTrial, ...]
    """Completed trials in Optuna's form: proposed parameters and their distributions."""


_BEGUN_AT = sa.select(sa.func.min(attempts.c.started_at)).where(attempts.c.study_id == STUDY)
_EVALUATIONS = (
    sa.select(*(evaluations.c["is_full" if name == "full" else name].label(name) for name in Evaluation.__slots__))
    .where(evaluations.c.study_id == STUDY)
    .order_by(evaluations.c.trial, evaluations.c.attempt, evaluations.c.rung)
)


def read_history(database: Database, name: str | None = None) -> StudyHistory:
    """Return the history of a study; raises as `opened_study` does."""
    with opened_study(database, name) as (_, rows):
        completed = database.storage.get_all_trials(rows.study_id, states=(TrialState.COMPLETE,))
        return StudyHistory(
            begun_at=rows.execute(_BEGUN_AT).scalar(),
            evaluations=_standing(Evaluation(**row) for row in rows.execute(_EVALUATIONS).mappings()),
            completed=tuple(trial for trial in completed if trial.values),
        )


def _standing(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    """Return evaluations, by trial, attempt and rung, without those that a later attempt replaced.

    An attempt that resumed from a checkpoint repeats the reports after it, and one that restarted repeats all.
    """
    kept: list[Evaluation] = []
    for one in evaluations:
        while kept and kept[-1].trial == one.trial and kept[-1].rung >= one.rung:
            kept.pop()
        kept.append(one)
    return tuple(kept)


_BEST_NAMES = ("train_score", "validation_scores", "train_scores", "reading", "epoch")
_ATTEMPTS = (
    sa.select(attempts, *(evaluations.c[name] for name in _BEST_NAMES))
    .join(evaluations, BEST_OF_TRIAL, isouter=True)
    .where(attempts.c.study_id == STUDY)
)
"""Attempts, each with the best full evaluation of its trial."""
_BY_NUMBER = _ATTEMPTS.order_by(attempts.c.attempt)
_CONFIRMED = _ATTEMPTS.where(attempts.c.ending == str(Ending.COMPLETED)).order_by(attempts.c.ended_at)
_NAMED = sa.select(StudyModel.study_id).where(StudyModel.study_name == sa.bindparam("study_name"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One trial of a study, in the state of its newest attempt."""

    number: int
    state: str
    """COMPLETE, PRUNED, FAIL, RUNNING or WAITING, as Optuna names them."""
    ending: str | None
    """Ending of its newest attempt, as `hpo.messages.Ending`; None if it has not ended."""
    score: float | None
    """Score of a completed trial at its best full evaluation; else its newest one, if any."""
    train_score: float | None
    validation: Scores | None
    """Every score of its best full evaluation."""
    best_epoch: float | None
    rung: int | None
    """Rung of its newest evaluation, in per mille of the longest trial."""
    rungs: tuple[int, ...] = ()
    """The rungs at which the pruner `promotion` may pause it; empty with other pruners."""
    seconds: float | None
    seed: int | None
    device: str | None = None
    """Device of its newest attempt, in torch's notation."""
    ended_at: float | None = field(default=None, compare=False)
    """End of that attempt, in seconds since 1970 by the database's clock; None if it has not ended."""
    proposed_by: str
    reason: str
    configuration: Mapping[str, Any]
    """Its hyperparameters, with the real learning rate; empty if hpo did not train it."""
    parameters: Mapping[str, Any]
    """Parameters that the search varied, in Optuna's form: the learning rate as a multiplier."""

    @property
    def sampled(self) -> tuple[str, ...]:
        """Names of the hyperparameters that the search varied."""
        return tuple(name.removesuffix("_multiplier") for name in self.parameters)

    @property
    def trained_with(self) -> Mapping[str, Any]:
        """Its configuration with its own seed, which the configuration lacks unless the space has one."""
        return {**self.configuration, "seed": self.seed} if self.configuration else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmingRun:
    """A completed confirmation run: a trial of the search, trained again on a fresh seed."""

    trial: int
    """Its own number, in the study of the confirmation."""
    confirms: int
    """Trial of the search."""
    seed: int
    held_out: HeldOutEvaluation
    """Scores on the rows of the confirmation."""
    validation: Scores
    """Score on the rows that the search used, at the same epoch."""
    train: Scores | None
    epoch: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """A confirmation run that ended without a score: it diverged, was out of memory, failed or was pruned."""

    trial: int
    """Its own number, in the study of the confirmation."""
    confirms: int
    """Trial of the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestEvaluation:
    """One evaluation on the test split."""

    trial: int
    held_out: HeldOutEvaluation
    read_at: float = field(compare=False)
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """Results of a study, read in one transaction: its settings and the results of its trials."""

    name: str
    uid: str = ""
    """Unique id, different from that of another study with its name, in this store or another."""
    configuration: Mapping[str, Any]
    space: Mapping[str, Any] = field(default_factory=dict)
    """Its search space, as a space file has it."""
    data_fingerprint: str
    versions: Mapping[str, str]
    measurements: Mapping[str, Any]
    metric: str
    trials: tuple[TrialResult, ...]
    confirmation: tuple[ConfirmingRun, ...]
    """In the order in which they ended."""
    failed_runs: tuple[FailedRun, ...] = ()
    """By their numbers."""
    unfinished_runs: int = 0
    """Number of confirmation runs that have begun and not ended."""
    confirmed_on_unseen: bool
    """True if rows of validation were kept for the confirmation."""
    audited: frozenset[int]
    """Trials that the pruner would have stopped, but that were trained to their end as a random audit."""
    baselines: Mapping[str, HeldOutEvaluation]
    """Name of a baseline -> its scores on the rows of the confirmation."""
    test: tuple[TestEvaluation, ...]
    """In the order in which the test split was read: only the first was unbiased."""
    confirms: str | None = None
    """The study whose trials its runs confirm; None for a search."""

    @property
    def has_test_split(self) -> bool:
        """True if there are rows that play no part in any choice."""
        data = self.configuration.get("data", {})
        return data.get("test") is not None or bool(data.get("test_fraction"))

    @property
    def leaderboard(self) -> tuple[TrialResult, ...]:
        """Completed trials from best to worst; of equal ones the earlier first.

        Without trials that other programs trained, because these have no configuration to recommend.
        """
        return tuple(sorted(self._scored("COMPLETE"), key=lambda trial: (-(trial.score or 0.0), trial.number)))

    @property
    def best_unfinished(self) -> TrialResult | None:
        """The unfinished trial whose newest score is best, if no completed one scores as high; None without one.

        None with folds, because a newest score is that of one fold.
        """
        if self.configuration.get("evaluation", {}).get("folds") is not None:
            return None
        leads = max(self._scored("RUNNING", "WAITING"), key=lambda one: one.score or 0.0, default=None)
        beats = leads and (not self.leaderboard or (leads.score or 0.0) > (self.leaderboard[0].score or 0.0))
        return leads if beats else None

    def _scored(self, *states: str) -> list[TrialResult]:
        return [one for one in self.trials if one.state in states and one.score is not None and one.configuration]

    @property
    def default(self) -> TrialResult | None:
        """The first trial of the default configuration, preferably one that has not failed; None without one."""
        of_default = [trial for trial in self.trials if trial.proposed_by == "default"]
        sound = [trial for trial in of_default if trial.state not in ("FAIL", "PRUNED")]
        return next(iter(sound or of_default), None)

    def trained(self, number: int) -> TrialResult | None:
        """Return a trial with the scores and seed of a complete training; None if there was none.

        For a trial that the search paused or pruned, the training is its first confirmation run.
        """
        completed = next((trial for trial in self.leaderboard if trial.number == number), None)
        runs = [run for run in self.confirmation if run.confirms == number]
        if completed or not runs:
            return completed
        first = min(runs, key=lambda run: run.trial)
        trial = next(trial for trial in self.trials if trial.number == number)
        return replace(
            trial, score=first.validation.objective, train_score=first.train.objective if first.train else None,
            validation=first.validation, best_epoch=first.epoch, seconds=first.seconds, seed=first.seed,
        )  # fmt: skip

    @property
    def completed_default(self) -> TrialResult | None:
        """The default if it has completed; else None."""
        return self.default if self.default is not None and self.default.state == "COMPLETE" else None

    @property
    def best(self) -> TrialResult:
        """The best completed trial.

        Raises:
            NoResultError: no trial has completed.
        """
        if not self.leaderboard:
            raise NoResultError(
                f"The study {self.name!r} has no completed trial yet (it has {len(self.trials)} in all); let it run "
                "on, or resume it with the same hpo run."
            )
        return self.leaderboard[0]


def read_results(database: Database, name: str | None = None) -> StudyResults:
    """Return one study's results.

    Raises:
        ConfigurationError, NoResultError: as `opened_study` does.
        StoreError: a study that hpo did not make.
    """
    with opened_study(database, name) as (name, rows):
        storage, log = database.storage, EventLog(rows)
        attributes = storage.get_study_user_attrs(rows.study_id)
        row = rows.execute(STUDY_ROW).mappings().one()
        newest = {row["trial"]: row for row in rows.execute(_BY_NUMBER).mappings()}
        return StudyResults(
            name=name,
            uid=row["uid"],
            **made_from(row),
            measurements=json.loads(row["measurements"] or "{}"),
            metric=attributes[METRIC_ATTRIBUTE],
            trials=tuple(_trial(one, newest.get(one.number)) for one in storage.get_all_trials(rows.study_id)),
            **_confirmation(database, rows, name),
            audited=frozenset(event.trial for event in log.all(AUDIT_EVENT) if event.trial is not None),
            baselines={
                event.detail["name"]: held_out_from_json(event.detail["reading"]) for event in log.all(BASELINE_EVENT)
            },
            test=tuple(
                TestEvaluation(
                    trial=one.trial or 0, held_out=held_out_from_json(one.detail["reading"]), read_at=one.happened_at
                )
                for one in log.all(TEST_EVENT)
            ),
            confirms=attributes.get(CONFIRMS_ATTRIBUTE),
        )


def read_search(database: Database, name: str | None = None) -> StudyResults:
    """Return the results of a study that searched.

    Raises:
        ConfigurationError: also if it contains the confirmation runs of another study.
        NoResultError, StoreError: as `read_results` does.
    """
    results = read_results(database, name)
    if results.confirms is not None:
        raise ConfigurationError(
            f"The study {results.name!r} holds the runs that confirm trials of {results.confirms!r}, which has the "
            f"verdict; name that one: --study {shlex.quote(results.confirms)}."
        )
    return results


def _trial(trial: FrozenTrial, attempt: RowMapping | None) -> TrialResult:
    """Return a trial with its newest attempt and its best evaluation; None if hpo did not train it."""
    of_attempt: dict[str, Any] = dict(attempt or {})
    scores = of_attempt.get("validation_scores")
    newest = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
    return TrialResult(
        number=trial.number,
        state=trial.state.name,
        **{name: of_attempt.get(name) for name in ("ending", "seconds", "seed", "device", "ended_at", "train_score")},
        score=trial.values[0] if trial.values else newest,
        validation=scores_from_json(scores) if scores else None,
        best_epoch=of_attempt.get("epoch"),
        rung=trial.last_step,
        rungs=tuple(trial.user_attrs.get(RUNGS_ATTRIBUTE, ())),
        proposed_by=trial.user_attrs.get("proposed_by", ""),
        reason=of_attempt.get("reason") or "",
        configuration=with_later_fields(json.loads(of_attempt["configuration"])) if attempt else {},
        parameters=dict(trial.params),
    )


def _confirmation(database: Database, search: StudyRows, name: str) -> dict[str, Any]:
    """Return the confirmation runs of a study, those without a score, and whether the rows were unseen."""
    storage = database.storage
    study_id = search.execute(_NAMED, study_name=confirmation_of(name)).scalar()
    if study_id is None:
        return {"confirmation": (), "failed_runs": (), "confirmed_on_unseen": False}
    runs = storage.get_all_trials(study_id)
    confirms = {run.number: run.user_attrs.get(CONFIRMS_ATTRIBUTE) for run in runs}
    completed = StudyRows(study_id, search.connection).execute(_CONFIRMED).mappings()
    return {
        "confirmation": tuple(_run(row, confirms[row["trial"]]) for row in completed if row["reading"]),
        "failed_runs": tuple(
            FailedRun(trial=run.number, confirms=run.user_attrs[CONFIRMS_ATTRIBUTE])
            for run in runs
            if run.state in (TrialState.FAIL, TrialState.PRUNED) and CONFIRMS_ATTRIBUTE in run.user_attrs
        ),
        # A waiting run may never have begun, because it did not fit into the time.
        "unfinished_runs": sum(run.datetime_start is not None and not run.state.is_finished() for run in runs),
        "confirmed_on_unseen": bool(storage.get_study_user_attrs(study_id).get(UNSEEN_ATTRIBUTE, False)),
    }


def _run(row: RowMapping, confirms: Any) -> ConfirmingRun:
    return ConfirmingRun(
        **{name: row[name] for name in ("trial", "seed", "epoch", "seconds")},
        confirms=confirms,
        held_out=held_out_from_json(row["reading"]),
        validation=scores_from_json(row["validation_scores"]),
        train=scores_from_json(row["train_scores"]) if row["train_scores"] else None,
    )
