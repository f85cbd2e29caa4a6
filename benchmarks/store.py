"""Time to record a trial: hpo's methods, with all their rows, against plain Optuna on the same kind of file.

Run it with `python benchmarks/store.py [trials]`. Both sides ask, draw 8 parameters at random, report at 3 rungs with a
median pruner, and tell; both write to SQLite in WAL with synchronous=FULL. They take turns in blocks, so that whatever
else the machine does falls on both alike.
"""

import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import optuna
from sqlalchemy import event

from hpo.config.loading import load_config
from hpo.messages import Capacity, Ending, Outcome, Report, Scores
from hpo.search.coordinator import Coordinator
from hpo.search.study_opening import leading
from hpo.space.search_space import SearchSpace

RUNGS = (125, 500, 1000)
BLOCK = 10
BAR = 1.2
SPACE = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-3},
    "batch_size": {"values": [8, 16, 32]},
    "warmup_ratio": {"min": 0.0, "max": 0.3},
    "l2_strength": {"min": 0.0, "max": 0.1},
    "dropout": {"min": 0.0, "max": 0.3},
    "label_smoothing": {"min": 0.0, "max": 0.2},
    "schedule": {"values": ["linear", "cosine", "constant"]},
    "epochs": {"min": 3, "max": 4},
}


VERBS = ("next_assignment", "observe", "finish")

Parts = dict[str, float]


def main(trials: int) -> None:
    """Print milliseconds a trial of both sides, what ours are made of, and their ratio."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, _coordinator(Path(folder), trials) as coordinator:
        study = _plain_study(Path(folder))
        ours, plain = _alternate(trials, lambda: _our_trial(coordinator), lambda: _plain_trial(study))
    our_trial, plain_trial = (median(sum(parts.values()) for parts in taken) for taken in (ours, plain))
    print(f"{trials} trials a side, in blocks of {BLOCK}, SQLite in WAL with synchronous=FULL; medians a trial")
    print(f"plain Optuna       {plain_trial:6.1f} ms")
    print(f"hpo                {our_trial:6.1f} ms, with lease, attempt, evaluations and events")
    for verb in VERBS:
        print(f"  {verb:<17}{median(parts[verb] for parts in ours):6.1f} ms")
    print(f"ratio              {our_trial / plain_trial:6.2f}    (bar: at most {BAR})")


def _alternate(trials: int, first: Callable[[], Parts], second: Callable[[], Parts]) -> tuple[list[Parts], list[Parts]]:
    """Run both `trials` times, in turns of a block each; return the milliseconds of every run by part."""
    taken: tuple[list[Parts], list[Parts]] = ([], [])
    for _ in range(trials // BLOCK):
        for run, parts in zip((first, second), taken, strict=True):
            parts += [run() for _ in range(BLOCK)]
    return taken


@contextmanager
def _timed(parts: Parts, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    parts[name] = parts.get(name, 0.0) + 1000 * (time.perf_counter() - start)


def _our_trial(coordinator: Coordinator) -> Parts:
    parts: Parts = {}
    with _timed(parts, "next_assignment"):
        assignment = coordinator.next_assignment(uuid.uuid4().hex, Capacity(worker="w", device="cpu"))
    assert assignment is not None
    reports = [_report(assignment.trial, rung) for rung in RUNGS]
    with _timed(parts, "observe"):
        for report in reports:
            coordinator.observe(report)
    outcome = Outcome(
        trial=assignment.trial,
        attempt=1,
        ending=Ending.COMPLETED,
        best=reports[-1],
        seconds=1.0,
        peak_memory_bytes=1,
    )
    with _timed(parts, "finish"):
        coordinator.finish(outcome)
    return parts


def _plain_trial(study: optuna.Study) -> Parts:
    parts: Parts = {}
    with _timed(parts, "all"):
        _run_plainly(study)
    return parts


def _run_plainly(study: optuna.Study) -> None:
    trial = study.ask()
    trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True)
    trial.suggest_categorical("batch_size", [8, 16, 32])
    trial.suggest_float("warmup_ratio", 0.0, 0.3)
    trial.suggest_float("l2_strength", 0.0, 0.1)
    trial.suggest_float("dropout", 0.0, 0.3)
    trial.suggest_float("label_smoothing", 0.0, 0.2)
    trial.suggest_categorical("schedule", ["linear", "cosine", "constant"])
    trial.suggest_int("epochs", 3, 4)
    for rung in RUNGS:
        trial.report(_score(trial.number, rung), rung)
        trial.should_prune()
    study.tell(trial, _score(trial.number, RUNGS[-1]))


def _score(trial: int, rung: int) -> float:
    return rung / 2000 + trial % 7 / 20


def _report(trial: int, rung: int) -> Report:
    values = {"macro_f1": _score(trial, rung), "micro_f1": 0.5, "weighted_f1": 0.5, "accuracy": 0.5, "loss": 0.7}
    per_class = {name: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 100} for name in ("a", "b", "c")}
    scores = Scores(metric="macro_f1", values=values, rows=300, per_class=per_class, confusion=((50, 25, 25),) * 3)
    return Report(
        trial=trial, attempt=1, rung=rung, full=rung == RUNGS[-1], decides=True, step=rung, epoch=rung / 250,
        examples_seen=rung * 16, learning_rate=1e-5, train_loss=0.5, validation=scores, train=scores, seconds=1.0,
        peak_memory_bytes=1,
    )  # fmt: skip


@contextmanager
def _coordinator(folder: Path, trials: int) -> Iterator[Coordinator]:
    config = load_config(
        values={
            "study": "benchmark",
            "model": {"name": "none"},
            "data": {"train": "none.csv"},
            "search": {"sampler": "random"},
            "budget": {"trials": trials},
            "store": {"url": f"sqlite:///{folder / 'hpo.db'}"},
        }
    )
    space = SearchSpace.from_mapping(SPACE, "benchmark")
    with leading(config, space, data_fingerprint="none") as coordinator:
        coordinator.begin(metric="macro_f1", versions={})
        yield coordinator


def _plain_study(folder: Path) -> optuna.Study:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'plain.db'}")
    event.listen(storage.engine, "connect", _as_durable_as_ours)
    storage.engine.dispose()
    return optuna.create_study(
        storage=storage,
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=RUNGS[0], n_min_trials=4),
    )


def _as_durable_as_ours(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
