"""Check before a search: forecasts of time, memory and disk from a few steps at the extremes of the space.

Nothing is written to the store, and temporary files are removed.
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

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.config.tasks import TASK_FACTS
from hpo.config.times import LOCAL_ZONE, humanized
from hpo.data.splits import Splits
from hpo.errors import StoreError
from hpo.files.checkpoints import write_checkpoint
from hpo.files.remote import open_remote_files
from hpo.messages import Measurement, Precision, Probe, WorkerSettings
from hpo.metrics.metric import SelectionMetric
from hpo.runners.callbacks import SearchCallback
from hpo.runners.check import warnings
from hpo.runners.check.search_forecast import (
    Forecast,
    Probed,
    baseline_seconds,
    final_evaluation_seconds,
    longest_step_seconds,
    processes_of_device,
    workload_of,
)
from hpo.runners.confirmation import confirming_seconds, searching_limits, short_time_warning
from hpo.runners.gpu_sharing import with_shared_gpus
from hpo.runners.measuring import PART_OF_MEASURING, at_most, measuring_seconds
from hpo.runners.processes.protocol import writing_to
from hpo.runners.run import files_folder, most_trials, opened_pool, opening_note, prepared
from hpo.runners.start_checks import refuse_at_start
from hpo.search.budget import Limits, limits_of
from hpo.search.forecasts import CostModel, fitted_costs
from hpo.search.preflight import demands_of
from hpo.search.proposals import weights_kept
from hpo.search.pruners import most_paused, with_evaluation_defaults
from hpo.search.trial_sizes import cheapest, dearest, slowest
from hpo.search.warm_start import carried_notes, read_earlier
from hpo.space.search_space import SearchSpace
from hpo.store.database import sqlite_path
from hpo.tasks.registry import TASKS
from hpo.training.device import with_dtype
from hpo.training.worker import Worker

STEPS = 3
# The dearest first, because it finds the micro-batch size that fits into memory.
EXTREMES = {"dearest": dearest, "slowest": slowest, "cheapest": cheapest}
COMMITS = 5
WRITTEN_BYTES = 2**26
"""Size of the checkpoint that is written to time larger ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of a check."""

    study: str
    device: str
    precision: Precision
    forecast: Forecast
    disk_free: int
    """Bytes available for checkpoints and weights."""
    warnings: tuple[str, ...]
    """Warnings, in sentences."""
    refusals: tuple[str, ...]
    """Reasons that the search, or some of its trials, cannot run."""


def check(config: StudyConfig, callback: SearchCallback | None = None) -> Check:
    """Train a few steps at the extremes of a study's space, and return the forecast, warnings and refusals.

    Args:
        config: the study; if it has already begun, it is checked as if it had not.
        callback: receives notes on the data.

    Raises:
        HpoError: the study cannot be begun at all, with the sentence with which `hpo run` would end.
    """
    callback = callback or SearchCallback()
    refuse_at_start(config)
    space, splits = prepared(config, callback)
    earlier = read_earlier(config, known=())
    config = with_dtype(with_evaluation_defaults(config, space, splits), space)
    config = with_shared_gpus(config, space, splits, callback, lambda: False)
    callback.note(opening_note(config))
    with _nothing_kept(config) as aside, opened_pool(aside, splits) as pool:
        lead = pool.lead
        callback.note(lead.metric.note)
        for sentence in carried_notes(earlier, space, config, lead.metric.name):
            callback.note(sentence)
        lead.refuse_unfit(demands_of(space))
        for sentence in lead.notes(demands_of(space)):
            callback.note(sentence)
        measured = _measured_precision(lead, config, space, callback)
        found = _Findings(
            config=config,
            space=space,
            splits=splits,
            precision=measured.precision,
            device=lead.facts()["device"],
            workers=pool.size,
            cut_share=lead.cut_share(int(space.largest("max_length"))),
            metric=lead.metric,
            extremes=_probed(lead, config, space, measured, callback),
        )
    # Its time begins with the search, not before now.
    return _concluded(found, datetime.now(LOCAL_ZONE))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """A study and its measurements by workers."""

    config: StudyConfig
    space: SearchSpace
    splits: Splits
    precision: Precision
    device: str
    workers: int
    cut_share: float
    metric: SelectionMetric
    extremes: Mapping[str, Probed]

    @property
    def fitting(self) -> list[Probe]:
        """The probes of the extremes that fit into memory."""
        return [extreme.probe for extreme in self.extremes.values() if extreme.fits]


def _probed(
    lead: Worker, config: StudyConfig, space: SearchSpace, measured: Measurement, callback: SearchCallback
) -> Mapping[str, Probed]:
    """Probe each extreme, once if two are the same configuration, and note before each how long the rest may take."""
    extremes = {name: extreme(space) for name, extreme in EXTREMES.items()}
    names = {values: name for name, values in reversed(extremes.items())}
    left, probes = list(dict.fromkeys(extremes.values())), dict[Hyperparameters, Probe]()
    costs = fitted_costs(workload_of(lead, config, space), probes)
    while left:
        seconds = sum(_probe_seconds(costs, values, measured) for values in left)
        about = f"; about {humanized(seconds)} left" if seconds >= 1 else ""
        place = f"{len(probes) + 1} of {len(probes) + len(left)}"
        callback.note(f"Taking a few steps at the {names[left[0]]} configuration of the space, {place}{about}.")
        values = left.pop(0)
        probes[values] = lead.probe(values, STEPS)
        # Only a trial finds out whether frozen layers are computed once.
        workload = workload_of(lead, config, space)
        costs = fitted_costs(workload, {values: probe for values, probe in probes.items() if probe.feasible})
    found = {
        values: Probed(
            hyperparameters=values,
            probe=probe,
            steps=costs.workload.of(values).steps,
            seconds=(costs.trial_seconds(values) or 0.0) if probe.feasible else 0.0,
        )
        for values, probe in probes.items()
    }
    return {name: found[values] for name, values in extremes.items()}


def _probe_seconds(costs: CostModel, hyperparameters: Hyperparameters, measured: Measurement) -> float:
    """Return the approximate seconds of a probe: its steps, two of them on the longest texts, and its evaluation."""
    step_seconds = longest_step_seconds(costs, hyperparameters)
    example_seconds = measured.bf16_seconds if measured.precision == "bf16" else measured.fp32_seconds
    return (STEPS + 3) * (step_seconds or hyperparameters.batch_size * example_seconds)


def _measured_precision(lead: Worker, config: StudyConfig, space: SearchSpace, callback: SearchCallback) -> Measurement:
    """Use the requested precision, or the one that a measurement chooses, and return the measurement."""
    most_seconds = PART_OF_MEASURING * measuring_seconds(lead, deadline=None)
    if config.compute.precision == "auto":
        callback.note(f"Measuring whether bf16 pays here{at_most(most_seconds)}.")
    measured = lead.measure(dearest(space), most_seconds)
    lead.use(WorkerSettings(precision=measured.precision))
    return measured


def _concluded(found: _Findings, now: datetime) -> Check:
    """Return the result of the check for a search that begins `now`."""
    config, splits = found.config, found.splits
    limits = searching_limits(config, limits_of(config.budget, now, config.compute.devices_of_trial))
    reserve = final_evaluation_seconds(found.fitting, splits.test.rows if splits.test else 0)
    kept = reserve + _confirming_seconds(found, limits)
    forecast = Forecast(
        extremes=found.extremes,
        workers=found.workers,
        trials=most_trials(config, found.space),
        seconds_left=None if limits.deadline is None else max(0.0, limits.deadline - kept - now.timestamp()),
        device_seconds=limits.device_seconds,
        kept_weights=weights_kept(config),
        paused=most_paused(config),
    )
    shortest = None if forecast.trial_seconds is None else forecast.trial_seconds[0]
    free, refusals = _free_bytes(config), _refusals(found.extremes)
    first_loss = TASK_FACTS[config.task.kind].first_loss(len(splits.label_names))
    sentences = (
        None if shortest is None else short_time_warning(config, limits, now.timestamp(), shortest, reserve),
        *(warnings.on_first_loss(probe, first_loss) for probe in found.fitting),
        *map(warnings.on_metric, found.fitting),
        *splits.warnings,
        warnings.on_idle_words(config.task.label_words, splits.label_names),
        warnings.on_cut_texts(found.cut_share, int(found.space.largest("max_length"))),
        warnings.on_rare_classes(splits, found.metric),
        warnings.on_few_trials(forecast.fitting, forecast.trials, int(found.space.largest("epochs"))),
        warnings.on_trial_time(forecast.trial_seconds, limits.trial_seconds),
        warnings.on_disk(forecast.disk_bytes, free, str(files_folder(config))),
        warnings.on_grace(_pausing_seconds(found, free), config.compute.grace_seconds),
        *_machine_warnings(found),
        *_store_warnings(config.store.url),
    )
    return Check(
        study=config.study,
        device=found.device,
        precision=found.precision,
        forecast=forecast,
        disk_free=free,
        warnings=tuple(dict.fromkeys(one for one in sentences if one is not None and one not in refusals)),
        refusals=tuple(refusals),
    )


def _confirming_seconds(found: _Findings, limits: Limits) -> float:
    """Return the seconds that the search will reserve for its confirmation."""
    if not found.fitting:
        return 0.0
    baselines = baseline_seconds(found.fitting, TASKS[found.config.task.kind].baselines.values(), found.splits)
    longest = max(extreme.seconds for extreme in found.extremes.values())
    return confirming_seconds(found.config, limits, longest, baselines, found.workers)


def _refusals(extremes: Mapping[str, Probed]) -> list[str]:
    """Return the refusals for memory and for a loss that is not a number; once if they apply to several extremes."""
    if not extremes["cheapest"].fits:
        return [warnings.no_room("cheapest", extremes["cheapest"].hyperparameters)]
    unfit = [warnings.no_room(name, one.hyperparameters) for name, one in extremes.items() if not one.fits][:1]
    diverged = any(not math.isfinite(one.probe.first_loss) for one in extremes.values() if one.fits)
    return unfit + ([warnings.NO_NUMBER] if diverged else [])


def _machine_warnings(found: _Findings) -> list[str | None]:
    """Return warnings about this machine, if trials train on it."""
    compute = found.config.compute
    if compute.runner == "ray_tune":
        return []
    battery = psutil.sensors_battery()
    return [
        warnings.on_memory(found.fitting, processes_of_device(compute, found.workers)),
        warnings.on_unused_gpu(torch.cuda.device_count(), compute.device),
        warnings.on_battery(battery is not None and battery.power_plugged is False),
    ]


def _store_warnings(url: str) -> list[str | None]:
    """Return warnings about the disk of a SQLite file."""
    file = sqlite_path(url)
    if file is None:
        return []
    folder = _existing(file.absolute().parent)
    return [
        warnings.on_full_store(shutil.disk_usage(folder).free, str(folder)),
        warnings.on_slow_store(_commit_seconds(folder), str(folder)),
    ]


def _pausing_seconds(found: _Findings, free: int) -> float:
    """Return the time that all workers need to reach their next step and write a checkpoint, on this machine's disk."""
    size = found.workers * max((probe.checkpoint_bytes for probe in found.fitting), default=0)
    written = min(size, WRITTEN_BYTES, free // 2)
    if found.config.compute.runner == "ray_tune" or not written:
        return 0.0
    content = torch.rand(written // 4)
    with tempfile.TemporaryDirectory(dir=_existing(files_folder(found.config).absolute())) as folder:
        began = time.perf_counter()
        write_checkpoint(Path(folder) / "checkpoint", {"seen": 0, "content": content})
        seconds = time.perf_counter() - began
    return seconds * size / written + max(probe.seconds_per_step for probe in found.fitting)


def _commit_seconds(folder: Path) -> float:
    """Return the time that the disk takes to store a few bytes durably, as a store does for every write.

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
    """Return the bytes available for the study's files, within `store.disk_gib`."""
    free = shutil.disk_usage(_existing(files_folder(config).absolute())).free
    most = config.store.disk_gib
    return free if most is None else min(free, int(most * warnings.GIB))


@contextmanager
def _nothing_kept(config: StudyConfig) -> Iterator[StudyConfig]:
    """Yield the study with its files in a folder next to the real one, which is removed at the end.

    Raises:
        StoreError: the folder cannot be made, or the files' URL cannot be reached or written.
    """
    open_remote_files(config, files_folder(config))
    if config.compute.runner == "ray_tune" and isinstance(config.store.files, str):
        # Workers use folders on their own machines, and upload nothing for a few steps. A local folder would not be
        # theirs.
        yield config
        return
    beside = _existing(files_folder(config).absolute().parent)
    with writing_to(beside):
        folder = tempfile.TemporaryDirectory(prefix=".hpo-check-", dir=beside)
    with folder as aside:
        store = config.store.model_copy(update={"files": Path(aside)})
        yield config.model_copy(update={"store": store})


def _existing(folder: Path) -> Path:
    """Return the nearest existing folder among `folder` and its parents."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())
