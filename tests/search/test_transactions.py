"""Each verb writes Optuna's rows and ours together or not at all, whatever breaks inside it."""

from collections.abc import Callable
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from hpo.errors import StoreError
from hpo.messages import Ending
from hpo.search.coordinator import Coordinator
from hpo.store.database import open_database
from hpo.store.optuna_adapter import JoiningStorage
from hpo.store.tables import EventLog
from hpo.store.trials import Attempts, Trials
from tests.search.scripted import CPU, ended, everything, led, plain_trials, report_at, search, study_at, train

Verb = Callable[[Coordinator], object]

# What each verb calls that writes: in our store, and in Optuna's.
OURS = {
    "next_assignment": [(Attempts, "begin"), (EventLog, "add"), (Trials, "set_attributes")],
    "observe": [(Trials, "set_intermediate_value"), (Attempts, "add_evaluation")],
    "finish": [(Attempts, "end"), (EventLog, "add"), (Trials, "set_attributes")],
}
OPTUNAS = {
    "next_assignment": [(JoiningStorage, "begin_trial"), (JoiningStorage, "write")],
    "observe": [(JoiningStorage, "set_trial_intermediate_value")],
    "finish": [(JoiningStorage, "set_state")],
}
CASES = [
    (owner, verb, method)
    for writers in (OURS, OPTUNAS)
    for verb, methods in writers.items()
    for owner, method in methods
]


class Broken(Exception):
    pass


def break_after(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
    """Let `method` do its work and then raise."""
    original = getattr(owner, method)

    def broken(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise Broken(method)

    monkeypatch.setattr(owner, method, broken)


def prepared(coordinator: Coordinator, verb: str) -> Verb:
    """Return a verb that is about to write, everything before it done."""
    if verb == "next_assignment":
        return lambda coordinator: coordinator.next_assignment("broken", CPU)
    assignment = coordinator.next_assignment("open", CPU)
    assert assignment is not None
    if verb == "observe":
        return lambda coordinator: coordinator.observe(report_at(assignment, assignment.milestones[0], 0.5))
    report = report_at(assignment, assignment.milestones[-1], 0.5)
    coordinator.observe(report)
    return lambda coordinator: coordinator.finish(ended(assignment, Ending.COMPLETED, report))


@pytest.mark.parametrize(("owner", "verb", "method"), CASES)
def test_an_exception_anywhere_in_a_verb_leaves_no_row_and_the_verb_can_be_asked_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, owner: type, verb: str, method: str
) -> None:
    config = study_at(sqlite_url, budget={"trials": 3})
    with led(config) as coordinator:
        first = coordinator.next_assignment("default", CPU)
        assert first is not None
        train(coordinator, first)  # the default was enqueued, so that the next trial is a new one
        ask = prepared(coordinator, verb)
        before = everything(sqlite_url)
        with monkeypatch.context() as patched:
            break_after(patched, owner, method)
            with pytest.raises(Broken):
                ask(coordinator)
        assert everything(sqlite_url) == before
        # Optuna had cached what never was.
        assert coordinator._store.study.trials == plain_trials(sqlite_url)
        ask(coordinator)
        assert everything(sqlite_url) != before
        search(coordinator)
    assert [trial.number for trial in plain_trials(sqlite_url)] == [0, 1, 2]


def test_an_exception_in_a_verb_leaves_no_row_on_postgresql(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with led(study_at(postgresql_url)) as coordinator:
        finish = prepared(coordinator, "finish")
        before = everything(postgresql_url)
        with monkeypatch.context() as patched:
            break_after(patched, JoiningStorage, "set_state")
            with pytest.raises(Broken):
                finish(coordinator)
        assert everything(postgresql_url) == before
        finish(coordinator)
        assert [trial.state.name for trial in coordinator._store.study.trials] == ["COMPLETE"]


AFTERWARDS: list[Callable[[optuna.Study, sa.Connection], object]] = [
    lambda study, connection: None,
    lambda study, connection: study.ask(),
    lambda study, connection: connection.execute(sa.text("SELECT 1")),
]


@pytest.mark.parametrize("afterwards", AFTERWARDS, ids=["the end", "a call of Optuna's", "a statement of ours"])
def test_an_error_that_optuna_swallows_in_a_transaction_is_raised_and_nothing_is_kept(
    database_url: str, afterwards: Callable[[optuna.Study, sa.Connection], object]
) -> None:
    """Optuna rolls back and goes on where it meets a row that is there already: that must not pass for done."""
    database = open_database(database_url)
    study = optuna.create_study(storage=database.storage, study_name="s", direction="maximize")
    distribution = optuna.distributions.FloatDistribution(0, 1)

    def verb() -> None:
        with database.transaction() as connection:
            trial_id = study.ask()._trial_id
            for _ in range(2):
                database.storage.set_trial_param(trial_id, "x", 0.5, distribution)
            afterwards(study, connection)

    before = everything(database_url)
    with pytest.raises(StoreError, match=r"failed: .*(UNIQUE|unique)"):
        verb()
    assert everything(database_url) == before
    database.close()


def test_an_error_of_the_database_is_one_sentence_that_names_the_store(sqlite_url: str) -> None:
    database = open_database(sqlite_url)
    with pytest.raises(StoreError) as error, database.transaction() as connection:
        connection.execute(sa.text("SELECT * FROM nowhere"))
    assert str(error.value) == f"The store {sqlite_url} failed: no such table: nowhere."
    database.close()
