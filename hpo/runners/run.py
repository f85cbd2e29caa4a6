"""Search run: a whole search, from a study's configuration to its results, by `hpo run` and by `hpo.run` in Python."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Event

from hpo.config.study_file import StudyConfig
from hpo.config.times import LOCAL_ZONE, humanized
from hpo.data.splits import Splits, splits_of
from hpo.errors import ConfigurationError, HpoError, StoreError, StoreUnavailableError, nearest
from hpo.files.checkpoints import keep_only
from hpo.files.remote import open_remote_files
from hpo.messages import SEMANTICS, SEMANTICS_KEY, Assignment, Report
from hpo.runners.callbacks import SearchCallback
from hpo.runners.check.search_forecast import ShortCheck, short_check
from hpo.runners.check.warnings import on_cut_texts, on_idle_words, on_rare_classes
from hpo.runners.confirmation import (
    Confirmation,
    SearchParts,
    confirming_limits,
    confirming_seconds,
    is_stopped,
    searching_limits,
    short_time_warning,
)
from hpo.runners.final_evaluation import FinalEvaluation
from hpo.runners.gpu_sharing import with_shared_gpus
from hpo.runners.inline import open_inline
from hpo.runners.measuring import at_most, measured_settings, measuring_seconds
from hpo.runners.processes.launcher import open_processes
from hpo.runners.processes.worker_specs import runner_of
from hpo.runners.ray.setup import open_ray_tune
from hpo.runners.start_checks import refuse_at_start
from hpo.runners.worker_pool import WorkerPool
from hpo.search.budget import limits_of, needed_budget
from hpo.search.coordinator import Coordinator
from hpo.search.grid_sampler import ENUMERATIONS
from hpo.search.preflight import (
    demands_of,
    refuse_counts,
    refuse_no_study,
    search_notes,
    space_of_study,
)
from hpo.search.pruners import with_evaluation_defaults
from hpo.search.samplers import sampler_of
from hpo.search.study_opening import leading
from hpo.space.search_space import SearchSpace
from hpo.store.database import open_database, sqlite_path
from hpo.store.results import StudyResults, read_results
from hpo.store.studies import confirmation_of, recorded_configuration, study_names
from hpo.store.study_store import refuse_other_semantics
from hpo.training.device import unseen_gpu_warning, with_dtype
from hpo.training.worker import Worker
from hpo.verdict.gain import scored
from hpo.verdict.judgement import verdict_on
from hpo.verdict.sequential_halving import Race, race_of

PoolOpener = Callable[[StudyConfig, Splits, Path, Callable[[], bool]], AbstractContextManager[WorkerPool]]
OPENERS: Mapping[str, PoolOpener] = {
    "inline": open_inline,
    "processes": open_processes,
    "ray_tune": open_ray_tune,
}
MOST_RESERVED = 0.5
"""Largest share of a run's time that is reserved for the confirmation and test evaluation."""
RECORDED_PACKAGES = ("llm-hpo", "optuna", "torch", "transformers", "tokenizers", "scikit-learn", "numpy", "sqlalchemy")


def run(
    config: StudyConfig, callback: SearchCallback | None = None, stop: Event | None = None, *, searches: bool = True
) -> StudyResults:
    """Search until the study's budget is spent, confirm the best, and score the recommended one on the test split once.

    A study that is already in the store is resumed.

    Args:
        config: the study.
        callback: receives every event as it happens.
        stop: event that ends the search when set: running trials are paused, and the next run resumes them.
        searches: True to train new trials; otherwise only the existing ones are confirmed.

    Returns:
        The results of the study so far.

    Raises:
        HpoError: with one sentence, as listed in `hpo.errors`; nothing that was stored is lost.
    """
    refuse_no_study("hpo.run", config)
    refuse_at_start(config)
    return run_checked(config, callback or SearchCallback(), stop or Event(), searches=searches)


def run_checked(config: StudyConfig, callback: SearchCallback, stop: Event, *, searches: bool) -> StudyResults:
    """Do as `run`, for a study that has passed the start checks."""
    if not searches:
        _refuse_unsearched(config)
    files = files_folder(config)
    remote = open_remote_files(config, files)
    space, splits = prepared(config, callback)
    if gpu := unseen_gpu_warning(config.compute):
        callback.note(gpu)
    config = _as_begun(with_dtype(config, space))
    if searches:
        config = with_evaluation_defaults(config, space, splits)
    config = with_shared_gpus(config, space, splits, callback, stop.is_set)
    callback.note(opening_note(config))
    # By the same clock as the deadline.
    now = datetime.fromtimestamp(time.time(), LOCAL_ZONE)
    limits = searching_limits(config, limits_of(config.budget, now, config.compute.devices_of_trial))
    with (
        leading(
            config, space, data_fingerprint=splits.fingerprint, limits=limits, stop=stop, searches=searches
        ) as coordinator,
        opened_pool(config, splits, partial(is_ending, coordinator, stop)) as pool,
    ):
        _SearchRun(config, space, splits, pool, remote, callback, stop, files, coordinator, searches).run()
        return coordinator.results()


def prepared(config: StudyConfig, callback: SearchCallback) -> tuple[SearchSpace, Splits]:
    """Return the space and the data of a study that has passed the start checks; the callback receives notes on them.

    Raises:
        HpoError: the study cannot be searched.
    """
    space, splits = space_of_study(config), splits_of(config)
    for sentence in (*splits.notes, *search_notes(config, space)):
        callback.note(sentence)
    refuse_counts(space, splits.train.rows)
    return space, splits


def _refuse_unsearched(config: StudyConfig) -> None:
    """Raise ConfigurationError or StudyMismatchError if the store has no search that can be confirmed."""
    runs = confirmation_of(config.study)
    with closing(open_database(config.store.url, must_exist=True)) as database:
        known = study_names(database)
        if runs in known:
            refuse_other_semantics(runs, read_results(database, runs).versions, confirms=config.study)
        if config.study not in known:
            raise ConfigurationError(
                f"The store holds no study {config.study!r} to confirm; begin it with hpo run. "
                f"{nearest(config.study, known)}"
            )


def _as_begun(config: StudyConfig) -> StudyConfig:
    """Return a study whose unset evaluation settings are those it was begun with, because defaults may have changed."""
    with closing(open_database(config.store.url)) as database:
        begun = recorded_configuration(database, config.study)
    if begun is None:
        return config
    asked = config.evaluation
    found = {name: getattr(asked, name) or begun["evaluation"].get(name) for name in ("full_reports", "rung_rows")}
    return config.model_copy(update={"evaluation": asked.model_copy(update=found)})


def is_ending(coordinator: Coordinator, stop: Event) -> bool:
    """Return true if a search is to end: by a signal, its deadline, or `hpo stop`."""
    return is_stopped(coordinator, stop) or time.time() >= coordinator.trains_until


def opened_pool(
    config: StudyConfig, splits: Splits, ends: Callable[[], bool] = lambda: False
) -> AbstractContextManager[WorkerPool]:
    """Open the worker pool of the study's runner; `ends` returns true once its first worker is not to be waited for.

    Raises:
        ModelError, ConfigurationError: the model, the metric or the device cannot be used.
    """
    return OPENERS[runner_of(config.compute)](config, splits, files_folder(config), ends)


def opening_note(config: StudyConfig) -> str:
    """Return a note for the time in which the first worker is opened, which takes seconds to minutes."""
    if config.compute.runner == "ray_tune":
        return f"Going to the Ray cluster {config.compute.ray_address or 'of this machine'} for the first worker."
    return f"Loading {config.model.name}."


def files_folder(config: StudyConfig) -> Path:
    """Return the local folder of a study's weights: next to a SQLite store, unless the study file names another.

    If the study file names a URL, weights are written to this folder first.
    """
    if isinstance(config.store.files, Path):
        return config.store.files / config.study
    database = sqlite_path(config.store.url)
    beside = Path("hpo-files") if database is None else database.with_name(f"{database.stem}-files")
    return beside / config.study


def enumerated(config: StudyConfig, space: SearchSpace) -> int | None:
    """Return the combinations of a space; None if the study's sampler does not try each once."""
    return space.size() if sampler_of(config, space) in ENUMERATIONS else None


def most_trials(config: StudyConfig, space: SearchSpace) -> int | None:
    """Return the most trials of a search; None if only its time limits them."""
    limits = (config.budget.most_trials, enumerated(config, space))
    return min((limit for limit in limits if limit is not None), default=None)


def installed_versions() -> dict[str, str]:
    """Return the versions on which results depend."""
    packages = {name: version(name) for name in RECORDED_PACKAGES}
    return {"python": platform.python_version(), **packages, SEMANTICS_KEY: str(SEMANTICS)}


@dataclass(frozen=True, slots=True)
class _SearchRun(SearchParts):
    """One run of a search, from the checks before its first trial to the test split."""

    coordinator: Coordinator
    searches: bool

    def run(self) -> None:
        lead = self.pool.lead
        self._check_data(lead)
        for sentence in self.coordinator.begin(metric=lead.metric.name, versions=installed_versions() | lead.facts()):
            self.callback.note(sentence)
        try:
            self._measure_and_search(lead)
        except HpoError as error:
            # An unreachable store was waited for already.
            if not isinstance(error, StoreUnavailableError):
                with suppress(StoreError):
                    self.coordinator.end(str(error))
            raise
        self.coordinator.end(self._ended_because())

    def _ended_because(self) -> str:
        if self.stop.is_set():
            return "stopped"
        over = time.time() >= self.coordinator.trains_until
        return self.coordinator.ended_because or ("its time was over" if over else "finished")

    def _check_data(self, lead: Worker) -> None:
        """Refuse, before the first trial, what would make every trial fail, and note weaknesses of the data."""
        demands = demands_of(self.space)
        lead.refuse_unfit(demands)
        for sentence in (lead.metric.note, *lead.notes(demands)):
            self.callback.note(sentence)
        longest = int(self.space.largest("max_length"))
        for warning in (
            on_idle_words(self.config.task.label_words, self.splits.label_names),
            on_cut_texts(lead.cut_share(longest), longest),
            on_rare_classes(self.splits, lead.metric),
        ):
            if warning is not None:
                self.callback.note(warning)

    def _measure_and_search(self, lead: Worker) -> None:
        """Take the remaining measurements, search, confirm the best and score it on the test split."""
        began, most = time.time(), measuring_seconds(lead, self.coordinator.limits.deadline)
        settings = measured_settings(self.config, self.space, lead, self.coordinator, self.callback, most_seconds=most)
        slots = settings.slots or 1
        self.coordinator.use_slots(slots)
        search = replace(self, config=self.config.with_slots(slots))
        short = search._forecast(lead, began + most)
        self.pool.begin(settings)
        search._search(lead, time.time() - began + short.reserve)
        if not is_stopped(self.coordinator, self.stop):
            search._confirm_and_test(short)

    def _search(self, lead: Worker, before: float) -> None:
        """Search; `before` is the number of seconds of the run in which no trial trains."""
        if self.searches:
            self._note_start(lead.metric.name)
        self.remote.write_address()
        if self.searches:
            self.dispatch(self.coordinator, self.files)
        if self.stop.is_set():
            self.callback.note("The search was told to end; the same command resumes what was training.")
            return
        if self.coordinator.ended_because:
            self.callback.note(self.coordinator.ended_because)
        if self.searches:
            self._note_time_needed(before)
            self.coordinator.prune_held_back()
            if pruned := self.coordinator.endings.pop_pruned():
                self.callback.pruned_while_paused(pruned)

    def _note_time_needed(self, before: float) -> None:
        """Note the time that a search needs, if trials are paused and none completed; `before` as in `_search`."""
        seconds = self.coordinator.default_seconds()
        waits, _ = self.coordinator.files_needed()
        timed = self.coordinator.limits.deadline or self.coordinator.limits.device_seconds
        if timed and seconds and waits and not self.coordinator.standing().completed:
            self.callback.note(needed_budget(self.config.budget, seconds, before, self.config.compute.devices_of_trial))

    def _note_start(self, metric: str) -> None:
        """Tell the callback what is searched, and if all trials are finished, how to get more."""
        trials, standing = most_trials(self.config, self.space), self.coordinator.standing()
        if standing.completed:
            standing = scored(standing, self.coordinator.results())
        self.callback.started(self.config.study, metric, trials, standing)
        if trials is not None and standing.finished >= trials != enumerated(self.config, self.space):
            self.callback.note(f"For more, add --trials N, N above {trials}.")

    def _confirm_and_test(self, short: ShortCheck) -> None:
        """Confirm the best if configured, and score the recommended one on the test split."""
        results = self.coordinator.results()
        race = race_of(results, self.config.confirmation, self.config.budget.most_trials)
        if race is not None:
            self._confirm(results, race, short)
        else:
            if self.config.confirmation.finalists:
                completed = "no configuration but the default" if results.leaderboard else "no trial"
                self.callback.note(f"There is no verdict: {completed} has completed.")
            self._score_test(self.coordinator.winner())
        if self.searches and not self.stop.is_set():
            # A confirmation alone deletes no files of the search, because a later run may need more weights.
            keep_only(self.files, *self._kept_files(), self.remote)

    def _confirm(self, results: StudyResults, race: Race, short: ShortCheck) -> None:
        confirmation = Confirmation(parts=self, results=results, race=race)
        limits = confirming_limits(self.config, self.coordinator.limits, self.coordinator.device_seconds())
        with confirmation.led(limits) as led:
            versions = installed_versions() | self.pool.lead.facts()
            confirmation.run(self.coordinator, led, versions, short.reserve + short.baselines)
            confirmation.evaluate_baselines(self.coordinator, (limits.deadline or math.inf) - short.reserve)
            if is_stopped(self.coordinator, self.stop):
                self.callback.note("The confirmation was told to end; the same command resumes it.")
                return
            self._conclude(led)
            unfinished, _ = led.files_needed()
            keep_only(confirmation.folder, unfinished, set(), self.remote)

    def _conclude(self, led: Coordinator) -> None:
        """Tell the callback the verdict, and score the recommended configuration on the test split."""
        results = self.coordinator.results()
        verdict = verdict_on(results)
        if verdict is None:
            failed = f"; {len(results.failed_runs)} ended without" if results.failed_runs else ""
            self.callback.note(f"There is no verdict: too few runs of the confirmation have a score{failed}.")
            self._score_test(self.coordinator.winner())
            return
        self.callback.judged(verdict.sentences)
        first = min(run.trial for run in results.confirmation if run.confirms == verdict.recommended)
        self._score_test(led.trained(first))

    def _forecast(self, lead: Worker, until: float) -> ShortCheck:
        """Train a few steps at two extremes of the space, and give the coordinator its first forecasts."""
        most, size = until - time.time(), self.pool.size
        self.callback.note(f"Taking a few steps at the extremes of the space{at_most(most)}, to forecast trials.")
        short = short_check(lead, self.config, self.space, self.splits, most_seconds=most, workers=size)
        now, limits = time.time(), self.coordinator.limits
        too_short = short_time_warning(self.config, limits, now, short.shortest, short.reserve)
        for sentence in (*short.notes, *([too_short] if self.searches and too_short else [])):
            self.callback.note(sentence)
        reserve = short.reserve + confirming_seconds(self.config, limits, short.longest, short.baselines, size)
        if limits.deadline is not None:
            # A confirmation needs a trial, so the search gets the larger part of the time.
            reserve = min(reserve, MOST_RESERVED * max(0.0, limits.deadline - now))
        self.coordinator.expect(short.costs, reserve)
        if limits.deadline is not None:
            at, left = datetime.fromtimestamp(limits.deadline).astimezone(), limits.deadline - time.time()
            when = f"ends at {at:%Y-%m-%d %H:%M:%S}, in {humanized(left)}" if left > 0 else "has no time left to train"
            self.callback.note(f"The search {when}.")
        return short

    def _score_test(self, found: tuple[Assignment, Report] | None) -> None:
        """Score a trial on the test split, if there is one, with the weights of its best evaluation."""
        if self.splits.test is not None and found is not None:
            lead = self.pool.lead
            FinalEvaluation(coordinator=self.coordinator, lead=lead, callback=self.callback, stop=self.stop).run(*found)

    def _kept_files(self) -> tuple[set[int], set[int]]:
        """Return the trials whose checkpoints and whose weights are kept after the search."""
        unfinished, best = self.coordinator.files_needed()
        asked, found = self.config.store.keep_weights, self.coordinator.winner()
        is_full = found is not None and found[0].hyperparameters.method == "full"
        return unfinished, set() if asked == 0 or (asked is None and is_full) else best
