"""A whole search, from a study's configuration to its results: what `hpo run` does, and `hpo.run` in Python."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from threading import Event

from sqlalchemy.engine import make_url

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits, load_splits
from hpo.messages import Progress
from hpo.metrics.classification import Objective, resolve_metric
from hpo.runners import inline
from hpo.runners.watcher import Watcher
from hpo.search.coordinator import Coordinator, leading
from hpo.space.space_file import space_of
from hpo.store.engine import open_database
from hpo.store.results import StudyResults, read_results
from hpo.training.worker import Worker, open_worker, train

Runner = Callable[[Coordinator, Worker, Watcher, Event], None]
RUNNERS: Mapping[str, Runner] = {"inline": inline.run}
RECORDED_PACKAGES = ("llm-hpo", "optuna", "torch", "transformers", "scikit-learn", "numpy", "sqlalchemy")


def run(config: StudyConfig, watcher: Watcher | None = None, stop: Event | None = None) -> StudyResults:
    """Search until the study's budget is spent, then read the test split once for the winner.

    A study that is already in the store is gone on with.

    Args:
        config: the study.
        watcher: is told of everything as it happens.
        stop: set from elsewhere, it ends the search tidily: what is running waits in the store for the next run.

    Returns:
        What the study has given so far.

    Raises:
        HpoError: with one sentence, as `hpo.errors` lists them; nothing that was stored is lost.
    """
    watcher, stop = watcher or Watcher(), stop or Event()
    space = space_of(config.space)
    splits = load_splits(config.data, config.seed)
    objective = resolve_metric(config.task.metric, splits.label_names, splits.train.labels, config.task.positive_label)
    for sentence in (*splits.notes, objective.note):
        watcher.note(sentence)
    with leading(
        config,
        space,
        data_fingerprint=splits.fingerprint,
        objective=objective.metric,
        versions=installed_versions(),
    ) as coordinator:
        _search(coordinator, config, splits, objective, watcher, stop)
    database = open_database(config.store.url)
    try:
        return read_results(database, config.study)
    finally:
        database.close()


def files_folder(config: StudyConfig) -> Path:
    """Return the folder of a study's weights: beside a SQLite store, unless the study file names another."""
    if config.store.files is not None:
        return config.store.files / config.study
    url = make_url(config.store.url)
    beside = Path(str(url.database)).parent if url.get_backend_name() == "sqlite" else Path()
    return beside / "hpo-files" / config.study


def installed_versions() -> dict[str, str]:
    """Return the versions that decide what a trial computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in RECORDED_PACKAGES}}


def _search(
    coordinator: Coordinator,
    config: StudyConfig,
    splits: Splits,
    objective: Objective,
    watcher: Watcher,
    stop: Event,
) -> None:
    worker = open_worker(config, splits, files_folder(config))
    measured = coordinator.measurements()
    if measured is None:
        measured = asdict(worker.measure())
        coordinator.record_measurements(measured)
    worker.use(measured["precision"])
    watcher.started(config.study, objective.metric, config.budget.trials, coordinator.finished_trials())
    RUNNERS[config.compute.runner](coordinator, worker, watcher, stop)
    if splits.test is not None and not stop.is_set():
        _read_test_once(coordinator, worker, watcher)


def _read_test_once(coordinator: Coordinator, worker: Worker, watcher: Watcher) -> None:
    """Score the winner on the test split, unless that was done before."""
    winner = coordinator.winner()
    if winner is None or coordinator.test_was_read(winner.trial):
        return
    if not worker.has_weights(winner.trial):
        watcher.note(f"The weights of trial {winner.trial} are no longer here; it is trained again for the test split.")
        for message in train(worker, winner):
            if isinstance(message, Progress):
                watcher.progressed(message)
    scores = worker.test_scores(winner.trial, winner.hyperparameters)
    coordinator.record_test(winner.trial, scores)
    watcher.tested(winner.trial, scores)
