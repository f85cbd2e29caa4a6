"""Dispatch: passes assignments to workers, and their messages to the coordinator, until the search is over."""

import logging
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from hpo.config.study_file import ComputeConfig
from hpo.errors import StoreUnavailableError, TrainingError
from hpo.files.checkpoints import keep_only
from hpo.files.remote import NO_REMOTE, RemoteFiles
from hpo.messages import Action, Assignment, Begun, Capacity, Decision, Ending, Outcome, Progress, Report
from hpo.runners.callbacks import SearchCallback
from hpo.runners.worker_pool import LossCause, Note, WorkerLost, WorkerMessage, Workers
from hpo.search.coordinator import Coordinator

ASKS_AHEAD_SECONDS = 5.0
"""Seconds before a trial's expected end at which the next one is requested: late, because an earlier proposal knows
fewer results."""
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """Assignments of a worker without an outcome yet, by trial."""

    training: dict[int, Assignment] = field(default_factory=dict)
    began_at: dict[int, float] = field(default_factory=dict)
    """Start of each running trial, as the dispatch received it, in seconds since 1970."""
    waiting: dict[int, Assignment] = field(default_factory=dict)
    ends_at: dict[int, float] = field(default_factory=dict)
    """Expected end of each running trial, in seconds since 1970, if known."""
    out_of_memory: list[Outcome] = field(default_factory=list)
    """Outcomes, not recorded yet, of trials that ran out of memory beside others, of which some still train."""
    last_message_at: float = 0.0
    """Time of the worker's last message, in seconds of listening."""

    @property
    def all(self) -> Mapping[int, Assignment]:
        """Running and waiting assignments."""
        return self.training | self.waiting

    @property
    def count(self) -> int:
        """Number of assignments."""
        return len(self.training) + len(self.waiting)

    def slots(self, capacity: Capacity) -> int:
        """Return how many trials the worker may have at once: none more while one waits to be tried alone."""
        alone = capacity.slots > 1 and any(one.alone for one in self.all.values())
        return 0 if self.out_of_memory else 1 if alone else capacity.slots

    def remove(self, trial: int) -> None:
        """Forget a trial whose outcome is known."""
        for held in (self.training, self.waiting, self.ends_at):
            held.pop(trial, None)


class Dispatch:
    """One run of a search over a worker pool."""

    def __init__(
        self,
        coordinator: Coordinator,
        pool: Workers,
        callback: SearchCallback,
        stop: Event,
        *,
        compute: ComputeConfig | None = None,
        files: Path | None = None,
        remote: RemoteFiles = NO_REMOTE,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        listens_seconds: float = 1.0,
        steers_every: float = 2.0,
    ) -> None:
        """Take the coordinator and the worker pool.

        Args:
            coordinator: of the study, already begun.
            pool: already started.
            callback: receives every event.
            stop: event that ends the search when set; running trials are paused, and the next run resumes them.
            compute: limits for a hanging worker and for the end.
            files: the study's folder of weights and checkpoints; files no longer needed are removed.
            remote: remote copy of that folder; the same files are removed there.
            clock: seconds since 1970, for the deadline.
            ticks: monotonic seconds.
            listens_seconds: longest time of one wait for messages.
            steers_every: seconds between checks for user commands.
        """
        self._coordinator, self._pool, self._callback, self._stop = coordinator, pool, callback, stop
        self._compute = compute or ComputeConfig()
        self._files, self._remote, self._clock, self._ticks = files, remote, clock, ticks
        self._listens_seconds, self._steers_every = listens_seconds, steers_every
        self._held: defaultdict[str, _Held] = defaultdict(_Held)
        """By worker."""
        self._listened = 0.0
        """Seconds spent listening. Only these count as silence of a worker, not those in which the store or the machine
        was unavailable."""
        self._none_silent_until = 0.0
        """Seconds of listening before which no worker can have been silent for too long."""
        self._nothing_for: set[str] = set()
        """Workers without an assignment, not offered one again until something changes."""
        self._filled: Set[str] = frozenset()
        """Running workers without a next assignment, not offered one again until something changes."""
        self._has_reported: set[int] = set()
        """Trials whose costs are known from a report; another trial may fit since then."""
        self._left_out: set[str] = set()
        self._enlisted: frozenset[str] = frozenset()
        self._steered_at = clock()
        self._pausing_since: float | None = None
        self._failure: str | None = None
        self._needed: tuple[Set[int], Set[int]] | None = None
        """Trials whose checkpoints, and those whose weights, were needed when files were last removed."""
        self._removing = ThreadPoolExecutor(1, "removes")

    def run(self) -> None:
        """Train until the budget or the time is spent, or the search is stopped.

        Raises:
            TrainingError: training fails in every case, with the reason.
            StoreUnavailableError: the store is unreachable; running trials have been paused, with checkpoints.
        """
        try:
            with self._removing:
                while self._is_running():
                    for worker, message in self._listen():
                        # The trials of a quarantined worker are retried elsewhere.
                        if worker not in self._left_out:
                            self._handle(worker, message)
                    self._kill_silent()
        except StoreUnavailableError:
            self._pause_unrecorded()
            raise
        if self._failure is not None:
            raise TrainingError(self._failure)

    def _is_running(self) -> bool:
        """Apply stops, hand out assignments, and return whether any worker is busy."""
        self._enlist()
        self._steer()
        if self._pausing_since is None:
            self._fill()
        if any(held.count for held in self._held.values()):
            return True
        starting = set(self._pool.workers) - self._pool.capacities.keys()
        return self._pausing_since is None and bool(starting)

    def _enlist(self) -> None:
        """Pass the current workers to the coordinator if they have changed: a cluster may grow and shrink."""
        workers = frozenset(self._pool.workers)
        if workers != self._enlisted:
            self._coordinator.faults.workers = workers
            self._enlisted = workers
            # Trials that waited for another worker may now be assigned to those that are left.
            self._look_again()
            none_left = None if workers else "No worker is left to train on, and no other comes."
            self._failure = self._failure or self._coordinator.faults.abort_reason() or none_left

    def _listen(self) -> Sequence[tuple[str, WorkerMessage]]:
        began = self._ticks()
        messages = self._pool.listen(self._patience())
        self._listened += self._ticks() - began
        return messages

    def _patience(self) -> float:
        """Return the seconds to listen, at most until the deadline."""
        if self._pausing_since is not None:
            return self._listens_seconds
        return max(0.0, min(self._listens_seconds, self._coordinator.trains_until - self._clock()))

    # -- to the workers

    def _fill(self) -> None:
        capacities = self._pool.capacities
        if capacities.keys() != self._filled:
            # Each worker gets a trial before one gets a second.
            for number in range(max(capacity.slots for capacity in capacities.values())):
                for worker, capacity in capacities.items():
                    held = self._held[worker]
                    if held.count == number < held.slots(capacity):
                        self._ask(capacity, held, 0.0)
            self._filled = frozenset(capacities)
        soon = self._clock() + ASKS_AHEAD_SECONDS
        for worker, capacity in capacities.items() if self._pool.prefetch else ():
            held = self._held[worker]
            ends_at = min(held.ends_at.values(), default=math.inf)
            if ends_at <= soon and 0 <= held.count - held.slots(capacity) < self._pool.prefetch:
                self._ask(capacity, held, max(0.0, ends_at - self._clock()))

    def _look_again(self) -> None:
        self._nothing_for.clear()
        self._filled = frozenset()

    def _ask(self, capacity: Capacity, held: _Held, starts_in: float) -> None:
        worker = capacity.worker
        if worker in self._nothing_for:
            return
        assignment = self._coordinator.next_assignment(uuid.uuid4().hex, capacity, starts_in=starts_in)
        for sentence in self._coordinator.overtime.pop_notes():
            self._callback.note(sentence)
        if assignment is None:
            # Each request is a transaction. If an idle worker that no trial avoids gets no assignment, no worker does;
            # if one that trains gets none, no other one that trains does.
            self._nothing_for.add(worker)
            if not self._coordinator.faults.is_avoided(worker):
                names = self._pool.capacities
                self._nothing_for.update(name for name in names if starts_in == 0 or self._held[name].count)
            return
        if not held.count:
            held.last_message_at = self._listened
        held.waiting[assignment.trial] = assignment
        self._pool.give(worker, assignment)

    def _steer(self) -> None:
        """Apply the stop event, the deadline and `hpo stop`; kill workers that do not pause in time."""
        now = self._clock()
        if self._pausing_since is None:
            if now - self._steered_at >= self._steers_every:
                self._steered_at = now
                self._apply_stop_requests()
            if self._stop.is_set() or self._failure is not None or now >= self._coordinator.trains_until:
                self._pause()
        elif self._ticks() - self._pausing_since > self._compute.grace_seconds:
            for worker in [worker for worker, held in self._held.items() if held.count]:
                self._pool.kill(worker, "It did not reach its next step in time.")

    def _apply_stop_requests(self) -> None:
        asked = self._coordinator.stop_requests()
        if asked.stop:
            self._stop.set()
        for worker, assignment in self._given():
            if assignment.trial in asked.trials:
                self._decide(worker, assignment, Action.STOP)

    def _given(self) -> list[tuple[str, Assignment]]:
        return [(worker, assignment) for worker, held in self._held.items() for assignment in held.all.values()]

    def _pause(self) -> None:
        self._pausing_since = self._ticks()
        for worker, assignment in self._given():
            self._decide(worker, assignment, Action.PAUSE)

    def _pause_unrecorded(self) -> None:
        """Make running trials write checkpoints although nothing can be recorded; the next run resumes from them."""
        if self._pausing_since is None:
            self._pause()
        until = self._ticks() + self._compute.grace_seconds
        while self._given() and (left := until - self._ticks()) > 0:
            for worker, message in self._pool.listen(min(left, self._listens_seconds)):
                if isinstance(message, WorkerLost):
                    self._held.pop(worker, None)
                elif isinstance(message, Outcome) and worker in self._held:
                    self._held[worker].remove(message.trial)

    def _decide(self, worker: str, assignment: Assignment, action: Action) -> None:
        self._pool.apply(worker, Decision(trial=assignment.trial, attempt=assignment.attempt, action=action))

    def _kill_silent(self) -> None:
        """Kill workers that train and have sent nothing for too long; their trials resume elsewhere."""
        if self._listened <= self._none_silent_until:
            return
        longest = 60 * self._compute.hang_minutes
        for worker, held in self._held.items():
            if held.count and self._listened - held.last_message_at > longest:
                held.last_message_at = self._listened
                self._pool.kill(worker, f"It sent no message for {self._compute.hang_minutes:g} minutes.")
        last_messages = (held.last_message_at for held in self._held.values() if held.count)
        self._none_silent_until = min(last_messages, default=self._listened) + longest

    # -- from the workers

    def _handle(self, worker: str, message: WorkerMessage) -> None:
        held = self._held[worker]
        held.last_message_at = self._listened
        match message:
            case Begun():
                self._begin(held, message)
            case Report():
                decision = self._coordinator.observe(message)
                self._pool.apply(worker, decision)
                self._callback.reported(message, decision)
                self._expect(held, message.trial)
                if message.trial not in self._has_reported:
                    # The trial's cost is known: another trial may fit for idle workers.
                    self._has_reported.add(message.trial)
                    self._look_again()
            case Progress():
                self._callback.progressed(message)
                if self._coordinator.forecasts.progressed(message):
                    self._expect(held, message.trial)
            case Outcome():
                self._end(held, message)
            case Note():
                self._callback.note(f"{worker}: {message.sentence}")
            case WorkerLost():
                if message.cause is LossCause.UNUSABLE:
                    self._coordinator.quarantine(worker, message.reason)
                    # An abort depends on the workers that are left.
                    self._enlist()
                self._lose(worker, message)
                self._look_again()
                self._leave_out_quarantined()

    def _begin(self, held: _Held, begun: Begun) -> None:
        if (assignment := held.waiting.pop(begun.trial, None)) is None:
            return
        held.training[begun.trial], held.began_at[begun.trial] = assignment, self._clock()
        self._callback.assigned(assignment)
        self._expect(held, begun.trial)

    def _expect(self, held: _Held, trial: int) -> None:
        """Update the expected end of a trial."""
        assignment = held.training.get(trial) if self._pool.prefetch else None
        if assignment and (left := self._coordinator.expected_seconds(assignment)) is not None:
            held.ends_at[trial] = self._clock() + left

    def _end(self, held: _Held, outcome: Outcome) -> None:
        held.remove(outcome.trial)
        if outcome.out_of_memory and (held.training or held.out_of_memory):
            # Others took a part of the memory. Once these have ended, it is tried alone.
            self._coordinator.faults.alone.add(outcome.trial)
            held.out_of_memory.append(replace(outcome, ending=Ending.PAUSED))
        else:
            self._finish(outcome)
        while held.out_of_memory and not held.training:
            self._finish(held.out_of_memory.pop())

    def _finish(self, outcome: Outcome) -> None:
        self._coordinator.finish(outcome)
        self._callback.ended(outcome)
        if pruned := self._coordinator.endings.pop_pruned():
            self._callback.pruned_while_paused(pruned)
        self._look_again()
        if self._files is not None:
            self._remove_files(self._files, outcome.trial)
        self._leave_out_quarantined()

    def _remove_files(self, files: Path, ended: int) -> None:
        """Remove files that are no longer needed: of all trials at first, later of the ended one, in the background."""
        unfinished, with_weights = self._coordinator.files_needed()
        if self._needed is None:
            keep_only(files, unfinished, with_weights, self._remote)
        else:
            # The end of one trial may prune others that are paused.
            over = ({ended} | (self._needed[0] | self._needed[1]) - with_weights) - unfinished
            removal = self._removing.submit(keep_only, files, unfinished, with_weights, self._remote, among=over)
            removal.add_done_callback(_log_failure)
        self._needed = unfinished, with_weights

    def _lose(self, worker: str, lost: WorkerLost) -> None:
        """End the attempts of a lost worker; a trial is charged with its death if no other was training with it.

        None is charged if the machine is gone, or while trials are paused: the worker then exceeded the grace period.
        """
        held = self._held.pop(worker, _Held())
        # A worker that dies before it reports a start has started the first of its assignments.
        training = held.training.keys() or set(list(held.waiting)[:1])
        is_innocent = lost.cause is LossCause.MACHINE or self._pausing_since is not None
        if len(training) > 1 and not is_innocent:
            # Each is trained alone next time, to find the one that kills the process.
            self._coordinator.faults.alone.update(training)
        charged = training if len(training) == 1 and not is_innocent else ()
        for outcome in self._cut(held, lost.reason, charged):
            self._finish(outcome)

    def _leave_out_quarantined(self) -> None:
        """Quarantine workers on which several trials failed; their trials are retried elsewhere, uncharged."""
        for worker, reason in self._coordinator.faults.quarantined.items():
            if worker in self._left_out:
                continue
            self._left_out.add(worker)
            self._pool.discard(worker)
            self._callback.left_out(worker, reason)
            held = self._held.pop(worker, _Held())
            for outcome in self._cut(held, "Its worker was left out."):
                self._coordinator.finish(outcome)
            # Trials that failed on all other workers may be retried on those.
            self._look_again()
        self._failure = self._failure or self._coordinator.faults.abort_reason()

    def _cut(self, held: _Held, reason: str, charged: Collection[int] = ()) -> Iterator[Outcome]:
        """Yield the ends of attempts that their worker cannot report, with the seconds since their starts."""
        yield from held.out_of_memory
        for trial, assignment in held.all.items():
            seconds = self._clock() - held.began_at[trial] if trial in held.training else 0.0
            yield assignment.ended(Ending.DIED if trial in charged else Ending.PAUSED, reason, max(0.0, seconds))


def _log_failure(removal: Future[None]) -> None:
    """Log an error of a removal, which costs only disk space."""
    if (error := removal.exception()) is not None:
        logger.error("Files of a finished trial were not removed.", exc_info=error)
