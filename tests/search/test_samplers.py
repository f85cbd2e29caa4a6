"""Proposals of each sampler, through the store: in range, reproducible, and better if it learns."""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import BaseSampler, TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.config.study_file import StudyConfig
from hpo.messages import Ending
from hpo.search import samplers
from hpo.search.coordinator import Coordinator
from hpo.search.grid_sampler import EnumeratingSampler
from hpo.search.samplers import (
    SAMPLERS,
    build_sampler,
    derived_seed,
    sampled_jointly,
    startup_trials,
)
from hpo.space.search_space import SearchSpace
from tests.search.scripted import CPU, SPACE, ended, led, plain_trials, report_at, study_at, train

URL = "sqlite:///unused.db"
Params = Mapping[str, Any]
NUMBERS = {
    "dropout": {"min": 0.0, "max": 0.8, "default": 0.1},
    "label_smoothing": {"min": 0.0, "max": 0.8, "default": 0.1},
    "warmup_ratio": {"min": 0.0, "max": 0.8, "default": 0.1},
    "optimizer": {"values": ["adamw", "momentum"]},
    "momentum": {"min": 0.5, "max": 0.99, "when": {"optimizer": ["momentum"]}},
}
TWO_BY_THREE = {
    "optimizer": {"values": ["adamw", "momentum"], "default": "momentum"},
    "momentum": {"values": [0.8, 0.9], "default": 0.9, "when": {"optimizer": ["momentum"]}},
    "dropout": {"distribution": "q_uniform", "min": 0.0, "max": 0.2, "q": 0.1, "default": 0.1},
}
MODELLED = ("dropout", "label_smoothing", "warmup_ratio")
BEST, RANGE = 0.6, 0.8
BY_CHANCE = ((BEST / RANGE) ** 2 + (1 - BEST / RANGE) ** 2) / 2 * RANGE
"""Mean distance from the best value of one drawn evenly from the range: 0.25."""


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A function that returns the warnings so far, including Optuna's."""
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    return lambda: [record.message for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread for torch: the tensors of a Gaussian process are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def distance(params: Params) -> float:
    """Return the mean distance from the best values."""
    return sum(abs(params[name] - BEST) for name in MODELLED) / len(MODELLED)


def comes_nearer(proposed: list[Params]) -> None:
    """The last ten proposals are much closer to the best values than random ones."""
    assert sum(map(distance, proposed[-10:])) / 10 < 0.6 * BY_CHANCE


def is_numpys_own(proposed: list[Params]) -> None:
    """Every number is the next one of numpy's generator with the seed of its trial."""
    for number, params in enumerate(proposed, start=1):
        drawn = np.random.RandomState(derived_seed(0, "sampler", number))
        assert params["dropout"] == drawn.uniform(0, RANGE)
        assert params["label_smoothing"] == drawn.uniform(0, RANGE)


def fills_evenly(proposed: list[Params]) -> None:
    """The first 2^n points of a Sobol sequence have one point in each 2^n-th of every range; all values differ."""
    for name in MODELLED:
        assert sorted(int(params[name] / RANGE * 16) for params in proposed[:16]) == list(range(16))
    momenta = [params["momentum"] for params in proposed if "momentum" in params]
    assert len(set(momenta)) == len(momenta) > 4


COMBINATIONS = [
    *({"optimizer": "adamw", "dropout": dropout} for dropout in (0.0, 0.1, 0.2)),
    *(
        {"optimizer": "momentum", "momentum": momentum, "dropout": dropout}
        for momentum, dropout in itertools.product((0.8, 0.9), (0.0, 0.1, 0.2))
        if (momentum, dropout) != (0.9, 0.1)
    ),
]
"""All combinations of `TWO_BY_THREE` except the default, in order."""


def goes_in_order(proposed: list[Params]) -> None:
    assert proposed == COMBINATIONS


def goes_through_all(proposed: list[Params]) -> None:
    def alike(combinations: list[Params]) -> list[str]:
        return sorted(str(sorted(one.items())) for one in combinations)

    assert proposed != COMBINATIONS
    assert alike(proposed) == alike(COMBINATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Known property of a sampler's proposals after the default."""

    known: Callable[[list[Params]], None]
    trials: int
    space: Mapping[str, Any]
    search: Mapping[str, Any]


def on_numbers(known: Callable[[list[Params]], None], trials: int) -> Case:
    return Case(known=known, trials=trials, space=NUMBERS, search={"startup_trials": 6})


KNOWN_ANSWERS: dict[str, Case] = {
    "tpe": on_numbers(comes_nearer, 40),
    "random": on_numbers(is_numpys_own, 8),
    "gp": on_numbers(comes_nearer, 17),
    "cmaes": on_numbers(comes_nearer, 80),
    "qmc": on_numbers(fills_evenly, 20),
    "grid": Case(known=goes_in_order, trials=40, space=TWO_BY_THREE, search={}),
    "brute_force": Case(known=goes_through_all, trials=40, space=TWO_BY_THREE, search={}),
}


def config_of(name: str, url: str, **changes: Any) -> StudyConfig:
    case = KNOWN_ANSWERS[name]
    values: dict[str, Any] = {
        "search": {"sampler": name, "pruner": "none", "repeat_default": False, **case.search},
        "evaluation": {"rungs": 0, "full_reports": 1},
        "budget": {"trials": case.trials},
        "space": case.space,
    }
    return study_at(url, **(values | changes))


def trained(coordinator: Coordinator, number: int) -> bool:
    """Train the next trial, scored by its distance from the best values; return false if there is none."""
    assignment = coordinator.next_assignment(f"request-{number}", CPU)
    if assignment is None:
        return False
    values = assignment.hyperparameters.to_mapping()
    train(coordinator, assignment, lambda *_: 1 - distance(values))
    return True


def proposals(config: StudyConfig, *, leaders: bool = False, trials: int | None = None) -> list[Params]:
    """Search to the end and return the proposals after the default; with `leaders`, each trial has its own leader."""
    most = trials or config.budget.trials
    if leaders:
        for number in range(most):
            with led(config) as coordinator:
                if not trained(coordinator, number):
                    break
    else:
        with led(config) as coordinator:
            assert all(trained(coordinator, number) for number in range(2))
            for number in range(2, most):
                if not trained(coordinator, number):
                    break
    return [trial.params for trial in plain_trials(config.store.url)][1:]


@pytest.mark.parametrize("name", SAMPLERS)
def test_proposals_are_in_range_and_have_the_known_property_of_the_sampler(
    sqlite_url: str, name: str, warned: Callable[[], list[str]]
) -> None:
    config = config_of(name, sqlite_url)
    proposed = proposals(config)
    assert isinstance(config.space, dict)
    space = SearchSpace.from_mapping(config.space, "test")
    for params in proposed:
        values = space.suggest(optuna.trial.FixedTrial(params))
        assert all(one.domain.contains(values[one.name]) for one in space.parameters if one.name in values)
    KNOWN_ANSWERS[name].known(proposed)
    assert warned() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_proposals_depend_on_the_seed_and_not_on_changes_of_the_leader(tmp_path: Any, name: str) -> None:
    """The state of a sampler is only in the store."""
    urls = [f"sqlite:///{tmp_path / file}.db" for file in ("one", "two", "three")]
    most = 10
    first = proposals(config_of(name, urls[0]), trials=most)
    assert proposals(config_of(name, urls[1]), trials=most, leaders=True) == first
    other = proposals(config_of(name, urls[2], seed=1), trials=most)
    assert (other == first) == (name == "grid")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gp", "cmaes", "qmc", "grid", "brute_force"])
def test_a_sampler_that_writes_or_reads_the_store_itself_works_on_postgresql(
    sqlite_url: str, postgresql_url: str, name: str
) -> None:
    most = 10 if name == "gp" else 24
    there = proposals(config_of(name, postgresql_url), trials=most)
    assert there == proposals(config_of(name, sqlite_url), trials=most)


def test_cma_es_resumes_from_the_store(database_url: str) -> None:
    """Its population is 4 + floor(3 ln 3) = 7: after six random trials, each seven trials are a generation."""
    proposals(config_of("cmaes", database_url), trials=21, leaders=True)
    generations = [trial.system_attrs.get("cma:generation") for trial in plain_trials(database_url)]
    assert generations[:6] == [None] * 6
    assert generations[6:] == [number // 7 for number in range(15)]


def test_cma_es_continues_after_a_conditional_parameter_was_in_every_trial(sqlite_url: str) -> None:
    """Optuna's CMA-ES would model that parameter, and propose nothing after the first trial without it."""
    space = NUMBERS | {"optimizer": {"values": ["adamw", "momentum"], "default": "momentum"}}
    with led(config_of("cmaes", sqlite_url, budget={"trials": 24}, space=space)) as coordinator:
        # It stores its state after a whole population, which is eight trials for four numbers.
        for _ in range(16):
            coordinator._store.study.enqueue_trial({"optimizer": "momentum"})
        coordinator._store.study.enqueue_trial({"optimizer": "adamw"})
        assert all(trained(coordinator, number) for number in range(24))
    assert all("cma:generation" in trial.system_attrs for trial in plain_trials(sqlite_url)[6:])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_continues_after_infeasible_pruned_failed_and_enqueued_trials(sqlite_url: str, name: str) -> None:
    endings = [Ending.DIVERGED, Ending.COMPLETED, Ending.INFEASIBLE, Ending.PRUNED, Ending.COMPLETED, Ending.FAILED]
    config = config_of(name, sqlite_url, budget={"trials": 14})
    with led(config) as coordinator:
        for number in range(14):
            if number == 8:
                coordinator._store.study.enqueue_trial({"dropout": 0.1})
            assignment = coordinator.next_assignment(f"r{number}", CPU)
            if assignment is None:
                break
            report = report_at(assignment, assignment.milestones[-1], 0.5)
            coordinator.observe(report)
            coordinator.finish(ended(assignment, endings[number % len(endings)], report))
    trials = plain_trials(sqlite_url)
    assert len(trials) == (10 if isinstance(build_sampler(config, space_of(config)), EnumeratingSampler) else 14)
    assert trials[8].params["dropout"] == 0.1


@pytest.mark.parametrize("name", SAMPLERS)
def test_trials_that_run_at_once_have_different_values(
    sqlite_url: str, name: str, warned: Callable[[], list[str]]
) -> None:
    """A grid gives each trial its own combination, another sampler its own point, without warnings."""
    with led(config_of(name, sqlite_url, budget={"trials": 9})) as coordinator:
        running = [coordinator.next_assignment(f"running-{number}", CPU) for number in range(9)]
    assert None not in running
    assert len({str(sorted(trial.params.items())) for trial in plain_trials(sqlite_url)}) == 9
    assert warned() == []


def space_of(config: StudyConfig) -> SearchSpace:
    assert isinstance(config.space, dict)
    return SearchSpace.from_mapping(config.space, "test")


@pytest.mark.parametrize(("trials", "expected"), [(1, 4), (10, 4), (16, 4), (20, 5), (40, 10), (400, 10)])
def test_start_up_trials_follow_the_budget(trials: int, expected: int) -> None:
    assert startup_trials(study_at(URL, budget={"trials": trials})) == expected


def test_start_up_trials_can_be_given() -> None:
    assert startup_trials(study_at(URL, search={"startup_trials": 7})) == 7


def test_tpe_models_conditional_parameters_jointly_and_avoids_running_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_to_tpe: list[dict[str, Any]] = []

    class Watched(TPESampler):
        def __init__(self, **options: Any) -> None:
            given_to_tpe.append(options)
            super().__init__(**options)

    monkeypatch.setattr(samplers, "TPESampler", Watched)
    config = study_at(URL, search={"sampler": "tpe"}, budget={"trials": 24})
    build_sampler(config, space_of(config))
    [options] = given_to_tpe
    assert options["group"] is options["multivariate"] is options["constant_liar"] is True
    assert options["n_startup_trials"] == 6


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_proposer_of_each_trial_is_recorded(sqlite_url: str, name: str) -> None:
    first = "start-up" if name in ("tpe", "cmaes", "gp") else name
    config = config_of(name, sqlite_url, budget={"trials": 6}, search={"sampler": name, "startup_trials": 3})
    with led(config) as coordinator:
        for number in range(6):
            if number == 4:
                coordinator._store.study.enqueue_trial({"dropout": 0.2})
            assert trained(coordinator, number)
    assert [trial.user_attrs["proposed_by"] for trial in plain_trials(sqlite_url)] == [
        "default", first, first, name, "enqueued", name,
    ]  # fmt: skip


def test_start_up_lasts_until_the_sampler_can_learn_from_enough_trials(sqlite_url: str) -> None:
    """A Gaussian process learns only from completed trials, TPE also from pruned ones."""
    for name, expected in (("gp", "start-up"), ("tpe", "tpe")):
        search = {"sampler": name, "startup_trials": 2, "pruner": "none"}
        config = study_at(sqlite_url, study=f"study-{name}", search=search)
        with led(config) as coordinator:
            for number in range(3):
                assignment = coordinator.next_assignment(f"r{number}", CPU)
                assert assignment is not None
                if number == 0:
                    train(coordinator, assignment)
                else:
                    coordinator.finish(ended(assignment, Ending.PRUNED))
            last = coordinator._store.trials.get_all()[-1]
            assert last.user_attrs["proposed_by"] == expected


def test_parameters_sampled_jointly_are_those_of_every_trial() -> None:
    """A parameter is not conditional if its condition always holds, such as after an override of its parent."""

    def names(sampler: str, **changes: Any) -> list[str]:
        space = SearchSpace.from_mapping(SPACE | changes, "test")
        return [one.name for one in sampled_jointly(sampler, space)]

    both = {"values": ["momentum", "nesterov"]}
    momentum = {"min": 0.5, "max": 0.99, "when": {"optimizer": ["momentum", "nesterov"]}}
    assert names("gp") == names("qmc") == ["learning_rate", "optimizer", "epochs"]
    assert names("cmaes") == ["learning_rate", "epochs"]
    assert names("gp", optimizer={"value": "momentum"}) == ["learning_rate", "momentum", "epochs"]
    assert names("gp", optimizer=both, momentum=momentum) == ["learning_rate", "optimizer", "momentum", "epochs"]


def tpe(**search: Any) -> BaseSampler:
    config = study_at(URL, search={"sampler": "tpe", **search})
    return build_sampler(config, space_of(config))


class TestOptunasContract(BasicSamplerTestCase):
    """Optuna's own test suite for samplers, on the default sampler."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return tpe


def test_tpe_avoids_infeasible_configurations() -> None:
    """If everything above 0.5 is infeasible, TPE proposes lower values."""
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}

    def infeasible(x: float) -> FrozenTrial:
        return create_trial(
            state=TrialState.PRUNED, params={"x": x}, distributions=space, constraints={"trainable": 1.0}
        )

    def proposed(bad: list[FrozenTrial]) -> float:
        study = optuna.create_study(direction="maximize")
        good = [create_trial(value=0.8, params={"x": x}, distributions=space) for x in (0.1, 0.2, 0.3, 0.4)]
        study.add_trials(good + bad)
        study.sampler = tpe(startup_trials=4)
        asked = [study.ask(space).params["x"] for _ in range(30)]
        return sum(x > 0.5 for x in asked) / len(asked)

    bad = [infeasible(0.55 + 0.05 * number) for number in range(9)]
    assert proposed(bad) < 0.15 < proposed([])
