"""Keeps workers busy: carries assignments to them, and what they say back, until the search is over."""

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

from hpo.config.study_file import ComputeConfig
from hpo.errors import StoreUnavailableError, TrainingError
from hpo.messages import Action, Assignment, Decision, Ending, Outcome, Progress, Report
from hpo.runners.watcher import Watcher
from hpo.runners.workforce import Lost, Note, Said, Unfit, Workforce
from hpo.search.coordinator import Coordinator
from hpo.training.mirror import NO_MIRROR, Mirror
from hpo.training.weights import keep_only

ASKS_AHEAD_SECONDS = 5.0
"""How long before a trial's expected end the next one is asked for: as late as it may be, since what is asked earlier
knows less."""


class Dispatch:
    """One run of a search over a workforce."""

    def __init__(
        self,
        coordinator: Coordinator,
        workforce: Workforce,
        watcher: Watcher,
        stop: Event,
        *,
        compute: ComputeConfig | None = None,
        files: Path | None = None,
        mirror: Mirror = NO_MIRROR,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        listens_seconds: float = 1.0,
        steers_every: float = 2.0,
    ) -> None:
        """Take what there is to carry between.

        Args:
            coordinator: of the study, which has begun.
            workforce: which has begun.
            watcher: is told of everything.
            stop: set from elsewhere, it ends the search tidily: what is running waits in the store for the next run.
            compute: when a worker hangs, and how long it has to end.
            files: the study's folder of weights and checkpoints, cleared of those that are not needed any more.
            mirror: of that folder, cleared likewise.
            clock: seconds since 1970, for the deadline.
            ticks: seconds from anywhere, which no setting of a clock changes.
            listens_seconds: how long workers are listened to at a time, at most.
            steers_every: seconds between looks at what was asked for from outside.
        """
        self._coordinator, self._workforce, self._watcher, self._stop = coordinator, workforce, watcher, stop
        self._compute = compute or ComputeConfig()
        self._files, self._mirror, self._clock, self._ticks = files, mirror, clock, ticks
        self._listens_seconds, self._steers_every = listens_seconds, steers_every
        self._held: dict[str, list[Assignment]] = {}
        """Worker -> what it trains, and what it trains next."""
        self._ends_at: dict[str, float] = {}
        """Worker -> when the trial that it trains is expected to end."""
        self._listened = 0.0
        """Seconds of listening: no worker is silent while the store or a suspended machine keeps this from it."""
        self._heard_at: dict[str, float] = {}
        """Worker -> when it last said something, in those."""
        self._nothing_for: set[str] = set()
        """Workers that there was nothing for, until something changes."""
        self._has_reported: set[int] = set()
        """Trials that have said what they cost; another may fit since."""
        self._left_out: set[str] = set()
        self._enlisted: frozenset[str] = frozenset()
        self._steered_at = clock()
        self._pausing_since: float | None = None
        self._failure: str | None = None

    def run(self) -> None:
        """Train until the budget is spent, its time is over, or the search is told to end.

        Raises:
            TrainingError: training fails whatever is tried; says why.
            StoreUnavailableError: the store is away; what was training has been paused, and waits in its checkpoints.
        """
        try:
            while self._goes_on():
                for worker, said in self._listen():
                    # What a worker had said in the moment in which it was left out: its trial goes on elsewhere.
                    if worker not in self._left_out:
                        self._carry(worker, said)
                self._kill_silent()
        except StoreUnavailableError:
            self._pause_unrecorded()
            raise
        if self._failure is not None:
            raise TrainingError(self._failure)

    def _goes_on(self) -> bool:
        """Steer, hand out what there is, and return whether something is to be waited for."""
        self._enlist()
        self._steer()
        if self._pausing_since is None:
            self._fill()
        if any(self._held.values()):
            return True
        starting = set(self._workforce.workers) - self._workforce.capacities.keys()
        return self._pausing_since is None and bool(starting)

    def _enlist(self) -> None:
        """Tell which workers there are, where that has changed: a cluster may grow and shrink."""
        workers = frozenset(self._workforce.workers)
        if workers != self._enlisted:
            self._coordinator.enlist(workers)
            self._enlisted = workers
            # What waited for another worker may be for those that are left.
            self._nothing_for.clear()
            none_left = None if workers else "No worker is left to train on, and no other comes."
            self._failure = self._failure or self._coordinator.verdict or none_left

    def _listen(self) -> Sequence[tuple[str, Said]]:
        began = self._ticks()
        heard = self._workforce.listen(self._patience())
        self._listened += self._ticks() - began
        return heard

    def _patience(self) -> float:
        """Return for how long to listen: not beyond the deadline."""
        if self._pausing_since is not None:
            return self._listens_seconds
        return max(0.0, min(self._listens_seconds, self._coordinator.trains_until - self._clock()))

    # -- to the workers

    def _fill(self) -> None:
        for worker in list(self._workforce.capacities):
            held = self._held.setdefault(worker, [])
            if not held:
                self._ask(worker, 0.0)
            elif len(held) <= self._workforce.ahead and worker in self._ends_at:
                left = self._ends_at[worker] - self._clock()
                if left <= ASKS_AHEAD_SECONDS:
                    self._ask(worker, max(0.0, left))

    def _ask(self, worker: str, starts_in: float) -> None:
        if worker in self._nothing_for:
            return
        capacity = self._workforce.capacities[worker]
        assignment = self._coordinator.next_assignment(uuid.uuid4().hex, capacity, starts_in=starts_in)
        for sentence in self._coordinator.taken_notes():
            self._watcher.note(sentence)
        if assignment is None:
            # What there is not for an idle worker, which no trial avoids, there is for none: each ask is a transaction.
            for_all = starts_in == 0 and not self._coordinator.is_avoided(worker)
            self._nothing_for.update(self._workforce.capacities if for_all else [worker])
            return
        self._held[worker].append(assignment)
        self._workforce.give(worker, assignment)
        if len(self._held[worker]) == 1:
            self._begins(worker)

    def _begins(self, worker: str) -> None:
        """Take in that a worker begins with the first of what it holds."""
        self._heard_at[worker] = self._listened
        self._ends_at.pop(worker, None)
        if not self._held[worker]:
            return
        self._watcher.assigned(self._held[worker][0])
        if self._workforce.ahead:
            expected = self._coordinator.expected_seconds(self._held[worker][0])
            if expected is not None:
                self._ends_at[worker] = self._clock() + expected

    def _steer(self) -> None:
        """Do what the stop event, the deadline or somebody outside asks for."""
        now = self._clock()
        if self._pausing_since is None:
            if now - self._steered_at >= self._steers_every:
                self._steered_at = now
                self._heed_steering()
            if self._stop.is_set() or self._failure is not None or now >= self._coordinator.trains_until:
                self._pause()
        elif self._ticks() - self._pausing_since > self._compute.grace_seconds:
            for worker in [worker for worker, held in self._held.items() if held]:
                self._workforce.kill(worker, "It did not reach its next step in time.")

    def _heed_steering(self) -> None:
        asked = self._coordinator.steering()
        if asked.stop:
            self._stop.set()
        for worker, held in self._held.items():
            for assignment in held:
                if assignment.trial in asked.trials:
                    self._decide(worker, assignment, Action.STOP)

    def _pause(self) -> None:
        self._pausing_since = self._ticks()
        for worker, held in self._held.items():
            for assignment in held:
                self._decide(worker, assignment, Action.PAUSE)

    def _pause_unrecorded(self) -> None:
        """Have what trains write its checkpoints, while nothing can be recorded: the next run goes on from them."""
        if self._pausing_since is None:
            self._pause()
        until = self._ticks() + self._compute.grace_seconds
        while any(self._held.values()) and (left := until - self._ticks()) > 0:
            for worker, said in self._workforce.listen(min(left, self._listens_seconds)):
                ended = {said.trial} if isinstance(said, Outcome) else set()
                held = [one for one in self._held.get(worker, []) if one.trial not in ended]
                self._held[worker] = [] if isinstance(said, Lost | Unfit) else held

    def _decide(self, worker: str, assignment: Assignment, action: Action) -> None:
        self._workforce.apply(worker, Decision(trial=assignment.trial, attempt=assignment.attempt, action=action))

    def _kill_silent(self) -> None:
        """Kill workers that train and have said nothing for too long; their trials go on elsewhere."""
        longest = 60 * self._compute.hang_minutes
        for worker, held in self._held.items():
            if held and self._listened - self._heard_at[worker] > longest:
                self._heard_at[worker] = self._listened
                self._workforce.kill(worker, f"It said nothing for {self._compute.hang_minutes:g} minutes.")

    # -- from the workers

    def _carry(self, worker: str, said: Said) -> None:
        self._heard_at[worker] = self._listened
        match said:
            case Report():
                decision = self._coordinator.observe(said)
                self._workforce.apply(worker, decision)
                self._watcher.reported(said, decision)
                self._ask_again_after(said)
            case Progress():
                self._expect(worker, said)
                self._coordinator.progressed(said)
                self._watcher.progressed(said)
            case Outcome():
                self._end(worker, said)
            case Note():
                self._watcher.note(f"{worker}: {said.sentence}")
            case Lost():
                self._lose(worker, said.reason)
            case Unfit():
                self._coordinator.leave_out(worker, said.reason)
                # Whether any is left is judged by those there are now.
                self._enlist()
                self._lose(worker, said.reason)
                self._leave_out_quarantined()

    def _ask_again_after(self, report: Report) -> None:
        """Ask for idle workers again when a trial has told for the first time what it costs."""
        if report.trial not in self._has_reported:
            self._has_reported.add(report.trial)
            self._nothing_for.clear()

    def _expect(self, worker: str, progress: Progress) -> None:
        """Take the expected end of a trial from its own pace."""
        held = self._held.get(worker)
        if held and held[0].trial == progress.trial and progress.examples_per_second > 0:
            left = (progress.examples_total - progress.examples_seen) / progress.examples_per_second
            self._ends_at[worker] = self._clock() + left

    def _end(self, worker: str, outcome: Outcome) -> None:
        held = self._held.get(worker, [])
        was_first = bool(held) and held[0].trial == outcome.trial
        self._held[worker] = [one for one in held if one.trial != outcome.trial]
        self._finish(outcome)
        # It may have been left out for that.
        if was_first and worker in self._held:
            self._begins(worker)

    def _finish(self, outcome: Outcome) -> None:
        self._coordinator.finish(outcome)
        self._watcher.ended(outcome)
        self._nothing_for.clear()
        if self._files is not None:
            keep_only(self._files, *self._coordinator.files_needed(), self._mirror)
        self._leave_out_quarantined()

    def _lose(self, worker: str, reason: str) -> None:
        """End what a dead worker held: the first was in training, the others were not begun.

        While trials are paused a worker that is gone was too slow for the grace, or its machine was taken away.
        """
        for place, assignment in enumerate(self._held.pop(worker, [])):
            ending = Ending.DIED if place == 0 and self._pausing_since is None else Ending.PAUSED
            self._finish(_cut(assignment, ending, reason))

    def _leave_out_quarantined(self) -> None:
        """Do without workers that failed on several trials; what they hold is trained elsewhere, uncharged."""
        for worker, reason in self._coordinator.quarantined.items():
            if worker in self._left_out:
                continue
            self._left_out.add(worker)
            self._workforce.discard(worker)
            self._watcher.left_out(worker, reason)
            for assignment in self._held.pop(worker, []):
                self._coordinator.finish(_cut(assignment, Ending.PAUSED, "Its worker was left out."))
            # What had failed on all others may be tried on them again.
            self._nothing_for.clear()
        self._failure = self._failure or self._coordinator.verdict


def _cut(assignment: Assignment, ending: Ending, reason: str) -> Outcome:
    return Outcome(
        trial=assignment.trial,
        attempt=assignment.attempt,
        ending=ending,
        seconds=0.0,
        peak_memory_bytes=0,
        reason=reason,
    )
