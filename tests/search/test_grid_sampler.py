"""Every combination is proposed once, whatever else happens to the study, and then the search ends by itself."""

from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, create_trial

from hpo.config.study_file import StudyConfig
from hpo.messages import Ending
from hpo.search.coordinator import Coordinator
from hpo.search.grid_sampler import EnumeratingSampler
from hpo.search.samplers import build_sampler, sampler_of
from hpo.space.search_space import SearchSpace
from tests.search.scripted import CPU, ended, led, plain_study, plain_trials, report_at, search, study_at

SPACE = {
    "method": {"values": ["full", "top_layers", "head"]},
    "trained_layers": {"min": 1, "max": 3, "when": {"method": ["top_layers"]}},
    "learning_rate": {"relative_to": {"adamw": 3e-5}, "values": [0.5, 1.0, 2.0], "default": 1.0},
    "epochs": {"value": 3},
}
SIZE = (1 + 3 + 1) * 3
BOTH = pytest.mark.parametrize("sampler", ["grid", "brute_force"])


def config_at(url: str, sampler: str, **changes: Any) -> StudyConfig:
    values: dict[str, Any] = {"budget": {"trials": 100}, "space": SPACE, "search": {"repeat_default": False}}
    for section, inner in changes.items():
        both = isinstance(inner, Mapping) and section != "space"
        values[section] = values.get(section, {}) | inner if both else inner
    values["search"] |= {"sampler": sampler, "pruner": values["search"].get("pruner", "none")}
    return study_at(url, **values)


def combinations(url: str) -> list[tuple[Any, ...]]:
    """Return what the trials are, in a form that can be compared."""
    return [tuple(sorted(trial.params.items())) for trial in plain_trials(url)]


def every_combination() -> set[tuple[Any, ...]]:
    """Return what the space above has, spelled out."""
    methods = [{"method": "full"}, *({"method": "top_layers", "trained_layers": n} for n in (1, 2, 3))]
    return {
        tuple(sorted({**method, "learning_rate_multiplier": rate}.items()))
        for method in [*methods, {"method": "head"}]
        for rate in (0.5, 1.0, 2.0)
    }


@BOTH
def test_each_combination_is_tried_once_and_then_there_is_nothing_left(database_url: str, sampler: str) -> None:
    config = config_at(database_url, sampler)
    with led(config) as coordinator:
        assert len(search(coordinator)) == SIZE
        assert coordinator.next_assignment("again", CPU) is None
    with led(config) as coordinator:
        assert coordinator.next_assignment("after a restart", CPU) is None
    tried = combinations(database_url)
    assert (len(tried), set(tried)) == (SIZE, every_combination())


@BOTH
def test_the_default_is_not_tried_on_a_second_seed(sqlite_url: str, sampler: str) -> None:
    with led(config_at(sqlite_url, sampler, search={"repeat_default": True})) as coordinator:
        search(coordinator)
    tried = combinations(sqlite_url)
    assert (len(tried), set(tried)) == (SIZE, every_combination())


@BOTH
def test_what_runs_or_failed_or_was_pruned_or_waits_is_not_proposed_again(sqlite_url: str, sampler: str) -> None:
    """Four are left running by leaders that are gone; a new one trains those on, as the same trials, and the others."""
    config = config_at(sqlite_url, sampler)
    with led(config) as coordinator:
        for number, ending in enumerate((Ending.FAILED, Ending.PRUNED, Ending.DIVERGED, Ending.PAUSED)):
            begin(coordinator, f"first-{number}", ending)
        for number in range(3):
            begin(coordinator, f"second-{number}")
    with led(config) as coordinator:
        search(coordinator, name="third")
    tried = combinations(sqlite_url)
    assert (len(tried), set(tried)) == (SIZE, every_combination())


def begin(coordinator: Coordinator, request: str, ending: Ending | None = None) -> None:
    assignment = coordinator.next_assignment(request, CPU)
    assert assignment is not None
    coordinator.observe(report_at(assignment, assignment.milestones[0], 0.5))
    if ending is not None:
        coordinator.finish(ended(assignment, ending))


@BOTH
def test_the_brackets_of_hyperband_share_the_combinations(sqlite_url: str, sampler: str) -> None:
    """Under Hyperband a sampler is shown the trials of one bracket only."""
    with led(config_at(sqlite_url, sampler, search={"pruner": "hyperband"})) as coordinator:
        search(coordinator)
    tried = combinations(sqlite_url)
    assert (len(tried), set(tried)) == (SIZE, every_combination())


def test_what_a_person_enqueued_with_optunas_own_tools_is_trained_and_counts(sqlite_url: str) -> None:
    config = config_at(sqlite_url, "grid")
    with led(config) as coordinator:
        begin(coordinator, "default", Ending.FAILED)
    with plain_study(sqlite_url) as study:
        study.enqueue_trial({"method": "head"})
        study.enqueue_trial({"method": "top_layers", "trained_layers": 3, "learning_rate_multiplier": 2.0})
    with led(config) as coordinator:
        search(coordinator)
    tried = combinations(sqlite_url)
    assert set(tried) == every_combination()
    assert plain_trials(sqlite_url)[1].params["method"] == "head"
    assert tried.count(tried[2]) == 1


def test_the_order_of_brute_force_follows_from_the_seed(tmp_path: Any) -> None:
    def order(seed: int, file: str) -> list[tuple[Any, ...]]:
        url = f"sqlite:///{tmp_path / file}.db"
        with led(config_at(url, "brute_force", seed=seed)) as coordinator:
            search(coordinator)
        return combinations(url)

    first = order(0, "one")
    assert order(0, "two") == first
    assert order(1, "three") != first


def test_the_budget_ends_a_search_before_the_combinations_do(sqlite_url: str) -> None:
    with led(config_at(sqlite_url, "grid", budget={"trials": 4})) as coordinator:
        assert len(search(coordinator)) == 4


def test_combinations_of_many_trials_are_told_apart_by_their_numbers_as_optuna_keeps_them(sqlite_url: str) -> None:
    """Steps of 0.1 and of 1e-5 come back from the store as they were proposed."""
    space = {
        "dropout": {"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1},
        "learning_rate": {"distribution": "q_uniform", "min": 1e-5, "max": 5e-5, "q": 1e-5},
        "epochs": {"value": 3},
    }
    with led(config_at(sqlite_url, "grid", space=space)) as coordinator:
        search(coordinator)
    tried = combinations(sqlite_url)
    assert len(tried) == len(set(tried)) == 4 * 5


def test_what_another_sampler_drew_is_not_tried_again(sqlite_url: str) -> None:
    """A study may go on under another sampler, and a drawn 0.15 is 0.15000000000000002 in the store."""
    space = {
        "warmup_ratio": {"distribution": "q_uniform", "min": 0.0, "max": 0.2, "q": 0.05, "default": 0.0},
        "epochs": {"value": 3},
    }
    drawn = EnumeratingSampler(SearchSpace.from_mapping(space, "test"), otherwise=RandomSampler())
    with led(config_at(sqlite_url, "random", space=space, budget={"trials": 2})) as coordinator:
        with plain_study(sqlite_url) as study:
            study.enqueue_trial({"warmup_ratio": 0.15000000000000002})
        search(coordinator, name="drawn")
    assert 0.15000000000000002 in {trial.params["warmup_ratio"] for trial in plain_trials(sqlite_url)}
    left = 5 - len({round(trial.params["warmup_ratio"], 9) for trial in plain_trials(sqlite_url)})
    assert (drawn.next_untried(plain_trials(sqlite_url)) is None) == (left == 0)
    with led(config_at(sqlite_url, "grid", space=space)) as coordinator:
        assert len(search(coordinator, name="grid")) == left


def test_of_ten_thousand_combinations_the_trials_are_gone_through_once_for_a_proposal() -> None:
    """One look at each trial, not one for each parameter or each combination."""
    space = SearchSpace.from_mapping(
        {
            "batch_size": {"min": 1, "max": 100},
            "max_length": {"min": 101, "max": 200},
        },
        "test",
    )
    looked_at = 0

    class Watched(list[FrozenTrial]):
        def __iter__(self) -> Any:
            nonlocal looked_at
            for trial in super().__iter__():
                looked_at += 1
                yield trial

    distribution = optuna.distributions.IntDistribution
    trials = Watched(
        create_trial(
            value=0.5,
            params={"batch_size": number % 100 + 1, "max_length": number // 100 + 101},
            distributions={"batch_size": distribution(1, 100), "max_length": distribution(101, 200)},
        )
        for number in range(2_000)
    )
    enumeration = EnumeratingSampler(space, otherwise=RandomSampler())
    following = enumeration.next_untried(trials)
    assert following == {"batch_size": 1, "max_length": 121}
    assert looked_at == len(trials)


def test_an_open_parameter_is_drawn_where_every_combination_was_tried() -> None:
    """Plain Optuna goes on asking: it is answered from the ranges."""
    space = SearchSpace.from_mapping({"batch_size": {"values": [8, 16]}}, "test")
    config = study_at("sqlite:///unused.db", search={"sampler": "grid"})
    study = optuna.create_study(sampler=build_sampler(config, space))
    for _ in range(3):
        study.tell(study.ask({"batch_size": optuna.distributions.CategoricalDistribution([8, 16])}), 0.5)
    assert [trial.params["batch_size"] for trial in study.trials[:2]] == [8, 16]
    assert study.trials[2].params["batch_size"] in (8, 16)


FOUR = {"epochs": {"values": [2, 3]}, "batch_size": {"values": [8, 16]}}


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "qmc"])
@pytest.mark.parametrize("trials", [4, 12])
def test_a_space_of_fewer_combinations_than_trials_is_tried_once_whatever_proposes(
    sqlite_url: str, sampler: str, trials: int
) -> None:
    """TPE by itself tried four combinations 5, 3, 2 and 2 times."""
    config = config_at(sqlite_url, sampler, space=FOUR, budget={"trials": trials})
    with led(config) as coordinator:
        search(coordinator)
        assert coordinator.ended_because == "Every combination of the space was tried."
    tried = [(trial.params["epochs"], trial.params["batch_size"]) for trial in plain_trials(sqlite_url)]
    assert sorted(tried) == [(2, 8), (2, 16), (3, 8), (3, 16)]


def test_where_only_time_ends_a_search_few_combinations_are_tried_once_too(sqlite_url: str) -> None:
    config = config_at(sqlite_url, "tpe", space=FOUR, budget={"trials": None, "time": "8h"})
    with led(config) as coordinator:
        assert len(search(coordinator)) == 4


def test_a_space_of_more_combinations_than_trials_is_left_to_its_sampler() -> None:
    space = SearchSpace.from_mapping(FOUR, "test")
    assert sampler_of(config_at("sqlite:///x.db", "tpe", space=FOUR, budget={"trials": 3}), space) == "tpe"
    assert sampler_of(config_at("sqlite:///x.db", "grid", space=FOUR, budget={"trials": 9}), space) == "grid"
