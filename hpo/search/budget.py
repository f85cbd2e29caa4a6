"""Search budget: number of trials, deadline, device hours, and patience without improvement."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from hpo.config.study_file import BudgetConfig
from hpo.config.times import humanized, parse_duration, parse_moment
from hpo.errors import ConfigurationError
from hpo.messages import Ending, Outcome

TRIALS_OF_A_SEARCH = 4
"""Trials for which the suggested time of a run without a result suffices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one run of a search; None for no limit."""

    begun: float
    """Start of the run, or of the interrupted one that it resumes, in seconds since 1970."""
    trials: int | None
    """Trials of the study in total."""
    deadline: float | None
    """Time by which the run must have ended, in seconds since 1970."""
    device_seconds: float | None
    """Seconds of training and evaluation, summed over trials and earlier runs: device hours divided by a trial's
    devices."""
    trial_seconds: float | None
    """Seconds of one trial."""
    patience: int | None
    """Finished trials without an improvement after which the search ends."""


def limits_of(budget: BudgetConfig, now: datetime, devices: float = 1.0) -> Limits:
    """Return the limits of a run that starts at `now`, with the earlier of two deadlines.

    Args:
        budget: from the study file.
        now: with the time zone that `budget.until` is in, such as `hpo.config.times.LOCAL_ZONE`.
        devices: of one trial.

    Raises:
        ConfigurationError: `budget.until` is in the past.
    """
    deadlines = []
    if budget.time is not None:
        deadlines.append(now.timestamp() + parse_duration(budget.time))
    if budget.until is not None:
        deadlines.append(_timestamp_of(budget.until, now))
    return Limits(
        begun=now.timestamp(),
        trials=budget.most_trials,
        deadline=min(deadlines, default=None),
        device_seconds=None if budget.gpu_hours is None else 3600 * budget.gpu_hours / devices,
        trial_seconds=None if budget.trial_time is None else parse_duration(budget.trial_time),
        patience=budget.patience,
    )


def seconds_left(limits: Limits, *, now: float, reserve: float, spent: float, committed: float) -> float:
    """Return the most seconds that a trial started at `now` may take: infinite without limits, never below 0.

    The limit of a single trial is not included: a trial that exceeds it is pruned, not deferred.

    Args:
        limits: those of the run.
        now: seconds since 1970.
        reserve: seconds before the deadline that are reserved for what follows the last trial.
        spent: device seconds of all trials so far, including earlier runs.
        committed: device seconds that running trials will still take.
    """
    of_time = math.inf if limits.deadline is None else limits.deadline - reserve - now
    of_devices = math.inf if limits.device_seconds is None else limits.device_seconds - spent - committed
    return max(0.0, min(of_time, of_devices))


def resumed_limits(limits: Limits, budget: BudgetConfig, cut: Mapping[str, Any], now: float) -> Limits:
    """Return the limits of a run that resumes an interrupted one: with its deadline, if its time is the same.

    A time of day is not carried over, because it is the same at every start.

    Args:
        limits: of the run that starts.
        budget: the budget from which they were computed.
        cut: `begun`, `deadline`, `time` and `until` of the interrupted run.
        now: seconds since 1970.
    """
    alike = budget.time is not None and (cut["time"], cut.get("until")) == (budget.time, budget.until)
    if not alike or not cut["deadline"] or cut["deadline"] <= now:
        return limits
    deadline = min(cut["deadline"], limits.deadline or math.inf)
    return replace(limits, deadline=deadline, begun=cut.get("begun", limits.begun))


def has_stalled(bests: Sequence[float | None], noise: float, patience: int) -> bool:
    """Return true if none of the last `patience` trials improved the best score before them by more than `noise`.

    Args:
        bests: the best score after each finished trial, in the order in which they ended; None until there was one.
        noise: difference between the scores of equal trials; 0 or more.
        patience: number of trials without improvement; at least 1. With no more finished trials, the result is false.
    """
    if len(bests) <= patience:
        return False
    before, now = bests[-patience - 1], bests[-1]
    if before is None or now is None:
        return now is None
    return now <= before + noise


def budget_warning(
    limits: Limits,
    now: float,
    cheapest_seconds: float,
    reserve: float,
    *,
    share_of_devices: float = 1.0,
    devices: float = 1.0,
) -> str | None:
    """Return a warning if, by a forecast from a few steps, not even the cheapest trial fits, else None.

    Args:
        limits: those of the run.
        now: seconds since 1970.
        cheapest_seconds: time of the shortest trial of the space.
        reserve: seconds before the deadline that are reserved for what follows the last trial.
        share_of_devices: share of the requested device hours that `limits` has; the rest is for the confirmation.
        devices: of one trial.
    """
    takes = f"the shortest trial of this space seems to take about {humanized(cheapest_seconds)} here"
    ending = f", and what follows the last one {humanized(reserve)}" if reserve >= 1 else ""
    if limits.deadline is not None and (missing := now + cheapest_seconds + reserve - limits.deadline) > 0:
        left, more = max(0.0, limits.deadline - now), 60 * math.ceil(missing / 60)
        return f"The search may take {humanized(left)}, but {takes}{ending}; give it {humanized(more)} more."
    minutes = math.ceil(cheapest_seconds / 60)
    hours = math.ceil(devices * cheapest_seconds / share_of_devices / 36) / 100
    for key, limit, enough in (
        ("gpu_hours", limits.device_seconds, f"{hours:g}"),
        ("trial_time", limits.trial_seconds, f"{minutes}m"),
    ):
        if limit is not None and limit < cheapest_seconds:
            taken_off = ", a confirmation's share taken off" if key == "gpu_hours" and share_of_devices < 1 else ""
            return f"budget.{key} allows {humanized(limit)} of training{taken_off}, but {takes}; give {enough} or more."
    return None


def needed_budget(budget: BudgetConfig, trial_seconds: float, beside: float, devices: float = 1.0) -> str:
    """Return the time of a trial and a sufficient budget, for a search in which no trial has completed.

    Args:
        budget: from the study file.
        trial_seconds: time of a trial from its start to its end.
        beside: seconds of a run in which no trial trains.
        devices: of one trial.
    """
    seconds = TRIALS_OF_A_SEARCH * trial_seconds
    minutes = math.ceil((seconds + beside) / 60)
    if budget.time is not None:
        # The given time did not suffice, whatever the forecast says.
        enough = f"--for {max(minutes, math.ceil(1.5 * parse_duration(budget.time) / 60))}m"
    elif budget.until is not None:
        enough = f"--until a time at least {humanized(60 * minutes)} away"
    else:
        enough = f"--gpu-hours {max(math.ceil(devices * seconds / 36) / 100, 1.5 * (budget.gpu_hours or 0.0)):.3g}"
    return (
        f"No trial has completed: a trial takes about {humanized(trial_seconds)} here; give {enough}, or lower epochs "
        "or max_length. The same command resumes what has begun."
    )


def _timestamp_of(until: str, now: datetime) -> float:
    try:
        return parse_moment(until, now).timestamp()
    except ValueError as error:
        raise ConfigurationError(f"budget.until: {error}") from None


@dataclass(slots=True)
class Overtime:
    """Trials started although they may not end in time: the time at which each is paused, and notes on them."""

    until: dict[int, float] = field(default_factory=dict)
    """Trial -> time at which its remaining time and device hours are over, in seconds since 1970."""
    _notes: dict[str, None] = field(default_factory=dict)

    def begun(self, trial: int, *, expected: float, left: float, at: float) -> None:
        """Note the start of a trial, once however often it is paused and resumed.

        Args:
            trial: its number.
            expected: forecast seconds.
            left: seconds that it may take.
            at: start, in seconds since 1970.
        """
        if expected <= left:
            return
        if trial not in self.until:
            self._notes[
                f"Trial {trial} may not end in time: it is expected to take {humanized(expected)}, and "
                f"{humanized(left)} are left. It begins all the same, since none has completed yet; if time runs out "
                "it is paused, and the next run resumes it."
            ] = None
        self.until[trial] = at + left

    def ended(self, outcome: Outcome) -> None:
        """Note that an attempt has ended; if it was paused, the time of the others is over too."""
        if outcome.ending is not Ending.PAUSED:
            self.until.pop(outcome.trial, None)

    def pop_notes(self) -> Sequence[str]:
        """Return the notes since the last call."""
        notes, self._notes = tuple(self._notes), {}
        return notes


def noise_floor(default_scores: Sequence[float]) -> float:
    """Return the difference of the default's scores on two seeds; 0 if it was not trained on two."""
    return max(default_scores) - min(default_scores) if len(default_scores) > 1 else 0.0
