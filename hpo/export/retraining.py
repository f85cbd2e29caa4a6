"""Retraining: one exported configuration, trained again as in the search, without a store."""

import os
from collections.abc import Callable
from pathlib import Path

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.readers.locations import is_missing
from hpo.data.splits import Splits, splits_of
from hpo.errors import ConfigurationError, DataError, TrainingError
from hpo.export.exported_file import Exported
from hpo.messages import Action, Assignment, Ending, Progress, Report
from hpo.training.worker import Worker, open_worker, train

Say = Callable[[str], None]
"""Is called with a sentence on how the training goes."""


def compute_of(exported: Exported, *, device: str | None = None, threads: int | None = None) -> ComputeConfig:
    """Return how to compute as the search did, as far as this machine can; `device` and `threads` replace its own.

    Raises:
        ConfigurationError: a device that is not there.
    """
    recorded = exported.versions.get("threads", "")
    usual = min(int(recorded), os.cpu_count() or 1) if recorded.isdigit() else None
    on_cpu = exported.versions.get("device", "").startswith("cpu")
    device = device or ("cpu" if on_cpu else "auto")
    return ComputeConfig.model_validate(
        {"device": device, "threads": threads or usual, "precision": exported.precision}
    )


def study_and_splits(exported: Exported, compute: ComputeConfig) -> tuple[StudyConfig, Splits]:
    """Return the study of an exported configuration, and its examples.

    Raises:
        DataError: they are not there, cannot be read, or are not those of the search.
    """
    config = exported.study_config(compute)
    for name in ("train", "validation", "test"):
        source = getattr(config.data, name)
        if source is not None and is_missing(source):
            raise DataError(f"There is nothing at {source}, where the search had its texts; say data.{name}=FILE.")
    splits = splits_of(config)
    if splits.fingerprint != exported.data.fingerprint:
        raise DataError(
            f"The texts, labels or splits of {config.data.train} are not those of the study {exported.study!r}, so no "
            "score would compare; give the same texts, as data.train=FILE where they lie elsewhere."
        )
    return config, splits


def open_trainer(exported: Exported, config: StudyConfig, splits: Splits, files: Path | None = None) -> Worker:
    """Return a worker that trains in the search's precision, and keeps weights below `files`.

    Raises:
        ModelError, ConfigurationError: the model, the metric or the device cannot be used.
    """
    worker = open_worker(config, splits, files)
    if worker.metric.name != exported.metric:
        raise ConfigurationError(
            f"The score in the file is {exported.metric}, but its task asks for {worker.metric.name}; write the "
            "file again with hpo export."
        )
    worker.use(exported.precision)
    return worker


def retrain(worker: Worker, assignment: Assignment, say: Say, stop_at: int | None = None) -> Report:
    """Train to the end, or to the full evaluation at rung `stop_at`; return the best full evaluation.

    Raises:
        TrainingError: it failed, diverged, or ran out of memory.
    """

    def answer(message: Report | Progress) -> Action:
        if isinstance(message, Progress) or not message.full:
            return Action.CONTINUE
        say(f"epoch {message.epoch:.2f}: {message.validation.metric} {message.validation.objective:.4f}")
        return Action.STOP if message.rung == stop_at else Action.CONTINUE

    outcome = train(worker, assignment, answer)
    wanted = Ending.COMPLETED if stop_at is None else Ending.PRUNED
    if outcome.ending is not wanted or outcome.best is None:
        raise TrainingError(f"The training {outcome.ending}: {outcome.reason or 'nothing was scored.'}")
    return outcome.best
