"""Trials are read as Optuna reads them itself, whatever is in them."""

import math
from collections.abc import Iterator
from datetime import datetime

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.store.database import Database, open_database

CHOICES = CategoricalDistribution((None, "a", 1, 2.5, True))
PARAMS = {"b": 3, "a": 0.25, "choice": None}
DISTRIBUTIONS = {"b": IntDistribution(1, 9, step=2), "a": FloatDistribution(0.1, 1, log=True), "choice": CHOICES}
ODD = {"nan": math.nan, "deep": {"of": [1, {"it": None}]}, "é": "\x7f"}


def trials() -> list[FrozenTrial]:
    """Return one of each kind; a value that is not a number equals none, so it stands for itself by identity."""
    steps = {1: 0.5, 3: math.inf, 2: -math.inf, 9: math.nan}
    full = create_trial(
        value=0.5, params=PARAMS, distributions=DISTRIBUTIONS, user_attrs=ODD, system_attrs={"fixed_params": PARAMS},
        intermediate_values=steps,
    )  # fmt: skip
    infinite = [create_trial(value=value) for value in (math.inf, -math.inf)]
    others = [create_trial(state=state) for state in TrialState if state != TrialState.COMPLETE]
    return [full, *infinite, *others]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


def study_in(database: Database, name: str) -> optuna.Study:
    return optuna.create_study(storage=database.storage, study_name=name, direction="maximize")


def spelled(found: list[FrozenTrial]) -> list[str]:
    """Return trials so that NaN equals NaN; of dicts only parameters have an order that means something."""
    return [
        repr(
            [
                trial.number, trial.state, trial._trial_id, trial.values, trial.datetime_start, trial.datetime_complete,
                trial.params, trial.distributions, sorted(trial.user_attrs.items()),
                sorted(trial.system_attrs.items()), sorted(trial.intermediate_values.items()),
            ]
        )
        for trial in found
    ]  # fmt: skip


def test_every_kind_of_trial_is_read_as_optuna_reads_it(database: Database) -> None:
    study_in(database, "earlier").add_trials(trials())
    study = study_in(database, "ours")
    study.add_trials(trials())
    study_in(database, "later").add_trials(trials())
    storage, study_id = database.storage, study._study_id
    ours = storage._get_trials(study_id, None, set(), -1)
    assert len(ours) == len(trials())
    assert isinstance(ours[0].datetime_start, datetime)
    assert spelled(ours) == spelled(RDBStorage._get_trials(storage, study_id, None, set(), -1))


@pytest.mark.parametrize(
    ("states", "included", "later_than"),
    [
        (None, set(), -1),
        (None, {1, 3}, 4),
        (None, set(), 4),
        (None, {6}, 4),
        ((TrialState.RUNNING, TrialState.FAIL), set(), -1),
        ((TrialState.COMPLETE,), {1, 2}, 2),
        ((), set(), -1),
    ],
)
def test_a_part_of_the_trials_is_the_part_that_optuna_reads(
    database: Database, states: tuple[TrialState, ...] | None, included: set[int], later_than: int
) -> None:
    study = study_in(database, "ours")
    study.add_trials(trials())
    asked = study._study_id, states, included, later_than
    found = database.storage._get_trials(*asked)
    assert spelled(found) == spelled(RDBStorage._get_trials(database.storage, *asked))


def test_a_study_that_is_not_there_is_an_error_and_not_an_empty_one(database: Database) -> None:
    with pytest.raises(KeyError):
        database.storage.get_all_trials(99)
