"""Decides what is trained next and what is given up, and records it: three idempotent verbs over the store.

It owns no process, no device and no model. Runners carry its assignments to workers and their messages back.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.messages import Action, Assignment, Capacity, Decision, Ending, Outcome, Report, Scores, Standing
from hpo.search.assignments import build_assignment, repeats_default, seed_of
from hpo.search.attributes import CONSTRAINT, VIOLATED, outcome_attributes
from hpo.search.enumeration import EnumeratingSampler
from hpo.search.leases import Leadership
from hpo.search.samplers import SAMPLERS, startup_trials
from hpo.space.search_space import SearchSpace
from hpo.store.records import AttemptRecord, StudyRecord, scores_to_json
from hpo.store.studies import StudyStore

MOST_DEATHS = 3
"""Attempts at a trial in each of which its process died, after which it is not tried again."""


class Coordinator:
    """Leads one study. Every verb is one transaction, and asking it twice gives the same answer."""

    def __init__(
        self,
        store: StudyStore,
        space: SearchSpace,
        config: StudyConfig,
        made_from: StudyRecord,
        leadership: Leadership,
    ) -> None:
        self._store = store
        self._space = space
        self._config = config
        self._made_from = made_from
        self._leadership = leadership

    # -- the three verbs

    def next_assignment(self, request: str, capacity: Capacity) -> Assignment | None:
        """Return what a free slot is to train next; None if the budget is spent or every combination was tried.

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
            if self._store.is_open(outcome.trial, outcome.attempt):
                self._end(outcome)

    # -- the study as a whole

    def begin(self, *, objective: str, versions: Mapping[str, str]) -> None:
        """Record what the study is made from and enqueue its default; or take up what a dead leader left running.

        To be called before the first verb, when it is known that the model and the texts can be used.

        Args:
            objective: name of the score that is maximised.
            versions: package -> version, and what else a result depends on.
        """
        with self._verb():
            if self._store.record() is None:
                self._create(objective, versions)
            else:
                self._take_up()

    def standing(self) -> Standing:
        """Return how the study stands."""
        with self._verb():
            states = [trial.state for trial in self._store.trials()]
            best = self._best()
            return Standing(
                completed=states.count(TrialState.COMPLETE),
                pruned=states.count(TrialState.PRUNED),
                failed=states.count(TrialState.FAIL),
                best=None if best is None else (best.values[0], best.number),
            )

    def measurements(self) -> dict[str, Any] | None:
        """Return what an earlier start measured to choose the precision; None if this is the first."""
        with self._verb():
            return self._store.measurements()

    def record_measurements(self, measurements: Mapping[str, Any]) -> None:
        """Keep what was measured, so that every later start, retry and reproduction uses the same."""
        with self._verb():
            self._store.set_measurements(measurements)

    def winner(self) -> Assignment | None:
        """Return the best completed trial as it was assigned, to train again; None if there is none."""
        with self._verb():
            best = self._best()
            if best is None:
                return None
            attempt = self._store.attempt(best.number, self._store.latest_attempt(best.number))
            return None if attempt is None else replace(self._assignment(attempt), score_to_beat=None)

    def trials_to_keep(self) -> set[int]:
        """Return the trials whose files are still needed: the winner, and those that are running or wait."""
        with self._verb():
            best = self._best()
            unfinished = self._store.trials(TrialState.RUNNING, TrialState.WAITING)
            return {trial.number for trial in unfinished} | (set() if best is None else {best.number})

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

    def _create(self, objective: str, versions: Mapping[str, str]) -> None:
        self._store.create(replace(self._made_from, versions=versions), objective)
        default = self._space.sampled(self._space.default_values())
        for _ in range(2 if repeats_default(self._config, self._space) else 1):
            self._store.study.enqueue_trial(default)
        self._store.add_event("created")

    def _take_up(self) -> None:
        """Put trials that a dead leader left running back among those that wait, to be the first."""
        for trial, attempt, deaths in self._store.abandoned_attempts():
            if deaths < MOST_DEATHS:
                self._store.set_waiting(trial)
                self._store.add_event("requeued", trial, attempt)
                continue
            # It may be what kills the process, such as the kernel when memory is short.
            reason = f"Its process died in {deaths} attempts."
            ended = Outcome(
                trial=trial, attempt=attempt, ending=Ending.FAILED, seconds=0.0, peak_memory_bytes=0, reason=reason
            )
            self._end(ended)
        self._store.add_event("resumed", budget=self._config.budget.most_trials)

    def _begin(self, request: str, capacity: Capacity) -> AttemptRecord | None:
        """Ask Optuna, which hands out waiting trials first, and record the attempt; None if there is none left."""
        before = self._store.trials()
        waiting = any(trial.state == TrialState.WAITING for trial in before)
        if not waiting and (
            len(before) >= (self._config.budget.most_trials or len(before) + 1) or self._has_tried_all(before)
        ):
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

    def _end(self, outcome: Outcome) -> None:
        self._store.end_attempt(outcome)
        reason, seconds = outcome.reason, outcome.seconds
        self._store.add_event(str(outcome.ending), outcome.trial, outcome.attempt, reason=reason, seconds=seconds)
        self._store.set_attributes(outcome.trial, outcome_attributes(outcome))
        self._tell(outcome)

    def _best(self) -> FrozenTrial | None:
        """Return the best trial of those that hpo trained to their end; of equals the earlier."""
        trained = [trial for trial in self._store.trials(TrialState.COMPLETE) if "seed" in trial.user_attrs]
        return max(trained, key=lambda trial: (trial.values[0], -trial.number), default=None)

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

    def _has_tried_all(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether the sampler tries every combination once, and has."""
        sampler = self._store.study.sampler
        return isinstance(sampler, EnumeratingSampler) and sampler.enumeration.following(trials) is None

    def _proposer(self, trial: int, before: Sequence[FrozenTrial]) -> str:
        """Return who proposed `trial`, of which Optuna had the picture `before` when it was asked."""
        if trial < len(before):
            default = self._space.sampled(self._space.default_values())
            return "default" if before[trial].system_attrs.get("fixed_params") == default else "enqueued"
        name = self._config.search.sampler
        waits_for = SAMPLERS[name].waits_for
        known = sum(earlier.state in waits_for for earlier in before)
        return "start-up" if waits_for and known < startup_trials(self._config) else name
