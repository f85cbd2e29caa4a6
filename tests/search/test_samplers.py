"""What each sampler proposes, through the store: in range, the same again, and better where it should learn."""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.config.study_file import StudyConfig
from hpo.messages import Ending
from hpo.search import samplers
from hpo.search.coordinator import Coordinator
from hpo.search.grid_sampler import EnumeratingSampler
from hpo.search.samplers import (
    SAMPLERS,
    PerTrialSampler,
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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A Gaussian process computes with torch, in pieces too small to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def distance(params: Params) -> float:
    """Return the mean distance from the best values."""
    return sum(abs(params[name] - BEST) for name in MODELLED) / len(MODELLED)


def comes_nearer(proposed: list[Params]) -> None:
    """The last ten proposals lie at well under the distance that chance has."""
    assert sum(map(distance, proposed[-10:])) / 10 < 0.6 * BY_CHANCE


def is_numpys_own(proposed: list[Params]) -> None:
    """Every number is the next one of numpy's generator under the seed of its trial."""
    for number, params in enumerate(proposed, start=1):
        drawn = np.random.RandomState(derived_seed(0, "sampler", number))
        assert params["dropout"] == drawn.uniform(0, RANGE)
        assert params["label_smoothing"] == drawn.uniform(0, RANGE)


def fills_evenly(proposed: list[Params]) -> None:
    """Of the first 2^n points of a Sobol sequence one lies in each 2^n-th of every range; the rest differ too."""
    for name in MODELLED:
        assert sorted(int(params[name] / RANGE * 16) for params in proposed[:16]) == list(range(16))
    momenta = [params["momentum"] for params in proposed if "momentum" in params]
    assert len(set(momenta)) == len(momenta) > 4


COMBINATIONS = [
    *({"optimizer": "adamw", "dropout": dropout} for dropout in (0.0, 0.1, 0.2)),
    *(
        {"optimizer": "momentum", "momentum": momentum, "dropout": dropout}
        for momentum, dropout in itertools.product((0.8, 0.9), (0.0, 0.1, 0.2))
    ),
]
DEFAULT = {"optimizer": "momentum", "momentum": 0.9, "dropout": 0.1}


def goes_in_order(proposed: list[Params]) -> None:
    assert proposed == [params for params in COMBINATIONS if params != DEFAULT]


def goes_through_all(proposed: list[Params]) -> None:
    in_order = [params for params in COMBINATIONS if params != DEFAULT]
    assert proposed != in_order
    assert sorted(map(str, map(sorted, map(dict.items, proposed)))) == sorted(
        map(str, map(sorted, map(dict.items, in_order)))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known of a sampler's proposals after the default."""

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
    """Train the next trial, which scores better the nearer it is to the best values; False if there is none."""
    assignment = coordinator.next_assignment(f"request-{number}", CPU)
    if assignment is None:
        return False
    values = assignment.hyperparameters.to_mapping()
    train(coordinator, assignment, lambda *_: 1 - distance(values))
    return True


def proposals(config: StudyConfig, *, leaders: bool = False, trials: int | None = None) -> list[Params]:
    """Search to the end; return what was proposed after the default. Each trial under a leader of its own, if asked."""
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
def test_what_is_proposed_is_in_range_and_what_the_sampler_is_known_for(
    sqlite_url: str, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    config = config_of(name, sqlite_url)
    proposed = proposals(config)
    assert isinstance(config.space, dict)
    space = SearchSpace.from_mapping(config.space, "test")
    for params in proposed:
        values = space.suggest(optuna.trial.FixedTrial(params))
        assert all(one.domain.contains(values[one.name]) for one in space.parameters if one.name in values)
    KNOWN_ANSWERS[name].known(proposed)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_is_proposed_again_whoever_leads_and_something_else_under_another_seed(
    tmp_path: Any, name: str
) -> None:
    """What a sampler learned is in the store and nowhere else."""
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


def test_cma_es_goes_on_from_what_the_store_holds(database_url: str) -> None:
    """Its population is 4 + floor(3 ln 3) = 7: after six trials at random a generation goes by each seven trials."""
    proposals(config_of("cmaes", database_url), trials=21, leaders=True)
    generations = [trial.system_attrs.get("cma:generation") for trial in plain_trials(database_url)]
    assert generations[:6] == [None] * 6
    assert generations[6:] == [number // 7 for number in range(15)]


def test_cma_es_does_not_stop_where_a_conditional_parameter_was_in_every_trial_so_far(sqlite_url: str) -> None:
    """Left to itself it takes it in, and proposes nothing more from the first trial on that does not have it."""
    space = NUMBERS | {"optimizer": {"values": ["adamw", "momentum"], "default": "momentum"}}
    with led(config_of("cmaes", sqlite_url, budget={"trials": 24}, space=space)) as coordinator:
        # Its state of as many numbers is stored after a whole population, of eight for four numbers.
        for _ in range(16):
            coordinator._store.study.enqueue_trial({"optimizer": "momentum"})
        coordinator._store.study.enqueue_trial({"optimizer": "adamw"})
        assert all(trained(coordinator, number) for number in range(24))
    assert all("cma:generation" in trial.system_attrs for trial in plain_trials(sqlite_url)[6:])


@pytest.mark.parametrize("name", SAMPLERS)
def test_trials_that_cannot_be_trained_or_were_pruned_or_failed_or_enqueued_are_no_trouble(
    sqlite_url: str, name: str
) -> None:
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
def test_several_trials_that_run_at_once_are_told_apart(
    sqlite_url: str, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a grid has a combination of its own, of another sampler a point of its own, and nothing warns."""
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    with led(config_of(name, sqlite_url, budget={"trials": 9})) as coordinator:
        running = [coordinator.next_assignment(f"running-{number}", CPU) for number in range(9)]
    assert None not in running
    assert len({str(sorted(trial.params.items())) for trial in plain_trials(sqlite_url)}) == 9
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def space_of(config: StudyConfig) -> SearchSpace:
    assert isinstance(config.space, dict)
    return SearchSpace.from_mapping(config.space, "test")


@pytest.mark.parametrize(("trials", "expected"), [(1, 4), (10, 4), (16, 4), (20, 5), (40, 10), (400, 10)])
def test_start_up_trials_follow_the_budget(trials: int, expected: int) -> None:
    assert startup_trials(study_at(URL, budget={"trials": trials})) == expected


def test_start_up_trials_can_be_given() -> None:
    assert startup_trials(study_at(URL, search={"startup_trials": 7})) == 7


def test_tpe_models_conditional_parameters_jointly_and_keeps_away_from_what_runs(
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tpe", ["default", "start-up", "start-up", "tpe", "enqueued", "tpe"]),
        ("cmaes", ["default", "start-up", "start-up", "cmaes", "enqueued", "cmaes"]),
        ("gp", ["default", "start-up", "start-up", "gp", "enqueued", "gp"]),
        ("qmc", ["default", "qmc", "qmc", "qmc", "enqueued", "qmc"]),
        ("random", ["default", "random", "random", "random", "enqueued", "random"]),
        ("grid", ["default", "grid", "grid", "grid", "enqueued", "grid"]),
        ("brute_force", ["default", "brute_force", "brute_force", "brute_force", "enqueued", "brute_force"]),
    ],
)
def test_who_proposed_is_recorded(sqlite_url: str, name: str, expected: list[str]) -> None:
    config = config_of(name, sqlite_url, budget={"trials": 6}, search={"sampler": name, "startup_trials": 3})
    with led(config) as coordinator:
        for number in range(6):
            if number == 4:
                coordinator._store.study.enqueue_trial({"dropout": 0.2})
            assert trained(coordinator, number)
    assert [trial.user_attrs["proposed_by"] for trial in plain_trials(sqlite_url)] == expected


def test_start_up_lasts_until_enough_trials_that_the_sampler_learns_from_are_over(sqlite_url: str) -> None:
    """A Gaussian process learns from completed trials only, TPE from those that were pruned too."""
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


def test_what_is_proposed_together_is_what_every_trial_has() -> None:
    """A condition that this space always meets, here because an override fixed its parent, makes none conditional."""

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
    """Optuna's own suite for samplers, on the one that is used where none is named."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return tpe


def test_tpe_keeps_away_from_what_cannot_be_trained() -> None:
    """Where everything above 0.5 is infeasible, what TPE proposes lies below; a FAIL teaches it nothing."""
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


@given(seed=st.integers(0, 2**31 - 1), trial=st.integers(0, 10**6))
def test_a_derived_seed_is_a_seed_and_its_own(seed: int, trial: int) -> None:
    mine = derived_seed(seed, "trial", trial)
    assert 0 <= mine < 2**31
    assert mine == derived_seed(seed, "trial", trial)
    assert mine != derived_seed(seed, "trial", trial + 1)
    assert mine != derived_seed(seed, "sampler", trial)


def test_a_derived_seed_is_the_same_in_every_version() -> None:
    """Half of the first 32 bits of SHA-256 over `0/trial/N`: a change of them changes every study that goes on."""
    assert [derived_seed(0, "trial", number) for number in range(3)] == [1725501518, 1021735874, 597998264]


def test_a_proposal_does_not_depend_on_who_was_asked_before() -> None:
    """A sampler that was asked before proposes for trial 2 what a new one does."""
    distribution = {"x": optuna.distributions.FloatDistribution(0, 1)}

    def new() -> BaseSampler:
        return PerTrialSampler(lambda seed: RandomSampler(seed=seed), study_seed=3)

    def third(*, restart: bool) -> float:
        study = optuna.create_study(sampler=new())
        for _ in range(2):
            study.tell(study.ask(distribution), 0.5)
        if restart:
            study.sampler = new()
        x: float = study.ask(distribution).params["x"]
        return x

    assert third(restart=True) == third(restart=False)
