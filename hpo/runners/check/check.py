"""The two minutes before leaving: a few real steps at the ends of the space, and what they say of the night.

Nothing is written to the store, and what lay on the disk meanwhile is removed.
"""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
import torch

from hpo.config.study_file import StudyConfig
from hpo.config.tasks import TASK_FACTS
from hpo.config.times import LOCAL_ZONE
from hpo.data.splits import Splits, splits_of
from hpo.errors import StoreError
from hpo.files.remote import open_mirror
from hpo.metrics.metric import Objective
from hpo.runners.check import warnings
from hpo.runners.check.forecast import Forecast, Probed, baseline_seconds, reading_seconds
from hpo.runners.check.short_check import processes_of_device, workload_of
from hpo.runners.confirmation import confirming_seconds, searching_limits, searching_share
from hpo.runners.ray.setup import refuse_unusable
from hpo.runners.run import files_folder, opened_workforce
from hpo.runners.watcher import Watcher
from hpo.runners.workforce import LeadWorker, Workforce
from hpo.search.budget import Limits, budget_warning, limits_of
from hpo.search.enumeration import ENUMERATIONS
from hpo.search.extremes import cheapest, dearest, slowest
from hpo.search.forecasts import fitted_costs
from hpo.search.preflight import demands_of, refuse_counts, refuse_unfit_search, search_notes, space_of_study
from hpo.search.proposals import weights_kept
from hpo.search.rungs import with_evaluation_defaults
from hpo.search.samplers import sampler_of
from hpo.space.search_space import SearchSpace
from hpo.store.database import sqlite_path
from hpo.training.checkpoints import write_checkpoint
from hpo.training.precision import Precision

STEPS = 3
# The dearest first: how many rows at once memory bears is found there.
ENDS = {"dearest": dearest, "slowest": slowest, "cheapest": cheapest}
COMMITS = 5
WRITTEN_BYTES = 2**26
"""Of checkpoints, from which the seconds of larger ones are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a few steps say of a whole search."""

    study: str
    device: str
    precision: Precision
    forecast: Forecast
    disk_free: int
    """Bytes that there are for checkpoints and weights."""
    doubts: tuple[str, ...]
    """What looks wrong, in sentences."""
    refusals: tuple[str, ...]
    """Why the search, or some of its trials, cannot run; none where all can."""


def check(config: StudyConfig, watcher: Watcher | None = None) -> Check:
    """Take a few steps at the ends of a study's space, and say what a search over it will take and lack.

    Args:
        config: the study; where it has begun already, it is judged as if it had not.
        watcher: is told what was found in the data.

    Raises:
        HpoError: the study cannot be begun at all, with the sentence that `hpo run` would end with.
    """
    watcher = watcher or Watcher()
    limits_of(config.budget, datetime.now(LOCAL_ZONE))  # Refuses an end that is past, before anything is read.
    space = space_of_study(config)
    refuse_unfit_search(config, space)
    refuse_unusable(config.compute)
    splits = splits_of(config)
    for sentence in (*splits.notes, *search_notes(config, space)):
        watcher.note(sentence)
    refuse_counts(space, splits.train.rows)
    config = with_evaluation_defaults(config, space, splits)
    with _nothing_kept(config) as aside, opened_workforce(aside, splits) as workforce:
        watcher.note(workforce.lead.objective.note)
        watcher.note("Taking a few steps at the ends of the space.")
        found = _found(config, space, workforce)
    # Its time begins when the search does, and that is not before now.
    return _concluded(config, space, splits, found, datetime.now(LOCAL_ZONE))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the workers have said."""

    device: str
    workers: int
    precision: Precision
    cut_share: float
    objective: Objective
    ends: Mapping[str, Probed]


def _found(config: StudyConfig, space: SearchSpace, workforce: Workforce) -> _Found:
    lead = workforce.lead
    lead.refuse_unfit(demands_of(space))
    longest = int(space.largest("max_length"))
    precision = _used_precision(lead, config, space)
    return _Found(
        device=lead.facts()["device"],
        workers=workforce.size,
        precision=precision,
        cut_share=lead.cut_share(longest),
        objective=lead.objective,
        ends=_ends(config, space, lead),
    )


def _ends(config: StudyConfig, space: SearchSpace, lead: LeadWorker) -> Mapping[str, Probed]:
    """Probe each end, once where two are the same configuration."""
    workload = workload_of(lead, config, space)
    ends = {name: end(space) for name, end in ENDS.items()}
    probes = {values: lead.probe(values, STEPS) for values in dict.fromkeys(ends.values())}
    costs = fitted_costs(workload, {values: probe for values, probe in probes.items() if probe.feasible})
    found = {
        values: Probed(
            hyperparameters=values,
            probe=probe,
            steps=workload.of(values).steps,
            seconds=(costs.trial_seconds(values) or 0.0) if probe.feasible else 0.0,
        )
        for values, probe in probes.items()
    }
    return {name: found[values] for name, values in ends.items()}


def _used_precision(lead: LeadWorker, config: StudyConfig, space: SearchSpace) -> Precision:
    """Compute in what is asked for, or what a measurement chooses, and return it."""
    asked = config.compute.precision
    precision = lead.measure(dearest(space)).precision if asked == "auto" else asked
    lead.use(precision)
    return precision


def _concluded(config: StudyConfig, space: SearchSpace, splits: Splits, found: _Found, now: datetime) -> Check:
    """Return what follows from what was found for a search that begins `now`."""
    limits = searching_limits(config, limits_of(config.budget, now, config.compute.devices_of_trial))
    fitting = [end.probe for end in found.ends.values() if end.fits]
    reserve = reading_seconds(fitting, splits.test.rows if splits.test else 0)
    kept = reserve + _confirming_seconds(config, splits, found, limits)
    forecast = Forecast(
        ends=found.ends,
        workers=found.workers,
        trials=_trials(config, space),
        seconds_left=None if limits.deadline is None else max(0.0, limits.deadline - kept - now.timestamp()),
        device_seconds=limits.device_seconds,
        kept_weights=weights_kept(config),
    )
    free = _free_bytes(config)
    refusals = _unfit_ends(found.ends)
    first_loss = TASK_FACTS[config.task.name].first_loss(len(splits.label_names))
    sentences = (
        _on_short_time(config, forecast, limits, now.timestamp(), reserve),
        *(warnings.on_first_loss(probe, first_loss) for probe in fitting),
        warnings.on_cut_texts(found.cut_share, int(space.largest("max_length"))),
        warnings.on_rare_classes(splits, found.objective),
        warnings.on_few_trials(forecast, int(space.largest("epochs"))),
        warnings.on_trial_time(forecast, limits.trial_seconds),
        warnings.on_disk(forecast.disk_bytes, free, str(files_folder(config))),
        warnings.on_grace(_pausing_seconds(config, found, free), config.compute.grace_seconds),
        *_doubts_of_machine(config, found, forecast),
    )
    return Check(
        study=config.study,
        device=found.device,
        precision=found.precision,
        forecast=forecast,
        disk_free=free,
        doubts=tuple(dict.fromkeys(one for one in sentences if one is not None and one not in refusals)),
        refusals=tuple(refusals),
    )


def _confirming_seconds(config: StudyConfig, splits: Splits, found: _Found, limits: Limits) -> float:
    """Return the seconds that the search will keep for its confirmation."""
    fitting = [end for end in found.ends.values() if end.fits]
    if not fitting:
        return 0.0
    read = splits.confirmation or splits.validation
    baselines = baseline_seconds([end.probe for end in fitting], splits.train.rows, read.rows)
    return confirming_seconds(config, limits, max(end.seconds for end in fitting), baselines, found.workers)


def _trials(config: StudyConfig, space: SearchSpace) -> int | None:
    """Return how many trials there will be at most."""
    asked = config.budget.most_trials
    if sampler_of(config, space) not in ENUMERATIONS:
        return asked
    return space.size() if asked is None else min(asked, space.size())


def _unfit_ends(ends: Mapping[str, Probed]) -> list[str]:
    """Say what does not go through the model, or comes out as no number; once, for what ends have in common."""
    if not ends["cheapest"].fits:
        return [warnings.no_room("cheapest", ends["cheapest"].hyperparameters)]
    unfit = [warnings.no_room(name, end.hyperparameters) for name, end in ends.items() if not end.fits][:1]
    diverged = any(not math.isfinite(end.probe.first_loss) for end in ends.values() if end.fits)
    return unfit + ([warnings.NO_NUMBER] if diverged else [])


def _on_short_time(config: StudyConfig, forecast: Forecast, limits: Limits, now: float, reserve: float) -> str | None:
    """Doubt that even the shortest trial fits into the time."""
    if forecast.trial_seconds is None:
        return None
    share, devices = searching_share(config), config.compute.devices_of_trial
    return budget_warning(limits, now, forecast.trial_seconds[0], reserve, share_of_devices=share, devices=devices)


def _doubts_of_machine(config: StudyConfig, found: _Found, forecast: Forecast) -> list[str | None]:
    """Look at the machine this runs on, and say what it lacks."""
    if config.compute.runner == "ray_tune":
        # Trials train on others.
        return _doubts_of_store(config.store.url)
    battery = psutil.sensors_battery()
    gpus = torch.cuda.device_count()
    return [
        warnings.on_memory(forecast.probes, processes_of_device(config.compute, found.workers)),
        warnings.on_unused_gpu(gpus, config.compute.device),
        warnings.on_battery(battery is not None and battery.power_plugged is False),
        *_doubts_of_store(config.store.url),
    ]


def _pausing_seconds(config: StudyConfig, found: _Found, free: int) -> float:
    """Return how long all workers take to come to their next step and write a checkpoint, on this machine's disk."""
    fitting = [end.probe for end in found.ends.values() if end.fits]
    size = found.workers * max((probe.checkpoint_bytes for probe in fitting), default=0)
    written = min(size, WRITTEN_BYTES, free // 2)
    if config.compute.runner == "ray_tune" or not written:
        return 0.0
    content = torch.rand(written // 4)
    with tempfile.TemporaryDirectory(dir=_existing(files_folder(config).absolute())) as folder:
        began = time.perf_counter()
        write_checkpoint(Path(folder) / "checkpoint", {"seen": 0, "content": content})
        seconds = time.perf_counter() - began
    return seconds * size / written + max(probe.seconds_per_step for probe in fitting)


def _doubts_of_store(url: str) -> list[str | None]:
    """Look at the disk of a SQLite file."""
    file = sqlite_path(url)
    if file is None:
        return []
    folder = _existing(file.absolute().parent)
    return [
        warnings.on_full_store(shutil.disk_usage(folder).free, str(folder)),
        warnings.on_slow_store(_commit_seconds(folder), str(folder)),
    ]


def _commit_seconds(folder: Path) -> float:
    """Return how long the disk takes to hold a few bytes for certain, which a store waits for at every write.

    Raises:
        StoreError: the folder cannot be written to.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began = time.perf_counter()
            for _ in range(COMMITS):
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
            return (time.perf_counter() - began) / COMMITS
    except OSError as error:
        raise StoreError(
            f"The store cannot be written to {folder}: {error.strerror}; name another place by --store."
        ) from None


def _free_bytes(config: StudyConfig) -> int:
    """Return how much room the study's files have, within what they may take."""
    free = shutil.disk_usage(_existing(files_folder(config).absolute())).free
    most = config.store.disk_gib
    return free if most is None else min(free, int(most * warnings.GIB))


@contextmanager
def _nothing_kept(config: StudyConfig) -> Iterator[StudyConfig]:
    """Yield the study with its files in a folder beside the real one, which is removed at the end.

    Raises:
        StoreError: there can be no such folder, or the files' URL cannot be reached or written.
    """
    open_mirror(config, files_folder(config))
    if config.compute.runner == "ray_tune" and isinstance(config.store.files, str):
        # Workers use folders of their own machines, and send nothing of a few steps. A local one would not be theirs.
        yield config
        return
    beside = _existing(files_folder(config).absolute().parent)
    try:
        folder = tempfile.TemporaryDirectory(prefix=".hpo-check-", dir=beside)
    except OSError as error:
        raise StoreError(
            f"Checkpoints and weights cannot be written to {beside}: {error.strerror}; name another folder by "
            "store.files."
        ) from None
    with folder as aside:
        store = config.store.model_copy(update={"files": Path(aside)})
        yield config.model_copy(update={"store": store})


def _existing(folder: Path) -> Path:
    """Return the nearest of `folder` and those above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())
