"""Decides what is trained next and what is given up, and records it: three idempotent verbs over the store.

It owns no process, no device and no model. Runners carry its assignments to workers and their messages back.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.config.differences import differences
from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.errors import NoResultError, StoreError, StudyMismatchError
from hpo.messages import Action, Assignment, Capacity, Decision, Ending, Outcome, Report, Scores
from hpo.search.assignments import build_assignment, seed_of
from hpo.search.attributes import CONSTRAINT, VIOLATED, outcome_attributes
from hpo.search.leases import Leadership, kept_up, take_lead
from hpo.search.pruners import build_pruner
from hpo.search.samplers import build_sampler, startup_trials
from hpo.space.search_space import SearchSpace
from hpo.store.engine import open_database
from hpo.store.records import AttemptRecord, StudyRecord, scores_to_json
from hpo.store.studies import StudyStore

REPEAT_DEFAULT_FROM_TRIALS = 20
# What a later start of the same study may change.
CHANGEABLE = ("budget", "compute", "store", "search", "data", "space")


class Coordinator:
    """Leads one study. Every verb is one transaction, and asking it twice gives the same answer."""

    def __init__(self, store: StudyStore, space: SearchSpace, config: StudyConfig, leadership: Leadership) -> None:
        self._store = store
        self._space = space
        self._config = config
        self._leadership = leadership

    # -- the three verbs

    def next_assignment(self, request: str, capacity: Capacity) -> Assignment | None:
        """Return what a free slot is to train next; None if the study's budget is spent.

        Args:
            request: the asker's name for this request, at most 64 characters; asked again under the same name, the
                same assignment is returned.
            capacity: what the free slot offers.

        Raises:
            StudyLedError: another process leads the study now.
            StoreError: the store failed; nothing was recorded, ask again.
        """
        with self._verb():
            attempt = self._store.attempt_of_request(request) or self._begin(request, capacity)
            return None if attempt is None else self._assignment(attempt)

    def observe(self, report: Report) -> Decision:
        """Record an evaluation and return whether its trial goes on. A report of an older attempt is dropped."""
        with self._verb():
            action = self._store.answered(report.trial, report.attempt, report.rung)
            if action is None:
                action = self._judge(report)
            return Decision(trial=report.trial, attempt=report.attempt, action=action)

    def finish(self, outcome: Outcome) -> None:
        """Record the end of an attempt and tell Optuna; told twice, or of an older attempt, nothing changes."""
        with self._verb():
            if not self._store.is_open(outcome.trial, outcome.attempt):
                return
            self._store.end_attempt(outcome)
            self._store.add_event(
                str(outcome.ending),
                outcome.trial,
                outcome.attempt,
                reason=outcome.reason,
                seconds=outcome.seconds,
            )
            self._store.set_attributes(outcome.trial, outcome_attributes(outcome))
            self._tell(outcome)

    # -- what is known of the study as a whole

    def measurements(self) -> dict[str, Any] | None:
        """Return what an earlier start measured to choose precision and threads; None if this is the first."""
        with self._verb():
            return self._store.measurements()

    def record_measurements(self, measurements: Mapping[str, Any]) -> None:
        """Keep what was measured, so that every later start, retry and reproduction uses the same."""
        with self._verb():
            self._store.set_measurements(measurements)

    def winner(self) -> Assignment | None:
        """Return the best completed trial as it was assigned, to train again; None if there is none."""
        with self._verb():
            finished = self._store.trials(TrialState.COMPLETE)
            if not finished:
                return None
            # Of equals the earlier: it was found first and the default is trial 0.
            best = max(finished, key=lambda trial: (trial.values[0], -trial.number))
            attempt = self._store.attempt(best.number, self._store.latest_attempt(best.number))
            if attempt is None:
                raise NoResultError(f"Trial {best.number} was not trained by hpo, so its configuration is not known.")
            return replace(self._assignment(attempt), score_to_beat=None)

    def finished_trials(self) -> int:
        """Return how many trials are over, of whatever state."""
        with self._verb():
            return len(self._store.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))

    def test_was_read(self, trial: int) -> bool:
        """Return whether the test split has been read for `trial`."""
        with self._verb():
            return self._store.has_event("test_read", trial)

    def record_test(self, trial: int, scores: Scores) -> None:
        """Record that the test split was read for `trial`, and what it scored."""
        with self._verb():
            self._store.add_event("test_read", trial, metric=scores.metric, scores=scores_to_json(scores))
            self._store.set_user_attribute(f"hpo:test:trial-{trial}", dict(scores.values))

    # -- how the verbs do it

    @contextmanager
    def _verb(self) -> Iterator[None]:
        with self._store.transaction():
            self._leadership.confirm()
            yield

    def _begin(self, request: str, capacity: Capacity) -> AttemptRecord | None:
        """Ask Optuna, which hands out waiting trials first, and record the attempt; None if there is none left."""
        before = self._store.trials()
        waiting = any(trial.state == TrialState.WAITING for trial in before)
        if not waiting and len(before) >= self._config.budget.trials:
            return None
        trial = self._store.study.ask()
        values = self._space.suggest(trial)
        hyperparameters = self._space.hyperparameters(values)
        record = AttemptRecord(
            trial=trial.number,
            attempt=self._store.latest_attempt(trial.number) + 1,
            configuration=hyperparameters.to_mapping(),
            seed=seed_of(self._config, trial.number, hyperparameters),
            score_to_beat=max((t.values[0] for t in before if t.state == TrialState.COMPLETE), default=None),
            ended=False,
        )
        self._store.begin_attempt(record, request=request, worker=capacity.worker, device=capacity.device)
        self._store.add_event("begun", record.trial, record.attempt, worker=capacity.worker)
        attributes: dict[str, Any] = {"learning_rate": hyperparameters.learning_rate, "seed": record.seed}
        if record.attempt == 1:
            attributes["proposed_by"] = self._proposer(trial.number, before)
        self._store.set_attributes(record.trial, attributes)
        return record

    def _assignment(self, record: AttemptRecord) -> Assignment:
        return build_assignment(
            self._config,
            self._space,
            Hyperparameters(**record.configuration),
            trial=record.trial,
            attempt=record.attempt,
            seed=record.seed,
            score_to_beat=record.score_to_beat,
        )

    def _judge(self, report: Report) -> Action:
        if not self._store.is_open(report.trial, report.attempt):
            return Action.STOP
        self._store.set_intermediate_value(report.trial, report.rung, report.validation.objective)
        prune = report.decides and self._store.should_prune(report.trial)
        action = Action.STOP if prune else Action.CONTINUE
        self._store.add_evaluation(report, action)
        return action

    def _tell(self, outcome: Outcome) -> None:
        """Give Optuna the end of a trial in its own terms."""
        match outcome.ending:
            case Ending.COMPLETED:
                assert outcome.best is not None, "a trial that trained to its end has a full report"
                self._store.study.tell(outcome.trial, outcome.best.validation.objective)
            case Ending.PRUNED:
                self._store.study.tell(outcome.trial, state=TrialState.PRUNED)
            case Ending.DIVERGED | Ending.INFEASIBLE:
                # TPE learns to keep away from what violates a constraint, and from nothing that failed.
                self._store.set_constraint(outcome.trial, CONSTRAINT, VIOLATED)
                self._store.study.tell(outcome.trial, state=TrialState.PRUNED)
            case Ending.FAILED:
                self._store.study.tell(outcome.trial, state=TrialState.FAIL)
            case Ending.PAUSED:
                self._store.set_waiting(outcome.trial)

    def _proposer(self, trial: int, before: Sequence[FrozenTrial]) -> str:
        """Return who proposed `trial`, of which Optuna had the picture `before` when it was asked."""
        if trial < len(before):
            default = self._space.sampled(self._space.default_values())
            return "default" if before[trial].system_attrs.get("fixed_params") == default else "enqueued"
        if self._config.search.sampler == "random":
            return "random"
        finished = sum(earlier.state in (TrialState.COMPLETE, TrialState.PRUNED) for earlier in before)
        return "start-up" if finished < startup_trials(self._config) else self._config.search.sampler


@contextmanager
def leading(
    config: StudyConfig,
    space: SearchSpace,
    *,
    data_fingerprint: str,
    objective: str,
    versions: Mapping[str, str],
) -> Iterator[Coordinator]:
    """Lead the study that `config` names, made if it is not there, until the block ends.

    Trials that a dead leader left running are put back among those that wait, and are the first to go on.

    Args:
        config: the study.
        space: its space.
        data_fingerprint: what the splits were made of, as `Splits.fingerprint`.
        objective: name of the score that is maximised.
        versions: package -> version, recorded with the study.

    Raises:
        StudyLedError: another process leads it.
        StudyMismatchError: the stored study was made from another space, data set or model; nothing was changed.
        StoreError: the store cannot be opened or written.
    """
    database = open_database(config.store.url)
    try:
        store = StudyStore(database, config.study, build_sampler(config), build_pruner(config))
        record = StudyRecord(
            configuration=_recorded(config),
            space=space.to_mapping(),
            data_fingerprint=data_fingerprint,
            versions=versions,
        )
        with store.transaction():
            leadership = take_lead(store)
            _begin_or_resume(store, record, objective, config, space)
        try:
            with kept_up(database, store, leadership.fence):
                yield Coordinator(store, space, config, leadership)
        finally:
            _step_down(store, leadership)
    finally:
        database.close()


def _step_down(store: StudyStore, leadership: Leadership) -> None:
    """Give the lease back; where the store cannot be reached, it lapses by itself."""
    with suppress(StoreError), store.transaction():
        leadership.release()


def _begin_or_resume(
    store: StudyStore, record: StudyRecord, objective: str, config: StudyConfig, space: SearchSpace
) -> None:
    stored = store.record()
    if stored is None:
        _refuse_foreign_study(store)
        store.create(record, objective)
        copies = 2 if config.search.repeat_default and config.budget.trials >= REPEAT_DEFAULT_FROM_TRIALS else 1
        for _ in range(copies):
            store.study.enqueue_trial(space.sampled(space.default_values()))
        store.add_event("created")
        return
    refuse_other_study(store.name, stored, record)
    for trial, attempt in store.abandoned_attempts():
        store.set_waiting(trial)
        store.add_event("requeued", trial, attempt)
    store.add_event("resumed", budget=config.budget.trials)


def _refuse_foreign_study(store: StudyStore) -> None:
    """Raise StudyMismatchError if a study that hpo did not record is more than an empty name."""
    if store.trials() or store.study.directions != [StudyDirection.MAXIMIZE]:
        raise StudyMismatchError(
            f"The study {store.name!r} is in the store, but was not made by hpo. Start a new study with --study NAME. "
            "Nothing was changed."
        )


def refuse_other_study(name: str, stored: StudyRecord, now: StudyRecord) -> None:
    """Raise StudyMismatchError if a study recorded as `stored` cannot be gone on with as `now`."""
    changed = differences(stored.space, now.space, "space.")
    old, new = (
        {key: value for key, value in record.configuration.items() if key not in CHANGEABLE} for record in (stored, now)
    )
    changed += differences(old, new)
    if stored.data_fingerprint != now.data_fingerprint:
        changed.append("data: the texts, labels or splits are not the same")
    if changed:
        raise StudyMismatchError(
            f"The study {name!r} was begun otherwise, and its results would not compare: {'; '.join(changed)}. "
            "Start a new study with --study NAME, or go back to what it was begun with. Nothing was changed."
        )


def _recorded(config: StudyConfig) -> dict[str, Any]:
    """Return the study file's content as plain values, without the store's address and password."""
    return config.model_dump(mode="json", exclude={"store", "space"})
