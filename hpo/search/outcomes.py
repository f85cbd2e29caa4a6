"""Attempt outcomes: records each, tells Optuna, and decides whether trial or worker failed and whether to retry.

- **The trial's failure**: it fails on two workers, or there is no other worker to retry it on. Its first failure no
  longer counts against that worker.
- **The worker's failure**: two trials fail on it and on no other, while others end normally elsewhere. It is then
  quarantined, unless it is the last worker. Until a trial has ended normally elsewhere, it gets no trials, because the
  cause may affect all workers.
- **A common failure**: the same error three times in a row on more than one worker, or any three errors in a row on the
  only one. The search ends, and no worker is blamed.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import takewhile
from typing import Any

from optuna.trial import TrialState

from hpo.messages import Ending, Outcome, Report
from hpo.store.study_store import StudyStore
from hpo.store.trials import AttemptEnd

QUARANTINE_AT = 2
"""Number of trials that must have failed on this worker and on no other for it to be quarantined."""
RUN_OF_FAILURES = 3
"""Failures in a row after which the search ends."""
DEATH = "its process died"
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[-+]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?")


class Fault(StrEnum):
    """Decision on a failed trial."""

    TRIAL = "trial"
    """It fails for good."""
    ELSEWHERE = "elsewhere"
    """It is retried on another worker, from the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    worker: str
    reason: str

    @property
    def wording(self) -> str:
        """The reason without numbers and addresses, which differ between occurrences of the same error."""
        return _NUMBER.sub("#", self.reason)


@dataclass(slots=True)
class Faults:
    """Failures on the workers of a run, and the decisions based on them."""

    workers: Collection[str]
    """The present workers; others may join, and some may be lost."""
    _failed_on: dict[int, dict[str, str]] = field(default_factory=dict)
    """Unfinished trial -> worker on which it failed -> reason."""
    _confirmed: dict[str, dict[int, str]] = field(default_factory=dict)
    """Worker -> trial that failed on it and ended normally on another -> reason of the failure."""
    _others_do_well: set[str] = field(default_factory=set)
    """Suspected workers, if a trial has ended normally on another worker since their failure."""
    _running: list[_Failure] = field(default_factory=list)
    """Failures since a trial last ended normally, or was paused after progress."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """Workers that get no more trials, with the reason in a sentence."""
    _abort: str | None = None
    """Reason that the search ends; None before."""
    alone: set[int] = field(default_factory=set)
    """Trials that shared a worker that died, or ran out of memory; each is trained alone from then on."""

    def failed(self, trial: int, worker: str, reason: str) -> Fault:
        """Record that a trial failed, and return whether it is retried."""
        self._running.append(_Failure(worker=worker, reason=reason))
        self._abort = self._abort or self._common_cause()
        failed_on = self._failed_on.setdefault(trial, {})
        failed_on[worker] = reason
        if len(failed_on) > 1 or not self._usable - failed_on.keys():
            del self._failed_on[trial]
            return Fault.TRIAL
        self._quarantine_if_faulty(worker)
        return Fault.ELSEWHERE

    def advanced(self) -> None:
        """Record that a trial was paused after progress, so that the failures before it are no longer in a row."""
        self._running.clear()

    def died(self, trial: int, worker: str) -> None:
        """Record that a worker's process died while training a trial, which counts as a failure on that worker."""
        self._failed_on.setdefault(trial, {})[worker] = DEATH
        self._quarantine_if_faulty(worker)

    def ended_well(self, trial: int, worker: str) -> None:
        """Record that a trial ended normally, so that its earlier failures are blamed on their workers."""
        self._running.clear()
        for other, reason in self._failed_on.pop(trial, {}).items():
            if other != worker:
                self._confirmed.setdefault(other, {})[trial] = reason
        for other in self._suspected - {worker}:
            self._others_do_well.add(other)
            self._quarantine_if_faulty(other)

    def quarantine(self, worker: str, reason: str) -> None:
        """Record that a worker gets no more trials, even if it is the last one."""
        self.quarantined.setdefault(worker, reason)

    def avoid(self, trial: int) -> frozenset[str]:
        """Return the workers on which a trial failed; empty if no other worker is left."""
        failed_on = self._failed_on.get(trial, {}).keys()
        return frozenset(failed_on) if self._usable - failed_on else frozenset()

    def is_held_back(self, worker: str) -> bool:
        """Return true if a worker must wait until it is known whether trials end normally elsewhere."""
        return worker in self._active - self._usable

    def is_avoided(self, worker: str) -> bool:
        """Return true if an unfinished trial failed on a worker."""
        return any(worker in failed_on for failed_on in self._failed_on.values())

    def abort_reason(self) -> str | None:
        """Return the reason that the search must end at once, in a sentence; None if it may continue."""
        if self._abort or not self.quarantined or self._active:
            return self._abort
        worker, reason = list(self.quarantined.items())[-1]
        return f"No worker is left to train on; the last one was {worker}: {reason}"

    @property
    def _active(self) -> set[str]:
        return set(self.workers) - self.quarantined.keys()

    @property
    def _usable(self) -> set[str]:
        """Usable workers: without those on which two trials failed, unless no others are left."""
        faulty = {worker for worker in self._suspected if len(self._own_failures(worker)) >= QUARANTINE_AT}
        return self._active - faulty or self._active

    @property
    def _suspected(self) -> set[str]:
        return self._confirmed.keys() | {worker for failed_on in self._failed_on.values() for worker in failed_on}

    def _own_failures(self, worker: str) -> dict[int, str]:
        """Return trial -> reason of the trials that failed on this worker and on no other."""
        suspected = {
            trial: failed_on[worker] for trial, failed_on in self._failed_on.items() if failed_on.keys() == {worker}
        }
        return self._confirmed.get(worker, {}) | suspected

    def _quarantine_if_faulty(self, worker: str) -> None:
        failures = self._own_failures(worker)
        is_known = worker in self._others_do_well
        if self._abort or not is_known or len(failures) < QUARANTINE_AT or self._active <= {worker}:
            return
        trials = " and ".join(map(str, sorted(failures)))
        reason = failures[max(failures)]
        self.quarantine(worker, f"Trials {trials} failed on {worker}: {_without_stop(reason)}.")

    def _common_cause(self) -> str | None:
        """Return the reason if the latest failures affect all workers; None if they may not."""
        last = self._running[-1]
        backwards = self._running[::-1]
        alike = list(takewhile(lambda failure: failure.wording == last.wording, backwards))
        here = list(takewhile(lambda failure: failure.worker == last.worker, backwards))
        places = {failure.worker for failure in alike}
        if len(alike) >= RUN_OF_FAILURES and len(places) > 1:
            where = f"the same error {len(alike)} times running, on {' and '.join(sorted(places))}"
        elif self._usable <= {last.worker} and len(here) >= RUN_OF_FAILURES:
            where = f"the last of {RUN_OF_FAILURES} failures running"
        else:
            return None
        return f"{_without_stop(last.reason)}: {where}, so the search ends; mend it, and the same command resumes it."


def _without_stop(reason: str) -> str:
    return reason.rstrip(" .:")


MAX_DEATHS = 3
"""Attempts without progress in which the worker's process died, after which a trial fails, because it may kill the
process, for example by its memory."""
MAX_LOST_RUNS = 10
"""The same if the leader died too: more, because the trial is rarely the cause."""

UNTRAINABLE = frozenset({Ending.DIVERGED, Ending.INFEASIBLE})
"""Endings that mean the configuration itself cannot be trained: pruned, with `CONSTRAINT` violated."""
CONSTRAINT = "trainable"
VIOLATED = 1.0


@dataclass(frozen=True, slots=True)
class _Judgement:
    fault: Fault
    quarantined: Mapping[str, str]
    """Quarantined workers, with the reasons."""


@dataclass(slots=True)
class Endings:
    """Endings of attempts, within the store's open transaction."""

    store: StudyStore
    faults: Faults
    devices: float = 1.0
    """Devices of one trial."""
    _judged: dict[tuple[int, int], _Judgement] = field(default_factory=dict)
    """(trial, attempt) -> decision, made once even if the transaction is repeated."""
    _pruned: dict[int, None] = field(default_factory=dict)
    """Waiting trials that were pruned, each once even if the transaction is repeated."""

    def end(self, outcome: Outcome) -> None:
        """Record the end of an open attempt and tell Optuna."""
        ends = self.store.attempts.ends(outcome.trial)
        worker = ends[-1].worker
        retried = self._is_retried(outcome, ends)
        if outcome.ending is Ending.DIED and not retried:
            outcome = replace(outcome, reason=f"{outcome.reason} It was so in {MAX_DEATHS} attempts.")
        self._record(outcome)
        if retried:
            self.store.trials.set_waiting(outcome.trial)
        else:
            self._tell(outcome)
        if outcome.ending in (Ending.FAILED, Ending.DIED) and retried:
            self.store.events.add("requeued", outcome.trial, outcome.attempt, worker=worker, why=str(outcome.ending))
        judged = self._judged.get((outcome.trial, outcome.attempt))
        for name, reason in judged.quarantined.items() if judged else ():
            self.store.events.add("quarantined", worker=name, reason=reason)

    def requeue_running(self) -> None:
        """Requeue the trials that a dead leader left running, to be resumed first."""
        for trial in self.store.trials.get_all(TrialState.RUNNING):
            ends = self.store.attempts.ends(trial.number)
            attempt = ends[-1].attempt if ends else 0
            lost = deaths(ends, None)
            if lost < MAX_LOST_RUNS:
                self.store.trials.set_waiting(trial.number)
                self.store.events.add("requeued", trial.number, attempt, why="the search was cut")
                continue
            reason = f"The search died with it in {lost} attempts."
            self._record(_failed(trial.number, attempt, reason))
            self.store.study.tell(trial.number, state=TrialState.FAIL)

    def prune_waiting(self, trial: int, reason: str) -> None:
        """Prune a waiting trial; it keeps its scores."""
        attempt = self.store.attempts.latest(trial)
        self.store.trials.ask(trial)
        self.store.events.add(str(Ending.PRUNED), trial, attempt or None, reason=reason)
        self.store.study.tell(trial, state=TrialState.PRUNED)
        self._pruned[trial] = None

    def pop_pruned(self) -> Sequence[int]:
        """Return the waiting trials that were pruned since the last call."""
        pruned, self._pruned = tuple(self._pruned), {}
        return pruned

    def _is_retried(self, outcome: Outcome, ends: list[AttemptEnd]) -> bool:
        """Return true if the trial is retried or resumed in a later attempt."""
        worker = ends[-1].worker
        match outcome.ending:
            case Ending.PAUSED:
                if ends[-1].seen > max((end.seen for end in ends[:-1]), default=0):
                    self.faults.advanced()
                return True
            case Ending.FAILED:
                return self._fault(outcome, worker) is Fault.ELSEWHERE
            case Ending.DIED:
                # This attempt is still open, so it is not counted.
                retried = deaths(ends, Ending.DIED) + 1 < MAX_DEATHS
                self._fault(outcome if retried else replace(outcome, ending=Ending.FAILED), worker)
                return retried
            case _:
                self._fault(outcome, worker)
                return False

    def _fault(self, outcome: Outcome, worker: str) -> Fault:
        key = outcome.trial, outcome.attempt
        if key not in self._judged:
            before = set(self.faults.quarantined)
            fault = self._judge(outcome, worker)
            quarantined = {name: why for name, why in self.faults.quarantined.items() if name not in before}
            self._judged[key] = _Judgement(fault, quarantined)
        return self._judged[key].fault

    def _judge(self, outcome: Outcome, worker: str) -> Fault:
        if outcome.ending is Ending.FAILED:
            return self.faults.failed(outcome.trial, worker, outcome.reason)
        if outcome.ending is Ending.DIED:
            self.faults.died(outcome.trial, worker)
            return Fault.ELSEWHERE
        self.faults.ended_well(outcome.trial, worker)
        return Fault.TRIAL

    def _record(self, outcome: Outcome) -> None:
        self.store.attempts.end(outcome, self.devices)
        reason, seconds = outcome.reason, outcome.seconds
        self.store.events.add(str(outcome.ending), outcome.trial, outcome.attempt, reason=reason, seconds=seconds)
        self.store.trials.set_attributes(outcome.trial, outcome_attributes(outcome))

    def _tell(self, outcome: Outcome) -> None:
        """Tell Optuna the final state of a trial."""
        match outcome.ending:
            case Ending.COMPLETED:
                assert outcome.best is not None, "a trial that trained to its end has a full report"
                self.store.study.tell(outcome.trial, outcome.best.score)
            case Ending.PRUNED:
                self.store.study.tell(outcome.trial, state=TrialState.PRUNED)
            case Ending.DIVERGED | Ending.INFEASIBLE:
                # TPE avoids configurations that violate a constraint; it learns nothing from failed trials.
                self.store.trials.set_constraint(outcome.trial, CONSTRAINT, VIOLATED)
                self.store.study.tell(outcome.trial, state=TrialState.PRUNED)
            case Ending.FAILED | Ending.DIED:
                self.store.study.tell(outcome.trial, state=TrialState.FAIL)
            case Ending.PAUSED:
                raise AssertionError("a paused trial is resumed")


def outcome_attributes(outcome: Outcome) -> dict[str, Any]:
    """Return the cost of an attempt, the reason of its end, and every score of its best full evaluation."""
    attributes: dict[str, Any] = {"seconds": round(outcome.seconds, 3), "peak_memory_bytes": outcome.peak_memory_bytes}
    if outcome.resumed_examples:
        attributes["resumed_examples"] = outcome.resumed_examples
    if outcome.changes:
        attributes["not_bit_equal"] = list(outcome.changes)
    if outcome.micro_batch_size is not None:
        attributes["rows_at_once"] = outcome.micro_batch_size
    if outcome.reason:
        attributes["reason"] = outcome.reason
    return attributes | (_scores(outcome.best) if outcome.best else {})


def _scores(best: Report) -> dict[str, Any]:
    attributes: dict[str, Any] = {f"validation_{name}": value for name, value in best.validation.values.items()}
    attributes["best_epoch"] = best.epoch
    if best.train is not None:
        attributes[f"train_{best.train.metric}"] = best.train.objective
    return attributes


def deaths(ends: list[AttemptEnd], ending: Ending | None) -> int:
    """Return the number of attempts since the last progress with this ending; None for endings without such a limit."""
    furthest, count = 0, 0
    for end in ends:
        if end.seen > furthest:
            furthest, count = end.seen, 0
        count += end.ending == ending
    return count


def _failed(trial: int, attempt: int, reason: str) -> Outcome:
    return Outcome(trial=trial, attempt=attempt, ending=Ending.FAILED, seconds=0.0, peak_memory_bytes=0, reason=reason)
