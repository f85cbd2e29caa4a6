"""A whole search, from a study's configuration to its results: what `hpo run` does, and `hpo.run` in Python."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from threading import Event

from hpo.config.study_file import USUAL_TRIALS, StudyConfig
from hpo.data.splits import load_splits
from hpo.errors import StudyMismatchError
from hpo.messages import Action, Assignment, Ending, Outcome, Progress, Report
from hpo.runners import inline
from hpo.runners.watcher import Watcher
from hpo.search.assignments import demands_of
from hpo.search.coordinator import Coordinator
from hpo.search.enumeration import ENUMERATIONS
from hpo.search.leading import leading
from hpo.search.preflight import refuse_unfit_search, search_notes
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import space_of
from hpo.store.engine import open_database, sqlite_path
from hpo.store.results import StudyResults, read_results
from hpo.training.precision import Precision
from hpo.training.worker import Worker, open_worker, train

Runner = Callable[[Coordinator, Worker, Watcher, Event], None]
RUNNERS: Mapping[str, Runner] = {"inline": inline.run}
NOTED_CUT_SHARE = 0.1
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
    refuse_unfit_search(config, space)
    splits = load_splits(config.data, config.seed, folds=config.evaluation.folds)
    for sentence in (*splits.notes, *search_notes(config, space)):
        watcher.note(sentence)
    with leading(config, space, data_fingerprint=splits.fingerprint) as coordinator:
        worker = open_worker(config, splits, files_folder(config))
        _look_ahead(worker, space, watcher)
        coordinator.begin(objective=worker.objective.metric, versions=installed_versions() | worker.facts())
        _search(coordinator, config, worker, space, watcher, stop)
    database = open_database(config.store.url)
    try:
        return read_results(database, config.study)
    finally:
        database.close()


def files_folder(config: StudyConfig) -> Path:
    """Return the folder of a study's weights: beside a SQLite store, unless the study file names another."""
    if config.store.files is not None:
        return config.store.files / config.study
    database = sqlite_path(config.store.url)
    beside = Path("hpo-files") if database is None else database.with_name(f"{database.stem}-files")
    return beside / config.study


def installed_versions() -> dict[str, str]:
    """Return the versions that decide what a trial computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in RECORDED_PACKAGES}}


def _look_ahead(worker: Worker, space: SearchSpace, watcher: Watcher) -> None:
    """Refuse before the first trial what every trial would fail on, and say what is lost of the texts."""
    worker.refuse_unfit(demands_of(space))
    watcher.note(worker.objective.note)
    longest = int(space.largest("max_length"))
    cut = worker.cut_share(longest)
    if cut > NOTED_CUT_SHARE:
        watcher.note(f"{cut:.0%} of the training texts fill max_length, {longest} tokens; what is longer is cut there.")


def _search(
    coordinator: Coordinator, config: StudyConfig, worker: Worker, space: SearchSpace, watcher: Watcher, stop: Event
) -> None:
    worker.use(_precision(coordinator, config, worker, space, watcher))
    standing = coordinator.standing()
    trials = config.budget.most_trials or USUAL_TRIALS
    if config.search.sampler in ENUMERATIONS:
        trials = min(trials, space.size())
    watcher.started(config.study, worker.objective.metric, trials, standing)
    RUNNERS["inline"](coordinator, worker, watcher, stop)
    if worker.splits.test is not None and not stop.is_set():
        _read_test_once(coordinator, worker, watcher, stop)


def _precision(
    coordinator: Coordinator, config: StudyConfig, worker: Worker, space: SearchSpace, watcher: Watcher
) -> Precision:
    """Return the study's precision: measured at its first start, and the same for every later one."""
    measured = coordinator.measurements()
    if measured is None:
        if config.compute.precision == "auto":
            watcher.note("Measuring whether bf16 pays here; it is done once for the study.")
        measured = asdict(worker.measure(int(space.largest("max_length"))))
        coordinator.record_measurements(measured)
    precision: Precision = measured["precision"]
    asked = config.compute.precision
    if asked not in ("auto", precision):
        raise StudyMismatchError(
            f"compute.precision is {asked}, but the study {config.study!r} was begun in {precision}, and its results "
            "would not compare; leave it out, or start a new study with --study NAME."
        )
    return precision


def _read_test_once(coordinator: Coordinator, worker: Worker, watcher: Watcher, stop: Event) -> None:
    """Score the winner on the test split, unless that was done before."""
    winner = coordinator.winner()
    if winner is None or coordinator.test_was_read(winner.trial):
        return
    if not worker.has_weights(winner.trial):
        watcher.note(f"The weights of trial {winner.trial} are no longer here; it is trained again for the test split.")
        outcome = _trained_again(worker, winner, watcher, stop)
        if outcome.ending is not Ending.COMPLETED:
            watcher.note(f"The test split was not read: trial {winner.trial} {outcome.ending}. {outcome.reason}")
            return
    scores = worker.test_scores(winner.trial, winner.hyperparameters)
    coordinator.record_test(winner.trial, scores)
    watcher.tested(winner.trial, scores)


def _trained_again(worker: Worker, assignment: Assignment, watcher: Watcher, stop: Event) -> Outcome:
    def answer(message: Report | Progress) -> Action:
        if isinstance(message, Progress):
            watcher.progressed(message)
        return Action.PAUSE if stop.is_set() else Action.CONTINUE

    return train(worker, assignment, answer)
