"""Results of a study: trials, the runs that confirm them, baselines, looks at the test split. Writes nothing."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection, RowMapping

from hpo.config.hyperparameters import with_later_fields
from hpo.errors import ConfigurationError, NoResultError, StoreError
from hpo.messages import Ending, HeldOutEvaluation, Scores, Slice
from hpo.store.engine import Database
from hpo.store.listing import chosen_study, confirmation_of
from hpo.store.optuna_adapter import StudyModel
from hpo.store.records import AUDIT_EVENT, BASELINE_EVENT, TEST_EVENT, held_out_from_json, scores_from_json
from hpo.store.studies import CONFIRMS_ATTRIBUTE, UID_ATTRIBUTE, UNSEEN_ATTRIBUTE
from hpo.store.tables import attempts, evaluations, events, studies


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One trial of a study, as its newest attempt left it."""

    number: int
    state: str
    """COMPLETE, PRUNED, FAIL, RUNNING or WAITING, as Optuna names them."""
    ending: str | None
    """Of its newest attempt, as `hpo.messages.Ending`; None where that is not over."""
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
    parameters: Mapping[str, Any]
    """What the search varied, as Optuna has it: the learning rate as a multiplier."""

    @property
    def sampled(self) -> tuple[str, ...]:
        """Names of the hyperparameters that the search varied."""
        return tuple(name.removesuffix("_multiplier") for name in self.parameters)

    @property
    def trained_with(self) -> Mapping[str, Any]:
        """Its configuration with its own seed, which that leaves open unless the space has one."""
        return {**self.configuration, "seed": self.seed} if self.configuration else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmingRun:
    """A trial of the search, trained again on a fresh seed; it is over."""

    trial: int
    """Its own number, in the study of the confirmation."""
    confirms: int
    """Trial of the search."""
    seed: int
    held_out: HeldOutEvaluation
    """On the rows of the confirmation."""
    validation: Scores
    """On the rows that the search chose by, at the same epoch."""
    train: Scores | None
    epoch: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """A confirming run that is over and has no score: it diverged, was out of memory, failed or was given up."""

    trial: int
    """Its own number, in the study of the confirmation."""
    confirms: int
    """Trial of the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestEvaluation:
    """One look at the test split."""

    trial: int
    scores: Scores
    slices: tuple[Slice, ...]
    read_at: float = field(compare=False)
    """Seconds since 1970."""
    deviations: tuple[float, ...] = ()
    """As `hpo.messages.HeldOutEvaluation` has them."""
    of_a_unit: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """A study read in one transaction: what it was made from and what its trials gave."""

    name: str
    uid: str = ""
    """Tells it from another study of its name, in this store or another."""
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
    """Runs that confirm, have begun and are not over."""
    confirmed_on_unseen: bool
    """Whether rows of validation were kept for the confirmation."""
    audited: frozenset[int]
    """Trials that the pruner gave up, drawn at random, and that were trained to their end all the same."""
    baselines: Mapping[str, HeldOutEvaluation]
    """Name of a baseline -> what it scored on the rows of the confirmation."""
    test: tuple[TestEvaluation, ...]
    """In the order in which the test split was read: only the first was unbiased."""
    confirms: str | None = None
    """The study whose trials its runs confirm; None for one that searched."""

    @property
    def has_test_split(self) -> bool:
        """Whether rows were set apart that nothing is chosen by."""
        data = self.configuration.get("data", {})
        return data.get("test") is not None or bool(data.get("test_fraction"))

    @property
    def leaderboard(self) -> tuple[TrialResult, ...]:
        """Completed trials from best to worst; of equals the earlier first. What hpo did not train is not among them:
        a score that another program has told has no configuration to take."""
        return tuple(sorted(self._scored("COMPLETE"), key=lambda trial: (-(trial.score or 0.0), trial.number)))

    @property
    def best_unfinished(self) -> TrialResult | None:
        """The unfinished trial whose newest score is best, where no completed one scores as high; None without one.

        None in folds too, where a newest score is that of one fold.
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
        """The first trial of the default configuration, of those that have not failed if any; None without one."""
        of_default = [trial for trial in self.trials if trial.proposed_by == "default"]
        sound = [trial for trial in of_default if trial.state not in ("FAIL", "PRUNED")]
        return next(iter(sound or of_default), None)

    @property
    def best(self) -> TrialResult:
        """The best completed trial.

        Raises:
            NoResultError: no trial has completed.
        """
        if not self.leaderboard:
            raise NoResultError(
                f"The study {self.name!r} has no completed trial yet (it has {len(self.trials)} in all); let it run "
                "on, or go on with the same hpo run."
            )
        return self.leaderboard[0]


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
        attributes = database.storage.get_study_user_attrs(study_id)
        row = connection.execute(sa.select(studies).where(studies.c.study_id == study_id)).mappings().first()
        if row is None or row["uid"] != attributes.get(UID_ATTRIBUTE):
            raise StoreError(f"The study {name!r} was not made by hpo, which knows nothing of its configurations.")
        return StudyResults(
            name=name,
            uid=row["uid"],
            **{name: json.loads(row[name]) for name in ("configuration", "space", "versions")},
            data_fingerprint=row["data_fingerprint"],
            measurements=json.loads(row["measurements"] or "{}"),
            metric=attributes["hpo:metric"],
            trials=_trials(connection, study_id, database.storage.get_all_trials(study_id)),
            **_confirmation(database, connection, name),
            audited=frozenset(trial for trial, _, _ in _logged(connection, study_id, AUDIT_EVENT)),
            baselines=_baselines(connection, study_id),
            test=_test_evaluations(connection, study_id),
            confirms=attributes.get(CONFIRMS_ATTRIBUTE),
        )


def read_search(database: Database, name: str | None = None) -> StudyResults:
    """Return the results of a study that searched.

    Raises:
        ConfigurationError: also where it holds the runs that confirm another, and so has nothing to say of itself.
        NoResultError, StoreError: as `read_results` does.
    """
    results = read_results(database, name)
    if results.confirms is not None:
        raise ConfigurationError(
            f"The study {results.name!r} holds the runs that confirm trials of {results.confirms!r}, which has the "
            f"verdict; name that one: --study {shlex.quote(results.confirms)}."
        )
    return results


def _trials(connection: Connection, study_id: int, frozen: Sequence[FrozenTrial]) -> tuple[TrialResult, ...]:
    rows = sa.select(attempts).where(attempts.c.study_id == study_id).order_by(attempts.c.attempt)
    newest = {row["trial"]: dict(row) for row in connection.execute(rows).mappings()}
    names = ("trial", "attempt", "rung", "train_score", "validation_scores", "epoch")
    rows = sa.select(*(evaluations.c[name] for name in names)).where(evaluations.c.study_id == study_id)
    told = connection.execute(rows).mappings()
    best = {(row["trial"], row["attempt"], row["rung"]): dict(row) for row in told}
    return tuple(_trial(trial, newest.get(trial.number, {}), best) for trial in frozen)


def _trial(
    trial: FrozenTrial, attempt: Mapping[str, Any], best: Mapping[tuple[int, int, int], Mapping[str, Any]]
) -> TrialResult:
    at_best = best.get((trial.number, attempt.get("best_attempt") or 0, attempt.get("best_rung") or 0), {})
    newest = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
    return TrialResult(
        number=trial.number,
        state=trial.state.name,
        **{name: attempt.get(name) for name in ("ending", "seconds", "seed")},
        score=trial.values[0] if trial.values else newest,
        train_score=at_best.get("train_score"),
        validation=scores_from_json(at_best["validation_scores"]) if at_best else None,
        best_epoch=at_best.get("epoch"),
        rung=trial.last_step,
        proposed_by=trial.user_attrs.get("proposed_by", ""),
        reason=attempt.get("reason") or "",
        configuration=with_later_fields(json.loads(attempt["configuration"])) if attempt else {},
        parameters=dict(trial.params),
    )


def _confirmation(database: Database, connection: Connection, name: str) -> dict[str, Any]:
    """Return the runs that confirm trials of a study, those without a score, and whether the rows were unseen."""
    storage = database.storage
    named = sa.select(StudyModel.study_id).where(StudyModel.study_name == confirmation_of(name))
    study_id = connection.execute(named).scalar()
    if study_id is None:
        return {"confirmation": (), "failed_runs": (), "confirmed_on_unseen": False}
    unseen = storage.get_study_user_attrs(study_id).get(UNSEEN_ATTRIBUTE, False)
    best = sa.and_(
        attempts.c.study_id == evaluations.c.study_id,
        attempts.c.trial == evaluations.c.trial,
        attempts.c.best_attempt == evaluations.c.attempt,
        attempts.c.best_rung == evaluations.c.rung,
        attempts.c.ending == str(Ending.COMPLETED),
    )
    columns = (evaluations, attempts.c.seed, attempts.c.seconds.label("of_run"))
    rows = sa.select(*columns).join(attempts, best).where(attempts.c.study_id == study_id).order_by(attempts.c.ended_at)
    runs = storage.get_all_trials(study_id)
    confirms = {trial.number: trial.user_attrs.get(CONFIRMS_ATTRIBUTE) for trial in runs}
    return {
        "confirmation": tuple(_run(row, confirms[row["trial"]]) for row in connection.execute(rows).mappings()),
        "failed_runs": tuple(
            FailedRun(trial=trial.number, confirms=trial.user_attrs[CONFIRMS_ATTRIBUTE])
            for trial in runs
            if trial.state in (TrialState.FAIL, TrialState.PRUNED) and CONFIRMS_ATTRIBUTE in trial.user_attrs
        ),
        # One that waits may never have begun: it did not fit into the time.
        "unfinished_runs": sum(trial.datetime_start is not None and not trial.state.is_finished() for trial in runs),
        "confirmed_on_unseen": bool(unseen),
    }


def _run(row: RowMapping, confirms: Any) -> ConfirmingRun:
    return ConfirmingRun(
        **{name: row[name] for name in ("trial", "seed", "epoch")},
        confirms=confirms,
        held_out=held_out_from_json(row["reading"]),
        validation=scores_from_json(row["validation_scores"]),
        train=scores_from_json(row["train_scores"]) if row["train_scores"] else None,
        seconds=row["of_run"],
    )


def _baselines(connection: Connection, study_id: int) -> dict[str, HeldOutEvaluation]:
    logged = _logged(connection, study_id, BASELINE_EVENT)
    return {detail["name"]: held_out_from_json(detail["reading"]) for _, detail, _ in logged}


def _test_evaluations(connection: Connection, study_id: int) -> tuple[TestEvaluation, ...]:
    found = []
    for trial, detail, happened_at in _logged(connection, study_id, TEST_EVENT):
        reading = held_out_from_json(detail["reading"])
        found.append(
            TestEvaluation(
                trial=trial, scores=reading.scores, slices=reading.slices, read_at=happened_at,
                deviations=reading.deviations, of_a_unit=reading.of_a_unit,
            )
        )  # fmt: skip
    return tuple(found)


def _logged(connection: Connection, study_id: int, kind: str) -> Iterator[tuple[int, dict[str, Any], float]]:
    """Yield (trial, detail, when) of a study's events of one kind, in their order."""
    which = sa.and_(events.c.study_id == study_id, events.c.kind == kind)
    for row in connection.execute(sa.select(events).where(which).order_by(events.c.event_id)):
        yield row.trial, json.loads(row.detail), row.happened_at
