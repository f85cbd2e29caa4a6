"""A whole search, from a study's configuration to its results: what `hpo run` does, and `hpo.run` in Python."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Event

from hpo.config.study_file import StudyConfig
from hpo.config.times import LOCAL_ZONE, humanized
from hpo.data.splits import Splits, splits_of
from hpo.errors import ConfigurationError, HpoError, StoreError, StoreUnavailableError, StudyMismatchError, nearest
from hpo.files.remote import open_mirror
from hpo.files.weights import keep_only
from hpo.messages import SEMANTICS, SEMANTICS_KEY, Assignment, Report
from hpo.runners.check.short_check import ShortCheck, short_check
from hpo.runners.check.warnings import on_cut_texts, on_rare_classes
from hpo.runners.confirmation import (
    Confirmation,
    SearchParts,
    confirming_limits,
    confirming_seconds,
    is_stopped,
    searching_limits,
    searching_share,
)
from hpo.runners.final_evaluation import FinalEvaluation
from hpo.runners.inline import open_inline
from hpo.runners.processes.carrier import open_processes, runner_of
from hpo.runners.ray.setup import open_ray_tune, refuse_unusable
from hpo.runners.watcher import Watcher
from hpo.runners.workforce import IsOver, LeadWorker, Workforce, never
from hpo.search.budget import budget_warning, limits_of, needed_budget
from hpo.search.coordinator import Coordinator
from hpo.search.enumeration import ENUMERATIONS
from hpo.search.extremes import dearest
from hpo.search.leading import leading
from hpo.search.preflight import demands_of, refuse_counts, refuse_unfit_search, search_notes, space_of_study
from hpo.search.rungs import with_evaluation_defaults
from hpo.search.samplers import sampler_of
from hpo.store.database import open_database, sqlite_path
from hpo.store.results import StudyResults, read_results
from hpo.store.studies import confirmation_of, study_names
from hpo.store.study_store import refuse_other_semantics
from hpo.training.precision import Precision
from hpo.training.worker import doubt_about_gpu
from hpo.verdict.judgement import verdict_on
from hpo.verdict.race import Race, race_of

OPENERS: Mapping[str, Callable[[StudyConfig, Splits, Path, IsOver], AbstractContextManager[Workforce]]] = {
    "inline": open_inline,
    "processes": open_processes,
    "ray_tune": open_ray_tune,
}
MOST_OF_MEASURING = 0.05
"""Share of a run's time that measuring before the first trial may take on a CPU."""
PRECISION_OF_MEASURING = 0.4
"""Share of that in which the precision is chosen; a few steps at the ends of the space have the rest."""
MOST_RESERVED = 0.5
"""Share of a run's time that may be kept for what follows the search."""
RECORDED_PACKAGES = ("llm-hpo", "optuna", "torch", "transformers", "tokenizers", "scikit-learn", "numpy", "sqlalchemy")


def run(
    config: StudyConfig, watcher: Watcher | None = None, stop: Event | None = None, *, searches: bool = True
) -> StudyResults:
    """Search until the study's budget is spent, confirm the best, then read the test split once for what to take.

    A study that is already in the store is gone on with.

    Args:
        config: the study.
        watcher: is told of everything as it happens.
        stop: set from elsewhere, it ends the search tidily: what is running waits in the store for the next run.
        searches: whether new trials are trained; otherwise what there is is confirmed.

    Returns:
        What the study has given so far.

    Raises:
        HpoError: with one sentence, as `hpo.errors` lists them; nothing that was stored is lost.
    """
    watcher, stop = watcher or Watcher(), stop or Event()
    space = space_of_study(config)
    refuse_unfit_search(config, space)
    refuse_unusable(config.compute)
    if not searches:
        config = _as_searched(config)
    files = files_folder(config)
    mirror = open_mirror(config, files)
    splits = splits_of(config)
    doubts = filter(None, [doubt_about_gpu(config.compute)])
    for sentence in (*splits.notes, *search_notes(config, space), *doubts):
        watcher.note(sentence)
    refuse_counts(space, splits.train.rows)
    if searches:
        config = with_evaluation_defaults(config, space, splits)
    if config.compute.runner == "ray_tune":
        watcher.note(
            f"Going to the Ray cluster {config.compute.ray_address or 'of this machine'} for the first worker."
        )
    # By the clock that the deadline is heeded by.
    now = datetime.fromtimestamp(time.time(), LOCAL_ZONE)
    limits = searching_limits(config, limits_of(config.budget, now, config.compute.devices_of_trial))
    with (
        leading(
            config, space, data_fingerprint=splits.fingerprint, limits=limits, stop=stop, searches=searches
        ) as coordinator,
        opened_workforce(config, splits, partial(is_over, coordinator, stop)) as workforce,
    ):
        _SearchRun(config, space, splits, workforce, mirror, watcher, stop, files, coordinator, searches).run()
        return coordinator.results()


def _as_searched(config: StudyConfig) -> StudyConfig:
    """Return a study that is to be confirmed with the evaluations that its search had, where it leaves them open.

    Raises:
        ConfigurationError: it is not in the store.
        StudyMismatchError: it was confirmed on other terms.
    """
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
        stored = read_results(database, config.study).configuration["evaluation"]
    asked = config.evaluation
    found = {name: getattr(asked, name) or stored.get(name) for name in ("full_reports", "rung_rows")}
    return config.model_copy(update={"evaluation": asked.model_copy(update=found)})


def is_over(coordinator: Coordinator, stop: Event) -> bool:
    """Return whether a search is to end: by a signal, its deadline, or somebody outside."""
    return is_stopped(coordinator, stop) or time.time() >= coordinator.trains_until


def opened_workforce(config: StudyConfig, splits: Splits, ends: IsOver = never) -> AbstractContextManager[Workforce]:
    """Open what trains the study's trials, as `compute.runner` says.

    Raises:
        ModelError, ConfigurationError: the model, the metric or the device cannot be used.
    """
    return OPENERS[runner_of(config.compute)](config, splits, files_folder(config), ends)


def files_folder(config: StudyConfig) -> Path:
    """Return the local folder of a study's weights: beside a SQLite store, unless the study file names another.

    Where it names a URL, they are written to that folder first, and sent.
    """
    if isinstance(config.store.files, Path):
        return config.store.files / config.study
    database = sqlite_path(config.store.url)
    beside = Path("hpo-files") if database is None else database.with_name(f"{database.stem}-files")
    return beside / config.study


def installed_versions() -> dict[str, str]:
    """Return the versions that decide what a trial computes."""
    packages = {name: version(name) for name in RECORDED_PACKAGES}
    return {"python": platform.python_version(), **packages, SEMANTICS_KEY: str(SEMANTICS)}


@dataclass(frozen=True, slots=True)
class _SearchRun(SearchParts):
    """One run of a search, from the look ahead to the test split."""

    coordinator: Coordinator
    searches: bool

    def run(self) -> None:
        lead = self.workforce.lead
        self._look_ahead(lead)
        self.coordinator.begin(objective=lead.objective.metric, versions=self._versions(lead))
        try:
            short = self._search(lead)
            if not is_stopped(self.coordinator, self.stop):
                self._confirm_and_test(short)
        except HpoError as error:
            # A store that is away was waited for already.
            if not isinstance(error, StoreUnavailableError):
                with suppress(StoreError):
                    self.coordinator.end(str(error))
            raise
        self.coordinator.end(self._ended_because())

    def _versions(self, lead: LeadWorker) -> dict[str, str]:
        return installed_versions() | lead.facts()

    def _ended_because(self) -> str:
        if self.stop.is_set():
            return "stopped"
        over = time.time() >= self.coordinator.trains_until
        return self.coordinator.ended_because or ("its time was over" if over else "finished")

    def _look_ahead(self, lead: LeadWorker) -> None:
        """Refuse before the first trial what every trial would fail on, and say what the texts cannot tell."""
        lead.refuse_unfit(demands_of(self.space))
        self.watcher.note(lead.objective.note)
        longest = int(self.space.largest("max_length"))
        found = (on_cut_texts(lead.cut_share(longest), longest), on_rare_classes(self.splits, lead.objective))
        for doubt in filter(None, found):
            self.watcher.note(doubt)

    def _search(self, lead: LeadWorker) -> ShortCheck:
        """Search, and return what was expected of it."""
        began = time.time()
        measured_until = began + self._most_of_measuring(lead)
        precision = self._precision(lead, measured_until)
        lead.use(precision)
        short = self._expect(lead, measured_until)
        before = time.time() - began + short.reserve
        if self.searches:
            self._tell_start(lead.objective.metric)
        self.workforce.begin(precision)
        self.mirror.leave_address()
        if self.searches:
            self.dispatch(self.coordinator, self.files)
        if self.stop.is_set():
            self.watcher.note("The search was told to end; the same command goes on with what was training.")
        elif self.coordinator.ended_because:
            self.watcher.note(self.coordinator.ended_because)
        if self.searches and not self.stop.is_set():
            self._tell_what_it_needs(before)
        return short

    def _most_of_measuring(self, lead: LeadWorker) -> float:
        """Return the seconds that measuring may take: on a CPU, where a few steps may take minutes, a share of all."""
        deadline = self.coordinator.limits.deadline
        if deadline is None or lead.facts()["device"] != "cpu":
            return math.inf
        return MOST_OF_MEASURING * max(0.0, deadline - time.time())

    def _tell_what_it_needs(self, before: float) -> None:
        """Tell how much time a search needs in which trials wait and none has completed, with seconds `before` it."""
        seconds = self.coordinator.default_seconds()
        waits, _ = self.coordinator.files_needed()
        timed = self.coordinator.limits.deadline or self.coordinator.limits.device_seconds
        if timed and seconds and waits and not self.coordinator.standing().completed:
            self.watcher.note(needed_budget(self.config.budget, seconds, before, self.config.compute.devices_of_trial))

    def _tell_start(self, metric: str) -> None:
        """Tell what is searched, and of a search that is over how to have more."""
        size = self.space.size() if sampler_of(self.config, self.space) in ENUMERATIONS else None
        trials = min((most for most in (self.config.budget.most_trials, size) if most is not None), default=None)
        standing = self.coordinator.standing()
        self.watcher.started(self.config.study, metric, trials, standing)
        if trials is not None and standing.finished >= trials != size:
            self.watcher.note(f"For more, add --trials N, N above {trials}.")

    def _confirm_and_test(self, short: ShortCheck) -> None:
        """Confirm the best, where that is asked for, and read the test split with what is to be taken."""
        results = self.coordinator.results()
        race = race_of(results, self.config.confirmation, self.config.budget.most_trials)
        if race is not None:
            self._confirm(results, race, short)
        else:
            if self.config.confirmation.finalists:
                completed = "no configuration but the default" if results.leaderboard else "no trial"
                self.watcher.note(f"There is no verdict: {completed} has completed.")
            self._read_test(self.coordinator.winner())
        if self.searches and not self.stop.is_set():
            # To confirm deletes nothing of the search: a later run of that may have asked for more weights.
            keep_only(self.files, *self._files_after(), self.mirror)

    def _confirm(self, results: StudyResults, race: Race, short: ShortCheck) -> None:
        confirmation = Confirmation(parts=self, results=results, race=race)
        limits = confirming_limits(self.config, self.coordinator.limits, self.coordinator.device_seconds())
        with confirmation.led(limits) as led:
            versions = self._versions(self.workforce.lead)
            confirmation.run(self.coordinator, led, versions, short.reserve + short.baselines)
            confirmation.read_baselines(self.coordinator, (limits.deadline or math.inf) - short.reserve)
            if is_stopped(self.coordinator, self.stop):
                self.watcher.note("The confirmation was told to end; the same command goes on with it.")
                return
            self._conclude(led)
            unfinished, _ = led.files_needed()
            keep_only(confirmation.folder, unfinished, set(), self.mirror)

    def _conclude(self, led: Coordinator) -> None:
        """Say the verdict, and read the test split with what it says to take."""
        results = self.coordinator.results()
        verdict = verdict_on(results)
        if verdict is None:
            failed = f"; {len(results.failed_runs)} ended without" if results.failed_runs else ""
            self.watcher.note(f"There is no verdict: too few runs of the confirmation have a score{failed}.")
            self._read_test(self.coordinator.winner())
            return
        self.watcher.judged(verdict.sentences)
        first = min(run.trial for run in results.confirmation if run.confirms == verdict.recommended)
        self._read_test(led.trained(first))

    def _expect(self, lead: LeadWorker, until: float) -> ShortCheck:
        """Take a few steps at both ends of the space: what fits into memory and time is known before it counts."""
        most = until - time.time()
        size = self.workforce.size
        short = short_check(lead, self.config, self.space, self.splits, most_seconds=most, workers=size)
        for sentence in short.notes:
            self.watcher.note(sentence)
        share, devices = searching_share(self.config), self.config.compute.devices_of_trial
        now, limits = time.time(), self.coordinator.limits
        doubt = budget_warning(limits, now, short.shortest, short.reserve, share_of_devices=share, devices=devices)
        if self.searches and doubt:
            self.watcher.note(doubt)
        reserve = short.reserve + confirming_seconds(self.config, limits, short.longest, short.baselines, size)
        if limits.deadline is not None:
            # What follows the search is worth nothing without a trial: training has the larger part of the time.
            reserve = min(reserve, MOST_RESERVED * max(0.0, limits.deadline - now))
        self.coordinator.expect(short.costs, reserve)
        if limits.deadline is not None:
            at, left = datetime.fromtimestamp(limits.deadline).astimezone(), limits.deadline - time.time()
            when = f"ends at {at:%Y-%m-%d %H:%M:%S}, in {humanized(left)}" if left > 0 else "has no time left to train"
            self.watcher.note(f"The search {when}.")
        return short

    def _precision(self, lead: LeadWorker, until: float) -> Precision:
        """Return the study's precision.

        It is measured at the first start, and the same for every later one.
        """
        measured = self.coordinator.measurements()
        asked = self.config.compute.precision
        if measured is None:
            if asked == "auto":
                self.watcher.note("Measuring whether bf16 pays here; it is done once for the study.")
            most = PRECISION_OF_MEASURING * (until - time.time())
            measured = asdict(lead.measure(dearest(self.space), most))
            if asked == "auto" and not measured["bf16_seconds"]:
                self.watcher.note(
                    "There was too little time or memory to measure whether bf16 pays, so trials compute in fp32; "
                    "compute.precision=bf16 asks for the other."
                )
            self.coordinator.record_measurements(measured)
        precision: Precision = measured["precision"]
        if asked not in ("auto", precision):
            raise StudyMismatchError(
                f"compute.precision is {asked}, but the study {self.config.study!r} was begun in {precision}, and its "
                "results would not compare; leave it out, or start a new study with --study NAME."
            )
        return precision

    def _read_test(self, found: tuple[Assignment, Report] | None) -> None:
        """Read the test split, where there is one, with a trial and its best evaluation."""
        if self.splits.test is not None and found is not None:
            lead = self.workforce.lead
            FinalEvaluation(coordinator=self.coordinator, lead=lead, watcher=self.watcher, stop=self.stop).at(*found)

    def _files_after(self) -> tuple[set[int], set[int]]:
        """Return the trials whose checkpoints and whose weights stay after the search."""
        unfinished, best = self.coordinator.files_needed()
        asked = self.config.store.keep_weights
        found = self.coordinator.winner()
        full = found is not None and found[0].hyperparameters.method == "full"
        none_stay = asked == 0 or (asked is None and full)
        return unfinished, set() if none_stay else best
