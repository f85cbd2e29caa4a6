"""Attempt endings: recorded, told to Optuna, and whether the trial is retried; once, whatever ended it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import TrialState

from hpo.messages import Ending, Outcome, Report
from hpo.search.faults import Fault, Faults
from hpo.store.attempts import AttemptEnd
from hpo.store.study_store import StudyStore

MAX_DEATHS = 3
"""Attempts without progress in which the worker's process died, after which a trial fails: it may be what kills the
process, as where memory is short."""
MAX_LOST_RUNS = 10
"""The same where the leader died too: more, since the trial is rarely the cause."""

UNTRAINABLE = frozenset({Ending.DIVERGED, Ending.INFEASIBLE})
"""Endings that say the configuration itself cannot be trained: pruned, with `CONSTRAINT` violated."""
CONSTRAINT = "trainable"
VIOLATED = 1.0


@dataclass(frozen=True, slots=True)
class _Judgement:
    fault: Fault
    quarantined: Mapping[str, str]
    """Workers that are quarantined for it, and why."""


@dataclass(slots=True)
class Endings:
    """Endings of attempts, inside the store's open transaction."""

    store: StudyStore
    faults: Faults
    devices: float = 1.0
    """Devices of one trial."""
    _judged: dict[tuple[int, int], _Judgement] = field(default_factory=dict)
    """(trial, attempt) -> its judgement: once, also where a transaction is repeated."""

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

    def take_up(self) -> None:
        """Let trials that a dead leader left running wait, to be resumed first."""
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

    def prune_waiting(self, trial: int) -> None:
        """Prune a waiting trial, as somebody asked for; it keeps the scores that it has."""
        attempt = self.store.attempts.latest(trial)
        self.store.trials.ask(trial)
        self.store.events.add(str(Ending.PRUNED), trial, attempt or None, reason="Stopped as asked for.")
        self.store.study.tell(trial, state=TrialState.PRUNED)

    def _is_retried(self, outcome: Outcome, ends: list[AttemptEnd]) -> bool:
        """Return whether the trial is retried or resumed in a later attempt."""
        worker = ends[-1].worker
        match outcome.ending:
            case Ending.PAUSED:
                return True
            case Ending.FAILED:
                return self._fault(outcome, worker) is Fault.ELSEWHERE
            case Ending.DIED:
                # This attempt is still open, so it is not among them.
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
        """Give Optuna the end of a trial in its own terms."""
        match outcome.ending:
            case Ending.COMPLETED:
                assert outcome.best is not None, "a trial that trained to its end has a full report"
                self.store.study.tell(outcome.trial, outcome.best.score)
            case Ending.PRUNED:
                self.store.study.tell(outcome.trial, state=TrialState.PRUNED)
            case Ending.DIVERGED | Ending.INFEASIBLE:
                # TPE avoids what violates a constraint; it learns nothing from failed trials.
                self.store.trials.set_constraint(outcome.trial, CONSTRAINT, VIOLATED)
                self.store.study.tell(outcome.trial, state=TrialState.PRUNED)
            case Ending.FAILED | Ending.DIED:
                self.store.study.tell(outcome.trial, state=TrialState.FAIL)
            case Ending.PAUSED:
                raise AssertionError("a paused trial is resumed")


def outcome_attributes(outcome: Outcome) -> dict[str, Any]:
    """Return what an attempt cost, why it ended, and every score of its best full evaluation."""
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
    """Return how many attempts since the last progress had this ending; None for those that have none."""
    furthest, count = 0, 0
    for end in ends:
        if end.seen > furthest:
            furthest, count = end.seen, 0
        count += end.ending == ending
    return count


def _failed(trial: int, attempt: int, reason: str) -> Outcome:
    return Outcome(trial=trial, attempt=attempt, ending=Ending.FAILED, seconds=0.0, peak_memory_bytes=0, reason=reason)
