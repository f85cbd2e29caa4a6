"""Confirmation: the best configurations and the default are trained again on fresh seeds, and baselines evaluated."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits
from hpo.errors import TrainingError
from hpo.files.remote import RemoteFiles
from hpo.runners.callbacks import SearchCallback
from hpo.runners.dispatch import Dispatch
from hpo.runners.worker_pool import WorkerPool
from hpo.search.budget import Limits, budget_warning
from hpo.search.confirmation_runs import ConfirmationRuns, Entrant
from hpo.search.coordinator import Coordinator
from hpo.search.study_opening import leading
from hpo.space.search_space import SearchSpace
from hpo.store.results import StudyResults
from hpo.store.studies import confirmation_of
from hpo.tasks.registry import TASKS
from hpo.training.context import CONFIRMATION
from hpo.verdict.sequential_halving import Race, most_runs

MARGIN = 1.2
OPENING_SECONDS = 3.0
"""Seconds from the outcome of the last trial to the start of the first run."""
LEAST_ROUNDS = 2
"""Number of trials that must fit, one after the other, into the confirmation's share of the time for it to be reserved.
"""


@dataclass(frozen=True, slots=True)
class SearchParts:
    """The parts that a search and its confirmation share."""

    config: StudyConfig
    space: SearchSpace
    splits: Splits
    pool: WorkerPool
    remote: RemoteFiles
    callback: SearchCallback
    stop: Event
    files: Path
    """The local folder of the study's weights and checkpoints."""

    def dispatch(self, coordinator: Coordinator, files: Path) -> None:
        """Train the assignments of a coordinator until it has none; weights and checkpoints are in `files`."""
        Dispatch(
            coordinator,
            self.pool,
            self.callback,
            self.stop,
            compute=self.config.compute,
            files=files,
            remote=self.remote,
        ).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """The race between the best of one search, on its workers."""

    parts: SearchParts
    results: StudyResults
    race: Race

    @property
    def folder(self) -> Path:
        """Folder of the weights and checkpoints of its runs."""
        return self.parts.files / CONFIRMATION

    def led(self, limits: Limits) -> AbstractContextManager[Coordinator]:
        """Lead the study of the runs; see `leading`."""
        config, splits = self.parts.config, self.parts.splits
        unseen = splits.confirmation is not None
        return leading(
            confirming_config(config),
            self.parts.space,
            data_fingerprint=splits.fingerprint,
            limits=limits,
            proposes=partial(
                ConfirmationRuns, search=config.study, race=self.race, entrants=self._entrants(), unseen=unseen
            ),
            stop=self.parts.stop,
        )

    def run(self, search: Coordinator, led: Coordinator, versions: Mapping[str, str], reserve: float) -> None:
        """Race until it is over, or its time is.

        Args:
            search: of the study that is confirmed.
            led: of the study of the runs.
            versions: package -> version.
            reserve: seconds before the deadline that are reserved for what follows.
        """
        lead = self.parts.pool.lead
        led.begin(metric=lead.metric.name, versions=versions)
        led.expect(search.forecasts.costs.confirming(), reserve)
        is_stopped(search, self.parts.stop)
        runs, standing = self.race.runs + self._runs_of_others(), led.standing()
        self.parts.callback.started(led.study, lead.metric.name, runs, standing)
        if standing.finished >= runs:
            self.parts.callback.note(self._more_runs())
        self.parts.dispatch(led, self.folder)
        led.end("stopped" if self.parts.stop.is_set() else led.ended_because or "finished")

    def evaluate_baselines(self, search: Coordinator, until: float) -> None:
        """Train and evaluate the baselines that the store lacks; start none after `until`, in seconds since 1970."""
        max_length = self.parts.space.hyperparameters(self.parts.space.default_values()).max_length
        for name in TASKS[self.parts.config.task.kind].baselines:
            if name not in self.results.baselines and not is_stopped(search, self.parts.stop) and time.time() < until:
                try:
                    held_out = self.parts.pool.lead.baseline(name, max_length)
                except TrainingError as error:
                    # The verdict on the confirmed runs does not need the baseline.
                    self.parts.callback.note(f"The verdict goes without a baseline. {error}")
                    continue
                search.record_baseline(name, held_out)

    def _more_runs(self) -> str:
        """Return how to get more runs: a larger `runs`, or if all seeds are used, larger `runs` and `seeds`."""
        more = f"confirmation.runs=N, N above {self.race.runs}"
        if self.race.runs < most_runs(len(self.race.finalists), self.race.seeds):
            return f"For more, add {more}."
        return f"For more, add confirmation.seeds=N, N above {self.race.seeds}, and {more}."

    def _runs_of_others(self) -> int:
        """Return the number of runs of trials that are no longer among the best of the search."""
        confirmed = [run.confirms for run in self.results.confirmation]
        failed = [run.confirms for run in self.results.failed_runs]
        return sum(trial not in self.race.entrants for trial in confirmed + failed)

    def _entrants(self) -> dict[int, Entrant]:
        trials = {trial.number: trial for trial in self.results.trials}
        return {
            number: Entrant(
                parameters=trials[number].parameters, hyperparameters=Hyperparameters(**trials[number].configuration)
            )
            for number in self.race.entrants
        }


def is_stopped(search: Coordinator, stop: Event) -> bool:
    """Return true if a search is to end, by a signal or by `hpo stop`, which is checked here while no dispatch runs."""
    if search.stop_requests().stop:
        stop.set()
    return stop.is_set()


def confirming_config(config: StudyConfig) -> StudyConfig:
    """Return the study of a confirmation's runs."""
    search = config.search.model_copy(update={"sampler": "random", "pruner": "none"})
    # Without `time`: it ends with the search, whose deadline stays the same in a later run.
    budget = config.budget.model_copy(update={"trials": None, "time": None, "patience": None})
    beside: dict[str, Any] = {"study": confirmation_of(config.study), "notify": (), "warm_start": ()}
    return config.model_copy(update={**beside, "search": search, "budget": budget})


def searching_limits(config: StudyConfig, limits: Limits) -> Limits:
    """Return the limits of a search that leaves a confirmation its share of the device hours."""
    if limits.device_seconds is None:
        return limits
    return replace(limits, device_seconds=searching_share(config) * limits.device_seconds)


def searching_share(config: StudyConfig) -> float:
    """Return the share, 0..1, of the device hours that is for the search."""
    return 1 - config.confirmation.share if config.confirmation.finalists else 1.0


def short_time_warning(config: StudyConfig, limits: Limits, now: float, shortest: float, reserve: float) -> str | None:
    """Return a warning if not even the shortest trial fits into the limits of a search; see `budget_warning`."""
    share, devices = searching_share(config), config.compute.devices_of_trial
    return budget_warning(limits, now, shortest, reserve, share_of_devices=share, devices=devices)


def confirming_limits(config: StudyConfig, limits: Limits, spent: float) -> Limits:
    """Return the limits of a confirmation, after its search has used that many device seconds."""
    hours = config.budget.gpu_hours
    left = None if hours is None else max(0.0, 3600 * hours / config.compute.devices_of_trial - spent)
    return replace(limits, trials=None, patience=None, trial_seconds=None, device_seconds=left)


def confirming_seconds(
    config: StudyConfig, limits: Limits, trial_seconds: float, baseline_seconds: float, workers: int
) -> float:
    """Return the seconds that a search reserves for its confirmation: what it needs, at most its share of the time.

    Args:
        config: the study.
        limits: of the search.
        trial_seconds: of a long trial.
        baseline_seconds: of all baselines.
        workers: number of parallel workers.

    Returns:
        0 if nothing is confirmed, there is no deadline, or the search needs all of the time.
    """
    asked = config.confirmation
    if limits.deadline is None or not asked.finalists:
        return 0.0
    rounds = -(-most_runs(asked.finalists, asked.seeds) // max(1, workers))
    share = asked.share * (limits.deadline - limits.begun)
    least = LEAST_ROUNDS * trial_seconds
    return 0.0 if share < least else min(share, MARGIN * rounds * trial_seconds + baseline_seconds + OPENING_SECONDS)
