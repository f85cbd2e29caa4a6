"""Who proposes, and what a proposal's randomness follows from."""

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, create_trial

from hpo.search import samplers
from hpo.search.samplers import PerTrialSampler, build_sampler, derived_seed, startup_trials
from tests.search.scripted import CPU, led, plain_trials, study_at, train

URL = "sqlite:///unused.db"


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
    build_sampler(study_at(URL, search={"sampler": "tpe"}, budget={"trials": 24}))
    [options] = given_to_tpe
    assert options["group"] is options["multivariate"] is options["constant_liar"] is True
    assert options["n_startup_trials"] == 6


def test_who_proposed_is_recorded(sqlite_url: str) -> None:
    config = study_at(sqlite_url, search={"sampler": "tpe", "startup_trials": 3}, budget={"trials": 6})
    with led(config) as coordinator:
        for number in range(5):
            if number == 4:
                coordinator._store.study.enqueue_trial({"epochs": 1})
            assignment = coordinator.next_assignment(f"r{number}", CPU)
            assert assignment is not None
            train(coordinator, assignment)
    proposed = [trial.user_attrs["proposed_by"] for trial in plain_trials(sqlite_url)]
    assert proposed == ["default", "start-up", "start-up", "tpe", "enqueued"]


def test_tpe_keeps_away_from_what_cannot_be_trained() -> None:
    """Where everything above 0.5 is infeasible, what TPE proposes lies below; a FAIL teaches it nothing."""
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}

    def infeasible(x: float) -> FrozenTrial:
        state = optuna.trial.TrialState.PRUNED
        return create_trial(state=state, params={"x": x}, distributions=space, constraints={"trainable": 1.0})

    def proposed(bad: list[FrozenTrial]) -> float:
        study = optuna.create_study(direction="maximize")
        good = [create_trial(value=0.8, params={"x": x}, distributions=space) for x in (0.1, 0.2, 0.3, 0.4)]
        study.add_trials(good + bad)
        study.sampler = PerTrialSampler(samplers.SAMPLERS["tpe"], study_seed=0, startup_trials=4)
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

    def third(*, restart: bool) -> float:
        study = optuna.create_study()
        study.sampler = PerTrialSampler(lambda seed, _: RandomSampler(seed=seed), study_seed=3, startup_trials=4)
        for _ in range(2):
            study.tell(study.ask(distribution), 0.5)
        if restart:
            study.sampler = PerTrialSampler(lambda seed, _: RandomSampler(seed=seed), study_seed=3, startup_trials=4)
        x: float = study.ask(distribution).params["x"]
        return x

    assert third(restart=True) == third(restart=False)
