"""A later start goes on where the last one ended: nothing twice, nothing lost, and never into another study."""

from contextlib import closing
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from hpo.errors import StudyMismatchError
from hpo.messages import Assignment, Ending
from hpo.search.coordinator import Coordinator
from hpo.search.outcomes import MAX_LOST_RUNS
from hpo.search.steering import enqueue
from hpo.search.study_opening import leading
from hpo.space.search_space import SearchSpace
from hpo.store.database import open_database
from hpo.store.studies import recorded_configuration
from tests.search.scripted import (
    CPU,
    SPACE,
    ended,
    everything,
    led,
    plain_study,
    plain_trials,
    report_at,
    rows,
    search,
    study_at,
    train,
    written,
)


def proposals(url: str) -> list[dict[str, Any]]:
    return [trial.params for trial in plain_trials(url)]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_in_two_parts_proposes_what_one_in_one_part_does(sqlite_url: str, sampler: str) -> None:
    """A proposal follows from the study's seed, the trial's number and what was finished before, not from restarts."""
    whole, parted = sqlite_url.replace("hpo.db", "whole.db"), sqlite_url
    changes = {"sampler": sampler, "startup_trials": 4}
    with led(study_at(whole, search=changes, budget={"trials": 9})) as coordinator:
        search(coordinator)
    for part, trials in enumerate((3, 7, 9)):
        with led(study_at(parted, search=changes, budget={"trials": trials})) as coordinator:
            search(coordinator, name=f"part-{part}")
        assert len(proposals(parted)) == trials
    assert proposals(parted) == proposals(whole)
    rates = [parameters["learning_rate"] for parameters in proposals(parted)]
    assert len(set(rates)) == 9
    seeds = [trial.user_attrs["seed"] for trial in plain_trials(parted)]
    assert len(set(seeds)) == 9


def test_another_study_seed_proposes_otherwise(sqlite_url: str) -> None:
    other = sqlite_url.replace("hpo.db", "other.db")
    for url, seed in ((sqlite_url, 0), (other, 1)):
        with led(study_at(url, seed=seed)) as coordinator:
            search(coordinator)
    assert proposals(sqlite_url)[0] == proposals(other)[0]  # the default
    assert all(one != two for one, two in zip(proposals(sqlite_url)[1:], proposals(other)[1:], strict=True))


def test_the_default_comes_first_and_once(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, budget={"trials": 20})) as coordinator:
        first = [assigned(coordinator, number) for number in range(3)]
    defaults = [assignment for assignment in first if assignment.hyperparameters.learning_rate == 3e-5]
    assert [assignment.trial for assignment in defaults] == [0]
    assert (first[0].hyperparameters.optimizer, first[0].hyperparameters.epochs) == ("adamw", 2)
    assert len({assignment.seed for assignment in first}) == 3
    proposed = [trial.user_attrs.get("proposed_by") for trial in plain_trials(sqlite_url)]
    assert proposed == ["default", "random", "random"]


def assigned(coordinator: Coordinator, number: int) -> Assignment:
    assignment = coordinator.next_assignment(f"request {number}", CPU)
    assert assignment is not None
    return assignment


def test_a_repeated_default_can_be_declined(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, budget={"trials": 20}, search={"repeat_default": False})) as coordinator:
        assert assigned(coordinator, 1).hyperparameters != assigned(coordinator, 0).hyperparameters


def test_a_paused_trial_goes_on_first_as_itself(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        train(coordinator, assigned(coordinator, 0))
        paused, other = assigned(coordinator, 1), assigned(coordinator, 2)
        coordinator.observe(report_at(paused, paused.milestones[0], 0.6))
        coordinator.finish(ended(paused, Ending.PAUSED, reason="the search was stopped"))
        train(coordinator, other)
        assert coordinator.standing().finished == 2
    [waiting] = [trial for trial in plain_trials(database_url) if trial.state == TrialState.WAITING]
    assert waiting.number == paused.trial
    assert waiting.intermediate_values == {paused.milestones[0].rung: 0.6}

    with led(study_at(database_url)) as coordinator:
        again = assigned(coordinator, 3)
        assert (again.trial, again.attempt) == (paused.trial, 2)
        assert (again.hyperparameters, again.seed, again.milestones) == (
            paused.hyperparameters,
            paused.seed,
            paused.milestones,
        )
        assert again.score_to_beat is not None
        train(coordinator, again)
        search(coordinator)
    trials = plain_trials(database_url)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    assert trials[paused.trial].user_attrs["proposed_by"] == "random"
    endings = rows(database_url, "SELECT ending FROM hpo_attempts WHERE trial = 1 ORDER BY attempt")
    assert endings == [("paused",), ("completed",)]


def test_a_paused_trial_goes_on_though_the_budget_is_spent(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, budget={"trials": 1})) as coordinator:
        first = assigned(coordinator, 0)
        coordinator.finish(ended(first, Ending.PAUSED))
        assert assigned(coordinator, 1).trial == first.trial


def test_what_a_dead_leader_left_running_goes_on_first(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        left = [assigned(coordinator, number) for number in range(2)]
    with led(study_at(database_url)) as coordinator:
        again = [assigned(coordinator, 10 + number) for number in range(2)]
    assert [(one.trial, one.attempt) for one in again] == [(0, 2), (1, 2)]
    assert [one.hyperparameters for one in again] == [one.hyperparameters for one in left]
    requeued = rows(database_url, "SELECT trial, attempt FROM hpo_events WHERE kind = 'requeued' ORDER BY event_id")
    assert requeued == [(0, 1), (1, 1)]


def test_a_trial_with_which_the_search_dies_again_and_again_fails(sqlite_url: str) -> None:
    """Its attempts that were paused do not count: those ended as they were told to."""
    with led(study_at(sqlite_url)) as coordinator:
        coordinator.finish(ended(assigned(coordinator, 0), Ending.PAUSED))
    for attempt in range(2, MAX_LOST_RUNS + 2):
        with led(study_at(sqlite_url)) as coordinator:
            deadly = assigned(coordinator, attempt)
            assert (deadly.trial, deadly.attempt) == (0, attempt)
    with led(study_at(sqlite_url)) as coordinator:
        assert assigned(coordinator, 99).trial == 1
    failed = plain_trials(sqlite_url)[0]
    reason = "The search died with it in 10 attempts."
    assert (failed.state, failed.user_attrs["reason"]) == (TrialState.FAIL, reason)


MISMATCHES = [
    ({"space": SPACE | {"epochs": {"min": 1, "max": 4, "default": 2}}}, "space.epochs.max: 3 before, 4 now"),
    (
        {"space": {name: spec for name, spec in SPACE.items() if name != "epochs"}},
        "space.epochs: {'distribution': 'int_uniform', 'min': 1, 'max': 3, 'default': 2} before, nothing now",
    ),
    ({"model": {"name": "another"}}, "model.name: none before, another now"),
    ({"task": {"metric": "accuracy"}}, "task.metric: auto before, accuracy now"),
    ({"seed": 5}, "seed: 0 before, 5 now"),
    ({"evaluation": {"rungs": 2}}, "evaluation.rungs: 4 before, 2 now"),
]


WIDER = SPACE | {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-7, "max": 1e-2, "default": 3e-5},
    "momentum": {"min": 0.1, "max": 0.99, "when": {"optimizer": ["momentum"]}},
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_goes_on_over_a_wider_range_of_a_real_number(database_url: str, sampler: str) -> None:
    with led(study_at(database_url)) as coordinator:
        search(coordinator)
    changes = {"space": WIDER, "budget": {"trials": 40}, "search": {"sampler": sampler}}
    with led(study_at(database_url, **changes)) as coordinator:
        search(coordinator)
    trials = plain_trials(database_url)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 40
    assert all(1e-6 <= trial.params["learning_rate"] <= 1e-3 for trial in trials[:4])
    assert any(not 1e-6 <= trial.params["learning_rate"] <= 1e-3 for trial in trials[4:])
    with pytest.raises(StudyMismatchError, match="1e-07 before"):
        led(study_at(database_url)).__enter__()


def test_of_a_wider_range_its_new_default_alone_is_told(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)):
        pass
    wider = SPACE | {"learning_rate": {**WIDER["learning_rate"], "default": 1e-3}}
    told = r"What differs: space\.learning_rate\.default: 3e-05 before, 0.001 now"
    with pytest.raises(StudyMismatchError, match=told):
        led(study_at(sqlite_url, space=wider)).__enter__()


@pytest.mark.parametrize(
    "space",
    [
        SPACE | {"learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2, "default": 3e-5}},
        SPACE | {"learning_rate": {"distribution": "uniform", "min": 1e-7, "max": 1e-2, "default": 3e-5}},
        SPACE | {"learning_rate": {"distribution": "log_uniform_values", "min": 1e-7, "max": 1e-2, "default": 1e-3}},
        SPACE | {"optimizer": {"values": ["adamw", "momentum", "sgd"]}},
        SPACE | {"epochs": {"min": 1, "max": 9, "default": 2}},
    ],
)
def test_what_is_no_widened_range_is_refused(sqlite_url: str, space: dict[str, Any]) -> None:
    with led(study_at(sqlite_url)):
        pass
    with pytest.raises(StudyMismatchError, match="space\\."):
        led(study_at(sqlite_url, space=space)).__enter__()


@pytest.mark.parametrize(("change", "said"), MISMATCHES)
def test_a_study_is_not_gone_on_with_as_another(sqlite_url: str, change: dict[str, Any], said: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        search(coordinator)
    before = everything(sqlite_url)
    with pytest.raises(StudyMismatchError) as error:
        led(study_at(sqlite_url, **change)).__enter__()
    assert said in str(error.value)
    assert str(error.value).startswith("The study 'scripted' was begun otherwise")
    assert everything(sqlite_url) == before


@pytest.mark.parametrize("versions", ['{"hpo": "0.1.0"}', '{"semantics": "1"}', '{"semantics": "99"}'])
def test_a_study_under_whose_version_trials_scored_otherwise_is_not_searched_on(
    database_url: str, versions: str
) -> None:
    with led(study_at(database_url)) as coordinator:
        search(coordinator)
    written(database_url, f"UPDATE hpo_studies SET versions = '{versions}'")
    before = everything(database_url)
    with pytest.raises(StudyMismatchError, match=r"a little otherwise.* hpo best, report and export"):
        led(study_at(database_url)).__enter__()
    assert everything(database_url) == before
    database = open_database(database_url)
    try:
        with pytest.raises(StudyMismatchError, match="start a new study"):
            enqueue(database, None, {"epochs": 1}, "typed")
    finally:
        database.close()
    assert everything(database_url) == before
    config = study_at(database_url)
    assert isinstance(config.space, dict)
    space = SearchSpace.from_mapping(config.space, "scripted")
    with leading(config, space, data_fingerprint="fingerprint", searches=False) as coordinator:
        assert coordinator.standing().completed == 4


def test_a_study_is_not_gone_on_with_on_other_data(database_url: str) -> None:
    with led(study_at(database_url)):
        pass
    before = everything(database_url)
    with pytest.raises(StudyMismatchError, match="data: the texts, labels or splits are not the same"):
        led(study_at(database_url), data="another").__enter__()
    assert everything(database_url) == before


def test_a_study_is_not_gone_on_with_over_other_pretrained_weights(sqlite_url: str) -> None:
    begun, other = {"transformers": "5", "weights": "a"}, {"weights": "b"}
    with led(study_at(sqlite_url), versions=begun) as coordinator:
        search(coordinator)
    before = everything(sqlite_url)
    with pytest.raises(StudyMismatchError, match=r"begun over other pretrained weights than its model\.name has now"):
        led(study_at(sqlite_url), versions=begun | other).__enter__()
    assert everything(sqlite_url) | {"hpo_leases": None} == before | {"hpo_leases": None}
    for unknown in (begun, {"transformers": "5"}, {"transformers": "6"} | other):
        with led(study_at(sqlite_url), versions=unknown):
            pass


def test_budget_store_search_first_rung_and_compute_may_change(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)):
        pass
    changes = {"store": {"files": "elsewhere"}, "search": {"sampler": "tpe", "pruner": "median"}}
    changes |= {"evaluation": {"first_rung": None}}
    with led(study_at(sqlite_url, budget={"trials": 5}, compute={"device": "cpu"}, **changes)) as coordinator:
        assert len(search(coordinator)) == 5


def test_the_same_study_written_otherwise_is_the_same(sqlite_url: str) -> None:
    """A space names what it leaves out only by its meaning, and JSON gives back what YAML gave."""
    relative = {"relative_to": {"optimizer": {"adamw": 1, "momentum": 100}, "method": {"full": 3e-5}}}
    space = {"optimizer": {"values": ["adamw", "momentum"]}, "learning_rate": relative | {"min": 0.1, "max": 10.0}}
    with led(study_at(sqlite_url, space=space)):
        pass
    written_out = space | {"optimizer": {"distribution": "categorical", "values": ["adamw", "momentum"]}}
    with led(study_at(sqlite_url, space=written_out)):
        pass


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_study_that_hpo_did_not_make_is_left_alone(sqlite_url: str, direction: str) -> None:
    storage = optuna.storages.RDBStorage(sqlite_url)
    study = optuna.create_study(study_name="scripted", storage=storage, direction=direction)
    if direction == "maximize":
        study.add_trial(optuna.create_trial(value=0.5))
    storage.remove_session()
    storage.engine.dispose()
    with pytest.raises(StudyMismatchError, match="'scripted' is in the store, but was not made by hpo"):
        led(study_at(sqlite_url)).__enter__()
    with plain_study(sqlite_url) as study:
        assert study.direction.name == direction.upper()
        assert len(study.trials) == (direction == "maximize")
    assert rows(sqlite_url, "SELECT 1 FROM hpo_studies") == []


def test_rows_of_a_deleted_study_are_not_taken_for_those_of_the_next_one(database_url: str) -> None:
    """SQLite gives the number of a deleted study to the next one."""
    with led(study_at(database_url)) as coordinator:
        search(coordinator)
    with plain_study(database_url) as study:
        optuna.delete_study(study_name="scripted", storage=study._storage)
    with led(study_at(database_url, model={"name": "another"})) as coordinator:
        first = assigned(coordinator, 0)
        assert (first.trial, first.attempt) == (0, 1)
        assert coordinator.measurements() is None
        [(number,)] = rows(database_url, "SELECT study_id FROM studies")
        mine = f"FROM hpo_attempts WHERE study_id = {number}"
        assert rows(database_url, f"SELECT trial, attempt {mine}") == [(0, 1)]
        assert rows(database_url, f"SELECT count(*) FROM hpo_evaluations WHERE study_id = {number}") == [(0,)]


def test_a_leader_of_a_deleted_study_is_refused_by_the_next_one_of_its_number(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as old:
        with plain_study(sqlite_url) as study:
            optuna.delete_study(study_name="scripted", storage=study._storage)
        written(sqlite_url, "UPDATE hpo_leases SET expires_at = 0")
        with led(study_at(sqlite_url)):
            with pytest.raises(Exception, match="is now led by"):
                old.next_assignment("late", CPU)
            assert rows(sqlite_url, "SELECT 1 FROM hpo_attempts") == []


def test_what_a_study_was_begun_with_is_read_without_its_trials(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_database(database_url)) as database:
        assert recorded_configuration(database, "scripted") is None
        assert database.storage.get_all_studies() == [], "a look creates no study"
        with led(study_at(database_url)) as coordinator:
            search(coordinator)
        monkeypatch.delattr(optuna.storages.RDBStorage, "get_all_trials")
        found = recorded_configuration(database, "scripted")
    assert found is not None
    assert found["evaluation"]["first_rung"] == 250


def test_measurements_are_kept_for_later_starts(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        assert coordinator.measurements() is None
        coordinator.record_measurements({"precision": "bf16", "seconds": 0.25})
    with led(study_at(database_url)) as coordinator:
        assert coordinator.measurements() == {"precision": "bf16", "seconds": 0.25}
