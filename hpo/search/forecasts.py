"""Time forecasts: the seconds that a trial takes to each of its evaluations, before it begins and while it trains.

The work of a trial is counted from the data: tokens through the model, updates by the optimizer, tokens scored,
openings. The cost of one unit of each is fitted to a few real steps. The deviation of trials from that is learned from
those that ran: a Gaussian process (Rasmussen and Williams 2006, chapter 2) over the logarithm of observed over computed
seconds. Its covariance is the sum of a part common to all trials, one per kind of trial, one for the recent speed of
the machine, and one per trial. Its scale follows the observed spread.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.optimize import nnls

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.memory import MemoryKey, memory_key
from hpo.messages import Outcome, Probe, Progress, Report
from hpo.search.trial_sizes import FORWARD, Floats, Work, Workload
from hpo.space.search_space import SearchSpace
from hpo.store.trials import AttemptRecord, Reached

PRIOR_UPDATE_SHARE, PRIOR_UPDATE_WEIGHT = 0.1, 0.3
"""Assumed share of the update in a step if probes do not determine it, and the weight of that assumption."""
MAX_OBSERVATIONS = 64
"""Number of most recent segments of training that are kept."""
SHORTEST_SEGMENT = 0.25
"""Shortest segment, as a share of its trial. It ends with an evaluation, so that each has its part of them."""
LONGEST_SEGMENT = 0.5
"""Longest segment: it ends without an evaluation."""
LEAST_DONE = 0.05
"""Share of a trial after which its speed is used, because its first steps are slow."""
IN_COMMON, OF_KIND, OF_MACHINE, OF_TRIAL, OF_SEGMENT = 0.7, 0.25, 0.4, 0.08, 0.08
"""Prior standard deviations of the logarithm of observed over computed seconds; the observed spread scales them."""
SPEED_CORRELATION = 10.0
"""Correlation length of the machine's speed, in segments: after it the covariance falls to 1/e."""
PRIOR_SEGMENTS = 12
"""Weight of the prior standard deviations, in observed segments."""
OUTLYING = 0.3
"""Largest factor between a segment and the median of it and its neighbours; beyond it, the machine was suspended."""
LEAST = 1e-9
"""Shortest time, in seconds, of any forecast."""
NOTHING = np.zeros(4)
"""Work before a trial starts, as an array of `Work`."""
HIGH = 0.84
"""Number of standard deviations above the median that one trial in five exceeds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """The seconds of a segment of a trial, or of a step of a probe."""

    trial: int | None
    """None for a probe, and for a trial of another study."""
    kind: tuple[float, ...]
    """Kind of trial, as in `Work`."""
    done: Floats
    """Work done in it, as an array of `Work`."""
    share: float
    """Start and end as shares of its trial, in 0..1."""
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class CostModel:
    """The cost of trials on a study's devices: seconds of each kind of work, corrected by observations."""

    workload: Workload
    unit_seconds: Floats = field(default_factory=lambda: np.array([1.0, 0.0, FORWARD, 0.0]))
    """Seconds of one unit of each kind of `Work`, shape (4,); without probes, only their proportions are meaningful."""
    probes: tuple[Observation, ...] = ()
    observations: tuple[Observation, ...] = ()
    """Segments of trials, the newest last."""

    def seconds(self, work: Work, done: Floats, trial: int | None = None, above: float = 0.0) -> float | None:
        """Return the seconds that this much work of a trial takes from now on; None if unknown.

        Args:
            work: of the whole trial.
            done: work done so far.
            trial: its number, for its own observations.
            above: standard deviations above the median.
        """
        if not (self.probes or self.observations):
            return None
        known, inverse, weights, scale, mean = self._posterior
        shared = _covariance(known, _rows([(work.kind, trial)], begins=len(known)))[:, 0]
        alone = IN_COMMON**2 + OF_KIND**2 + OF_MACHINE**2 + OF_TRIAL**2 + OF_SEGMENT**2 * SHORTEST_SEGMENT
        deviation = math.sqrt(scale * max(0.0, alone - float(shared @ inverse @ shared)))
        return float(done @ self.unit_seconds) * math.exp(mean + float(shared @ weights) + above * deviation)

    def trial_seconds(self, hyperparameters: Hyperparameters, above: float = 0.0) -> float | None:
        """Return the seconds of a whole trial; None if unknown."""
        work = self.workload.of(hyperparameters)
        return self.seconds(work, work.total, above=above)

    def share(self, work: Work, done: Floats) -> float:
        """Return the share, 0..1, of a trial's seconds that this much of its work takes."""
        return float(done @ self.unit_seconds) / (float(work.total @ self.unit_seconds) or 1.0)

    def with_observation(self, segment: Observation, *, continues: bool) -> "CostModel":
        """Return the costs with a segment added, or in place of the last segment of its trial."""
        newest = max((n for n, one in enumerate(self.observations) if one.trial == segment.trial), default=None)
        others = [one for n, one in enumerate(self.observations) if not (continues and n == newest)]
        return replace(self, observations=(*others, segment)[-MAX_OBSERVATIONS:])

    def confirming(self) -> "CostModel":
        """Return the costs of a confirmation's runs, after a search."""
        others = tuple(replace(one, trial=None) for one in self.observations)
        return replace(self, observations=others, workload=replace(self.workload, confirms=True))

    @cached_property
    def _posterior(self) -> tuple[Floats, Floats, Floats, float, float]:
        """Return observed rows, their inverse covariance, residual weights, scale of the spread, and mean."""
        known = (*self.probes, *self.observations)
        ratios = np.log([max(one.seconds, LEAST) / max(float(one.done @ self.unit_seconds), LEAST) for one in known])
        # Without probes, the cost of a unit of work comes from trials alone.
        mean = 0.0 if self.probes else float(np.median(ratios))
        if len(self.observations) >= 3:
            trials = ratios[len(self.probes) :]
            medians = np.pad(np.median([trials[:-2], trials[1:-1], trials[2:]], axis=0), 1, mode="edge")
            trials[:] = np.clip(trials, medians - OUTLYING, medians + OUTLYING)
        residuals = ratios - mean
        rows = _rows([(one.kind, one.trial) for one in known])
        noise = [OF_SEGMENT**2 * SHORTEST_SEGMENT / max(one.share, SHORTEST_SEGMENT / 10) for one in known]
        inverse = np.linalg.inv(_covariance(rows, rows) + np.diag(noise)).astype(np.float64)
        weights: Floats = inverse @ residuals
        scale = (PRIOR_SEGMENTS + float(residuals @ weights)) / (PRIOR_SEGMENTS + len(known))
        return rows, inverse, weights, scale, mean


def fitted_costs(workload: Workload, probes: Mapping[Hyperparameters, Probe]) -> CostModel:
    """Return the costs of trials, estimated from the steps of the probes that fit into memory.

    Seconds of a unit of work are fitted by least squares of relative errors, none below 0 (Lawson and Hanson 1974).
    """
    rows, wanted, steps = list[Floats](), list[float](), list[Observation]()
    for hyperparameters, probe in probes.items():
        counts, kind = workload.counts_for(hyperparameters), workload.of(hyperparameters).kind
        for timed in probe.timed:
            done = counts * (timed.trained_tokens, timed.updates, timed.scored_tokens, timed.openings)
            rows.append(done / timed.seconds)
            wanted.append(1.0)
            if timed.updates:
                rows += [PRIOR_UPDATE_WEIGHT * rows[-1] * (1, 0, 0, 0), PRIOR_UPDATE_WEIGHT * rows[-1] * (0, 1, 0, 0)]
                wanted += [PRIOR_UPDATE_WEIGHT * (1 - PRIOR_UPDATE_SHARE), PRIOR_UPDATE_WEIGHT * PRIOR_UPDATE_SHARE]
                steps.append(Observation(trial=None, kind=kind, done=done, share=0.0, seconds=timed.seconds))
    if not rows:
        return CostModel(workload=workload)
    scales = np.linalg.norm(rows, axis=0) + np.finfo(float).tiny
    unit, _ = nnls(np.array(rows) / scales, np.array(wanted))
    return CostModel(workload=workload, unit_seconds=unit / scales, probes=tuple(steps))


def _rows(segments: Iterable[tuple[tuple[float, ...], int | None]], begins: int = 0) -> Floats:
    """Return for each segment a row (kind, time, trial), with nan if it has no trial."""
    return np.array(
        [[*kind, time, math.nan if trial is None else trial] for time, (kind, trial) in enumerate(segments, begins)]
    )


def _covariance(some: Floats, others: Floats) -> Floats:
    """Return the covariance of segments, in the form of `_rows`; shape (some, others)."""
    apart = np.abs(some[:, None, :] - others[None, :, :])
    covariance: Floats = (
        IN_COMMON**2
        + OF_KIND**2 * np.exp(-apart[..., :-2].sum(axis=-1))
        + OF_MACHINE**2 * np.exp(-apart[..., -2] / SPEED_CORRELATION)
        + OF_TRIAL**2 * (apart[..., -1] == 0)
    )
    return covariance


@dataclass(slots=True)
class _Pace:
    """Progress and time of a trial."""

    hyperparameters: Hyperparameters
    attempt: int
    """The newest attempt."""
    seconds_before: float = 0.0
    """Seconds of earlier attempts."""
    share: float = 0.0
    """Share of its steps at its last report."""
    seconds: float = 0.0
    """Seconds until that report."""
    since: tuple[Floats, float] | None = None
    """Work and seconds at the start of its current segment; None until an attempt that may resume has reported."""
    continues: bool = False
    """True if the next observation replaces that segment."""
    left: float | None = None
    """Upper estimate of its remaining seconds; None if not computed since its last report."""


@dataclass(slots=True)
class Forecasts:
    """Forecasts of a search: the seconds that its trials take, and the micro-batch size that memory allows.

    Learned from the store at the start, then from each report, so that a proposal need not read everything.
    """

    config: StudyConfig
    space: SearchSpace
    costs: CostModel = field(init=False)
    _trials: dict[int, _Pace] = field(default_factory=dict)
    _rows: dict[MemoryKey, int] = field(default_factory=dict)
    _states_known: set[tuple[int, int]] = field(default_factory=set)
    """`states` of the work of trials that have made some progress."""

    def __post_init__(self) -> None:
        self.costs = CostModel(workload=Workload(config=self.config, space=self.space))

    def learn(self, reached: Iterable[Reached], short_of_memory: Iterable[AttemptRecord]) -> None:
        """Fit the costs to the trials that earlier runs have stored."""
        for one in reached:
            trial = _Pace(Hyperparameters(**one.configuration), attempt=0, seconds=one.seconds)
            self._trials[one.trial] = trial
            trial.share = self._work(one.trial).share_at(one.rung)
        for record in short_of_memory:
            if record.micro_batch_size is not None:
                self._lower(Hyperparameters(**record.configuration), record.micro_batch_size)
        self.expect(self.costs)

    def expect(self, costs: CostModel) -> None:
        """Replace the costs, for example by those of a probe, corrected by the trials so far."""
        self.costs = costs
        for number, trial in list(self._trials.items())[-MAX_OBSERVATIONS:]:
            if trial.share:
                trial.since, trial.continues = (NOTHING, 0.0), True
                self._record_progress(number, trial.share, trial.seconds)

    def begun(self, number: int, attempt: int, hyperparameters: Hyperparameters) -> None:
        """Record the start of an attempt; a repeated call has no effect."""
        known = self._trials.get(number) or _Pace(hyperparameters, attempt=0)
        if known.attempt != attempt:
            self._trials[number] = replace(
                known, attempt=attempt, seconds_before=known.seconds, continues=False, left=None,
                since=(NOTHING - self._states_work(hyperparameters), 0.0) if attempt == 1 else None,
            )  # fmt: skip

    def reported(self, report: Report) -> None:
        """Record the progress of a trial from its report."""
        if report.trial in self._trials:
            share = self._work(report.trial).share_at(report.rung)
            self._record_progress(report.trial, share, report.seconds, evaluated=True)

    def progressed(self, progress: Progress) -> bool:
        """Record the progress of a trial between reports; return whether it changes the forecast."""
        share = progress.examples_seen / max(1, progress.examples_total)
        trial = self._trials.get(progress.trial)
        tells = trial is not None and abs(share - trial.share) >= LEAST_DONE
        if tells:
            self._record_progress(progress.trial, share, progress.seconds)
        return tells

    def ended(self, outcome: Outcome) -> None:
        """Record the micro-batch size of an attempt that ended."""
        trial = self._trials.get(outcome.trial)
        if outcome.micro_batch_size is not None and trial is not None:
            self._lower(trial.hyperparameters, outcome.micro_batch_size)

    def micro_batch_size(self, hyperparameters: Hyperparameters) -> int | None:
        """Return the micro-batch size that memory allows; None for whole batches."""
        return self._rows.get(memory_key(hyperparameters))

    def seconds(self, hyperparameters: Hyperparameters) -> float | None:
        """Return an upper estimate of the seconds of a whole trial; None if unknown."""
        work = self.costs.workload.of(hyperparameters)
        return self.costs.seconds(work, work.total + self._states_work(hyperparameters), above=HIGH)

    def seconds_left(self, number: int, hyperparameters: Hyperparameters) -> float:
        """Return an upper estimate of a trial's remaining seconds; 0 if unknown."""
        work = self.costs.workload.of(hyperparameters)
        return self.costs.seconds(work, work.total - self._done(number, hyperparameters), number, HIGH) or 0.0

    def fits(self, number: int, hyperparameters: Hyperparameters, seconds: float) -> bool:
        """Return true if a trial is forecast to end within that many seconds."""
        return math.isinf(seconds) or self.seconds_left(number, hyperparameters) <= seconds

    def seconds_of_attempt(self, number: int, *, ends_now: bool = False) -> float:
        """Return the forecast total seconds of a trial's running attempt: those so far and those remaining.

        0 if nothing is known. The store counts an attempt's seconds once it is over.

        Args:
            number: of the trial.
            ends_now: True if the attempt has no seconds remaining.
        """
        if (trial := self._trials.get(number)) is None:
            return 0.0
        if trial.left is None:
            trial.left = self.seconds_left(number, trial.hyperparameters)
        taken = trial.seconds - trial.seconds_before
        # An attempt that restarted counts only its own seconds, at first fewer than those of earlier attempts.
        return (taken if taken >= 0 else trial.seconds) + (0.0 if ends_now else trial.left)

    def seconds_to_rungs(self, number: int) -> Mapping[int, float]:
        """Return rung -> seconds until a running trial reaches it; empty if unknown."""
        trial, work, unit = self._trials[number], self._work(number), self.costs.unit_seconds
        done = self._done(number, trial.hyperparameters)
        left = self.costs.seconds(work, work.total - done, number)
        if left is None:
            return {}
        each = left / max(float((work.total - done) @ unit), LEAST)
        ahead = zip(work.rungs, work.shares, strict=True)
        return {rung: each * float((work.done_at(share) - done) @ unit) for rung, share in ahead if share > trial.share}

    def _record_progress(self, number: int, share: float, seconds: float, *, evaluated: bool = False) -> None:
        trial = self._trials[number]
        work = self._work(number)
        self._states_known.add(work.states)
        done = work.done_at(share)
        if trial.since is None or share < trial.share or seconds <= trial.since[1]:
            trial.since, trial.continues = (done, seconds), False
        else:
            work_done, taken = done - trial.since[0], seconds - trial.since[1]
            share_of_trial = self.costs.share(work, work_done)
            segment = Observation(trial=number, kind=work.kind, done=work_done, share=share_of_trial, seconds=taken)
            self.costs = self.costs.with_observation(segment, continues=trial.continues)
            trial.continues = segment.share < (SHORTEST_SEGMENT if evaluated else LONGEST_SEGMENT)
            if not trial.continues:
                trial.since = (done, seconds)
        trial.share, trial.seconds, trial.left = share, seconds, None

    def _work(self, number: int) -> Work:
        return self.costs.workload.of(self._trials[number].hyperparameters)

    def _done(self, number: int, hyperparameters: Hyperparameters) -> Floats:
        """Return the work done in a trial so far; below 0 for the first of a kind, also before it starts."""
        share = self._trials[number].share if number in self._trials else 0.0
        return self._work(number).done_at(share) if share else NOTHING - self._states_work(hyperparameters)

    def _states_work(self, hyperparameters: Hyperparameters) -> Floats:
        """Return the work of computing the outputs of frozen layers, if no trial has computed them yet."""
        work = self.costs.workload.of(hyperparameters)
        return NOTHING if work.states in self._states_known else work.states_work

    def _lower(self, hyperparameters: Hyperparameters, rows: int) -> None:
        key = memory_key(hyperparameters)
        self._rows[key] = min(rows, self._rows.get(key, rows))
