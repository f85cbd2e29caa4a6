"""A study driven by a script of scores: the coordinator's verbs without a model, and all tables as plain rows."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import optuna
import sqlalchemy as sa

from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.messages import Action, Assignment, Capacity, Ending, Milestone, Outcome, Report, Scores
from hpo.search.coordinator import Coordinator
from hpo.search.study_opening import leading
from hpo.space.search_space import SearchSpace

CPU = Capacity(worker="scripted-0", device="cpu")
SPACE = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-3, "default": 3e-5},
    "optimizer": {"values": ["adamw", "momentum"]},
    "momentum": {"min": 0.5, "max": 0.99, "when": {"optimizer": ["momentum"]}},
    "epochs": {"min": 1, "max": 3, "default": 2},
}
Curve = Callable[[Assignment, int], float]


def study_at(url: str, **changes: Any) -> StudyConfig:
    """Return a study of 4 trials, drawn at random and never pruned, in the store at `url`, with `changes` over it."""
    values: dict[str, Any] = {
        "study": "scripted",
        "model": {"name": "none"},
        "data": {"train": "none.csv"},
        "space": SPACE,
        "search": {"sampler": "random", "pruner": "none"},
        "evaluation": {"rungs": 4, "first_rung": 250},
        "budget": {"trials": 4},
        "confirmation": {"finalists": 0, "audit": 0},
        "store": {"url": url},
    }
    for section, inner in changes.items():
        both = isinstance(inner, Mapping) and section != "space"
        values[section] = values.get(section, {}) | inner if both else inner
    return load_config(values=values)


@contextmanager
def led(
    config: StudyConfig,
    *,
    data: str = "fingerprint",
    objective: str = "macro_f1",
    clock: Callable[[], float] = time.time,
    versions: Mapping[str, str] = MappingProxyType({"hpo": "test"}),
) -> Iterator[Coordinator]:
    """Lead the study of `config`."""
    assert isinstance(config.space, dict)
    space = SearchSpace.from_mapping(config.space, "scripted")
    with leading(config, space, data_fingerprint=data, clock=clock) as coordinator:
        coordinator.begin(metric=objective, versions=versions)
        yield coordinator


def rising(assignment: Assignment, rung: int) -> float:
    """Score better the further a trial is and the nearer its rate is to 1e-4, never the same for two rates."""
    rate = assignment.hyperparameters.learning_rate
    return 0.4 + rung / 4000 + 0.3 / (1 + abs(rate - 1e-4) / 1e-4)


def report_at(assignment: Assignment, milestone: Milestone, score: float, *, decides: bool = True) -> Report:
    """Return what a worker reports at `milestone`."""
    values = {"macro_f1": score, "accuracy": score / 2, "loss": 1 - score}
    validation = Scores(metric="macro_f1", values=values, rows=100, confusion=((40, 10), (20, 30)))
    train = Scores(metric="macro_f1", values={"macro_f1": min(1.0, score + 0.1)}, rows=100) if milestone.full else None
    return Report(
        trial=assignment.trial,
        attempt=assignment.attempt,
        rung=milestone.rung,
        full=milestone.full,
        decides=decides,
        step=milestone.rung,
        epoch=milestone.rung * assignment.maximum_passes / 1000,
        examples_seen=16 * milestone.rung,
        learning_rate=assignment.hyperparameters.learning_rate,
        train_loss=0.5,
        validation=validation,
        train=train,
        seconds=milestone.rung / 100,
        peak_memory_bytes=1_000_000,
    )


def ended(assignment: Assignment, ending: Ending, best: Report | None = None, reason: str = "") -> Outcome:
    """Return what a worker says at the end of an attempt."""
    return Outcome(
        trial=assignment.trial,
        attempt=assignment.attempt,
        ending=ending,
        best=best,
        seconds=12.5,
        peak_memory_bytes=2_000_000,
        reason=reason or ("" if ending is Ending.COMPLETED else str(ending)),
    )


def train(coordinator: Coordinator, assignment: Assignment, curve: Curve = rising, *, decides: bool = True) -> Outcome:
    """Report every milestone of `assignment`, heed the answers, finish it."""
    full: list[Report] = []
    ending, reached = Ending.COMPLETED, 0
    for milestone in assignment.milestones:
        report = report_at(assignment, milestone, curve(assignment, milestone.rung), decides=decides)
        full += [report] if milestone.full else []
        reached = milestone.rung
        if coordinator.observe(report).action is Action.STOP:
            ending = Ending.PRUNED
            break
    best = max(full, key=lambda report: report.validation.objective, default=None)
    outcome = ended(assignment, ending, best, reason="" if ending is Ending.COMPLETED else f"pruned at rung {reached}")
    coordinator.finish(outcome)
    return outcome


def search(coordinator: Coordinator, curve: Curve = rising, *, name: str = "request") -> list[Outcome]:
    """Train until the budget is spent."""
    outcomes: list[Outcome] = []
    while assignment := coordinator.next_assignment(f"{name}-{len(outcomes)}", CPU):
        outcomes.append(train(coordinator, assignment, curve))
    return outcomes


@contextmanager
def plain_study(url: str) -> Iterator[optuna.Study]:
    """Open the study with plain Optuna, as its dashboard does."""
    storage = optuna.storages.RDBStorage(url)
    try:
        yield optuna.load_study(study_name="scripted", storage=storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def plain_trials(url: str) -> list[optuna.trial.FrozenTrial]:
    """Return the trials as plain Optuna sees them."""
    with plain_study(url) as study:
        return study.trials


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """Return what plain SQL sees in the store at `url`."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query))]
    finally:
        engine.dispose()


def written(url: str, *statements: str) -> None:
    """Run plain SQL statements on the store at `url`, as another program would."""
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))
    finally:
        engine.dispose()


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables, Optuna's and ours."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
            select = {name: sa.text(f'SELECT * FROM "{name}"') for name in tables}
            return {name: sorted(map(tuple, connection.execute(select[name])), key=repr) for name in tables}
    finally:
        engine.dispose()
