"""Search coordinator: hands out assignments, decides on pruning and records outcomes, with idempotent methods.

It owns no process, no device and no model. Runners carry its assignments to workers and their messages back.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from threading import Event
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.trial import TrialState

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.messages import Action, Assignment, Capacity, Decision, Ending, HeldOutEvaluation, Outcome, Report, Standing
from hpo.search.budget import Limits, Overtime, resumed_limits, seconds_left
from hpo.search.forecasts import CostModel, Forecasts
from hpo.search.outcomes import Endings, Faults
from hpo.search.proposals import Proposals, Proposer, SlowProposal, TrialRequest
from hpo.search.pruners import trial_milestones
from hpo.search.pruning import Pruning
from hpo.search.steering import StopRequests, refuse_led
from hpo.search.warm_start import EarlierStudy, take_over
from hpo.space.search_space import SearchSpace
from hpo.store.database import retried_while_away
from hpo.store.leases import Lease
from hpo.store.results import StudyResults, read_results
from hpo.store.studies import delete_runs
from hpo.store.study_store import StudyRecord, StudyStore, refuse_other_weights
from hpo.store.tables import BASELINE_EVENT, TEST_EVENT
from hpo.store.trials import AttemptRecord, to_json

LONGEST_OUTAGE, LEAST_OUTAGE = 3600.0, 15.0
"""Longest time that the search waits for the store, in seconds, and the shortest, near or after the deadline."""

Proposes = Callable[[StudyStore, SearchSpace, StudyConfig, Forecasts], Proposer]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def verb(
    method: Callable[Concatenate["Coordinator", Arguments], Result],
) -> Callable[Concatenate["Coordinator", Arguments], Result]:
    """Run a method as one transaction under the lease, retried while the store is unreachable."""

    @wraps(method)
    def inside(self: "Coordinator", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        def once() -> Result:
            with self._store.transaction():
                self._lease.confirm()
                result = method(self, *args, **kwargs)
                self._lease.confirm_before_commit()
                return result

        return retried_while_away(once, self._longest_outage(), stop=self._stop)

    return inside


class Coordinator:
    """Coordinator of one study, in its leader. Each call is one transaction; a repeated call gives the same answer.

    Each raises `StudyLedError` if another process leads the study now, and `StoreError` if the store failed or was
    unreachable for too long; nothing was recorded then.
    """

    def __init__(
        self,
        store: StudyStore,
        space: SearchSpace,
        config: StudyConfig,
        record: StudyRecord,
        lease: Lease,
        *,
        limits: Limits,
        last_event: int,
        clock: Callable[[], float] = time.time,
        proposes: Proposes = Proposals,
        stop: Event | None = None,
        earlier: Sequence[EarlierStudy] = (),
    ) -> None:
        """Lead a study under `lease`.

        Args:
            store: the study's.
            space: its space.
            config: its study file.
            record: its settings, to be stored.
            lease: this process's, valid.
            limits: those of this run.
            last_event: the newest event of its log when the lease was acquired; later ones concern this run.
            clock: seconds since 1970.
            proposes: makes the proposer.
            stop: once it is set, an unreachable store is not waited for.
            earlier: studies whose trials are to be taken over.
        """
        self._store, self._space, self._config, self._earlier = store, space, config, earlier
        self._record, self._lease, self._clock = record, lease, clock
        self.faults = Faults(())
        """The workers, the failures on each, and which are quarantined."""
        self.forecasts = Forecasts(config, space)
        """Forecasts of the time that trials take."""
        self.endings = Endings(store, self.faults, config.compute.devices_of_trial)
        """Endings of attempts, and the waiting trials that were pruned."""
        self._proposals = proposes(store, space, config, self.forecasts)
        self._pruning = Pruning(store, config, self.endings.prune_waiting, self._would_resume)
        self._reserve, self.overtime = 0.0, Overtime()
        self._stop, self._last_event = stop, last_event
        self.limits = limits
        """Limits at which the search ends."""

    # -- assignments, reports and outcomes

    def next_assignment(self, request: str, capacity: Capacity, *, starts_in: float = 0.0) -> Assignment | None:
        """Return the next assignment of a worker; None if there is none for it now.

        Args:
            request: name of this request, at most 64 characters; a repeated request with the same name gets the same
                assignment.
            capacity: the worker, and the time it has.
            starts_in: seconds until it will begin.
        """
        while isinstance(begun := self._next_assignment(request, capacity, starts_in), SlowProposal):
            begun.propose()
        return begun

    @verb
    def _next_assignment(self, request: str, capacity: Capacity, starts_in: float) -> Assignment | SlowProposal | None:
        known = self._store.attempts.of_request(request)
        worker = capacity.worker
        if known is None and (worker in self.faults.quarantined or self.faults.is_held_back(worker)):
            return None
        now = self._clock() + starts_in
        left = self._seconds_left(now)
        asked = TrialRequest(
            name=request, capacity=capacity, seconds=left, avoids=lambda trial: worker in self.faults.avoid(trial)
        )
        begun = known or self._proposals.next(asked)
        if begun is None or isinstance(begun, SlowProposal):
            return begun
        assignment = self._assignment(begun)
        expected = self.forecasts.seconds_left(assignment.trial, assignment.hyperparameters)
        self.overtime.begun(assignment.trial, expected=expected, left=left, at=now)
        return assignment

    @verb
    def observe(self, report: Report) -> Decision:
        """Record an evaluation and return whether its trial continues. A report of an older attempt is dropped."""
        action = self._store.attempts.answer(report.trial, report.attempt, report.rung) or self._judge(report)
        return Decision(trial=report.trial, attempt=report.attempt, action=action)

    @verb
    def finish(self, outcome: Outcome) -> None:
        """Record the end of an attempt and tell Optuna; repeated outcomes and those of older attempts are ignored."""
        if self._store.attempts.is_open(outcome.trial, outcome.attempt):
            self.endings.end(outcome)
            self.forecasts.ended(outcome)
            if outcome.ending is Ending.PAUSED:
                self._pruning.prune_outranked()
        self.overtime.ended(outcome)

    # -- workers

    def quarantine(self, worker: str, reason: str) -> None:
        """Record that a worker gets no more trials, because it cannot be started."""
        if worker not in self.faults.quarantined:
            self._log("quarantined", {"worker": worker, "reason": reason})
            self.faults.quarantine(worker, reason)

    # -- the study as a whole

    @verb
    def begin(self, *, metric: str, versions: Mapping[str, str]) -> Sequence[str]:
        """Record the study and enqueue its default configuration, or resume the trials that a dead leader left running.

        To be called before any other method, when it is known that the model and the data can be used.

        Args:
            metric: name of the metric that is maximised.
            versions: package -> version, and other properties that a result depends on.

        Returns:
            Sentences for the user on what was taken over from earlier studies.

        Raises:
            ConfigurationError: an earlier study has another task or metric; nothing was recorded then.
            StudyMismatchError: the pretrained weights have changed; nothing was changed.
        """
        if (stored := self._store.record()) is None:
            self._create(metric, versions)
        else:
            refuse_other_weights(self._store.name, stored.versions, versions)
            self._store.set_space(self._record.space)
            self.endings.requeue_running()
            self._keep_deadline()
        notes = take_over(self._store, self._space, self._config, self._earlier, metric)
        self.forecasts.learn(self._store.attempts.reached(), self._store.attempts.micro_batch_sizes())
        limits, budget = self.limits, self._config.budget
        asked: dict[str, Any] = {"time": budget.time, "until": budget.until, "trials": limits.trials}
        self._store.events.add("run_begun", begun=limits.begun, deadline=limits.deadline, **asked)
        return notes

    def results(self) -> StudyResults:
        """Return the results of the study so far."""
        read = partial(read_results, self._store.database, self.study)
        return retried_while_away(read, LEAST_OUTAGE, stop=self._stop)

    @verb
    def prune_held_back(self) -> None:
        """Prune the paused trials after the search; if none has completed, the best at each rung stays paused."""
        completed = self._store.trials.statistics().states[TrialState.COMPLETE]
        self._pruning.prune_paused(at_least=0 if completed else 1)

    def end(self, reason: str) -> None:
        """Record that this run is over, with the reason."""
        self._log("run_ended", {"reason": reason})

    def stop_requests(self) -> StopRequests:
        """Return the stops requested since the last call, or since this process took the lead."""
        # Remembered only after the commit: a lost transaction is repeated.
        asked, self._last_event = self._stops_after(self._last_event)
        return asked

    def expect(self, costs: CostModel, reserve: float) -> None:
        """Set the costs of trials, and reserve `reserve` seconds for the confirmation after the last one."""
        self.forecasts.expect(costs)
        self._reserve = reserve

    def expected_seconds(self, assignment: Assignment) -> float | None:
        """Return the remaining seconds of an assignment; None if unknown."""
        return max(self.forecasts.seconds_to_rungs(assignment.trial).values(), default=None)

    def default_seconds(self) -> float | None:
        """Return the seconds of a whole trial of the default; None if unknown."""
        return self.forecasts.seconds(self._space.hyperparameters(self._space.default_values()))

    @property
    def study(self) -> str:
        """Name of the study."""
        return self._store.name

    @verb
    def device_seconds(self) -> float:
        """Return the device seconds of all ended attempts, over the devices of a trial."""
        return self._spent()

    @property
    def trains_until(self) -> float:
        """Time by which trials must have ended, in seconds since 1970; infinite without a deadline."""
        deadline = math.inf if self.limits.deadline is None else self.limits.deadline - self._reserve
        return min((deadline, *self.overtime.until.values()))

    @property
    def ended_because(self) -> str | None:
        """Reason that there is nothing more to train, other than the number of trials; empty if there is none."""
        return self._proposals.ended_because

    @verb
    def standing(self) -> Standing:
        """Return the counts and the best score of the study."""
        statistics = self._store.trials.statistics()
        return Standing(
            completed=statistics.states[TrialState.COMPLETE],
            pruned=statistics.states[TrialState.PRUNED],
            failed=statistics.states[TrialState.FAIL],
            paused=sum("seed" in trial.user_attrs for trial in self._store.trials.get_all(TrialState.WAITING)),
            best=next(iter(statistics.best(1)), None),
        )

    def use_slots(self, slots: int) -> None:
        """Count each trial's share of its worker's device with that many slots; called once, after measuring them."""
        before = self._config.compute.devices_of_trial
        self._config = self._config.with_slots(slots)
        self.endings.devices = self._config.compute.devices_of_trial
        if self.limits.device_seconds is not None:
            more = before / self.endings.devices
            self.limits = replace(self.limits, device_seconds=more * self.limits.device_seconds)

    @verb
    def measurements(self) -> dict[str, Any] | None:
        """Return what an earlier start measured to choose precision and slots; None if this is the first."""
        return self._store.measurements()

    @verb
    def record_measurements(self, measurements: Mapping[str, Any]) -> None:
        """Store what was measured, so that every later start, retry and reproduction uses the same."""
        self._store.set_measurements(measurements)

    @verb
    def winner(self) -> tuple[Assignment, Report] | None:
        """Return the best completed trial as it was assigned, to train it again, and its best evaluation."""
        best = self._store.trials.statistics().best(1)
        return self._trained(best[0][1]) if best else None

    @verb
    def trained(self, trial: int) -> tuple[Assignment, Report]:
        """Return a completed trial as it was assigned, and its best evaluation."""
        return self._trained(trial)

    @verb
    def files_needed(self) -> tuple[set[int], set[int]]:
        """Return the trials that are not over, which need their checkpoints, and those that need their weights."""
        unfinished = {trial.number for trial in self._store.trials.get_all(TrialState.RUNNING, TrialState.WAITING)}
        return unfinished, self._proposals.with_weights()

    @verb
    def test_was_read(self, trial: int) -> bool:
        """Return true if the test split has been read for `trial`."""
        return self._store.events.has(TEST_EVENT, trial)

    @verb
    def record_test(self, trial: int, held_out: HeldOutEvaluation) -> None:
        """Record that the test split was read for `trial`, and its score."""
        self._store.events.add(TEST_EVENT, trial, reading=to_json(held_out))
        self._store.study.set_user_attr(f"hpo:test:trial-{trial}", dict(held_out.scores.values))

    @verb
    def record_baseline(self, name: str, held_out: HeldOutEvaluation) -> None:
        """Record the score of a baseline on the rows of the confirmation; a later call replaces it."""
        self._store.events.add(BASELINE_EVENT, name=name, reading=to_json(held_out))

    # -- helpers

    def _create(self, metric: str, versions: Mapping[str, str]) -> None:
        # Runs that confirmed an earlier study of this name, which was deleted with Optuna's own tools.
        delete_runs(self._store.database, self._store.rows.open_connection, self.study, refuse=refuse_led)
        self._store.create(replace(self._record, versions=versions), metric)
        self._last_event = 0  # An earlier study with this number had a log, whose numbering is gone.
        self._proposals.begin()
        self._store.events.add("created")

    def _keep_deadline(self) -> None:
        runs = self._store.events.all("run_begun", "run_ended")
        if runs and runs[-1].kind == "run_begun":
            self.limits = resumed_limits(self.limits, self._config.budget, runs[-1].detail, self._clock())

    @verb
    def _log(self, kind: str, detail: Mapping[str, Any]) -> None:
        self._store.events.add(kind, **detail)

    @verb
    def _stops_after(self, last_event: int) -> tuple[StopRequests, int]:
        """Return the requests after an event of the log, and the last such event; prune waiting trials."""
        asked = self._store.events.after(last_event, "stop_asked")
        trials = frozenset(event.trial for event in asked.values() if event.trial is not None)
        waiting = {trial.number for trial in self._store.trials.get_all(TrialState.WAITING)} if trials else set()
        for number in trials & waiting:
            self.endings.prune_waiting(number, "Stopped as asked for.")
        stops = StopRequests(stop=any(event.trial is None for event in asked.values()), trials=trials - waiting)
        return stops, max(asked, default=last_event)

    def _would_resume(self, trial: int) -> bool:
        return self._proposals.would_resume(trial, self._seconds_left(self._clock(), pausing=trial))

    def _seconds_left(self, now: float, pausing: int | None = None) -> float:
        """Return the seconds that another trial may take, if the trial `pausing` is paused now."""
        spent = committed = 0.0
        if self.limits.device_seconds is not None:
            spent = self._spent()
            running = self._store.trials.get_all(TrialState.RUNNING)
            committed = sum(
                self.forecasts.seconds_of_attempt(one.number, ends_now=one.number == pausing) for one in running
            )
        return seconds_left(self.limits, now=now, reserve=self._reserve, spent=spent, committed=committed)

    def _spent(self) -> float:
        return self._store.attempts.device_seconds() / self._config.compute.devices_of_trial

    def _assignment(self, record: AttemptRecord) -> Assignment:
        hyperparameters = Hyperparameters(**record.configuration)
        self.forecasts.begun(record.trial, record.attempt, hyperparameters)
        confirms = record.confirms is not None
        return Assignment(
            trial=record.trial, attempt=record.attempt, hyperparameters=hyperparameters, seed=record.seed,
            milestones=trial_milestones(self._config, self._space, hyperparameters, confirms=confirms),
            maximum_passes=self._space.maximum_passes(), score_to_beat=record.score_to_beat,
            micro_batch_size=record.micro_batch_size, confirms=record.confirms,
            limit_seconds=self.limits.trial_seconds, alone=record.trial in self.faults.alone,
        )  # fmt: skip

    def _trained(self, number: int) -> tuple[Assignment, Report]:
        attempt = self._store.attempts.newest(number)
        report = self._store.attempts.best_report(number)
        assert attempt is not None, "a completed trial was attempted"
        assert report is not None, "a completed trial has a full report"
        return replace(self._assignment(attempt), score_to_beat=None, limit_seconds=None), report

    def _judge(self, report: Report) -> Action:
        self.forecasts.reported(report)
        action = self._pruning.judge(report)
        self._store.attempts.add_evaluation(report, action)
        return action

    def _longest_outage(self) -> float:
        until = self.limits.deadline
        return LONGEST_OUTAGE if until is None else min(LONGEST_OUTAGE, max(LEAST_OUTAGE, until - self._clock()))
