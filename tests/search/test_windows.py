"""A sampler that sees a window of a long study: what is in it, and that a short study is seen whole."""

import math
from itertools import pairwise

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search.samplers import TPE_WINDOW, PerTrialSampler, Window, windowed_study

STATES = st.sampled_from(TrialState)


def trial_of(number: int, state: TrialState, value: float) -> FrozenTrial:
    trial = create_trial(state=state, value=value if state == TrialState.COMPLETE else None)
    trial.number = number
    return trial


kinds = st.lists(st.tuples(STATES, st.floats(0, 1)), max_size=40)


@given(kinds, st.integers(0, 5), st.integers(1, 8), st.integers(1, 8))
def test_a_window_shows_the_best_and_an_even_part_of_what_ended_and_of_what_trains(
    kinds: list[tuple[TrialState, float]], best: int, others: int, training: int
) -> None:
    trials = [trial_of(number, *kind) for number, kind in enumerate(kinds)]
    seen = Window(best=best, others=others, training=training).of(trials)
    by_state: dict[TrialState, list[FrozenTrial]] = {
        state: [trial for trial in trials if trial.state == state] for state in TrialState
    }
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    runs = by_state[TrialState.RUNNING]
    if len(ended) <= best + others and len(runs) <= training:
        assert seen == trials
        return
    numbers = {trial.number for trial in seen}
    assert {trial.number for trial in by_state[TrialState.WAITING]} <= numbers
    assert seen == sorted(seen, key=lambda trial: trial.number)
    for all_of, most in ((ended, others), (runs, training)):
        shown = [place for place, trial in enumerate(all_of) if trial.number in numbers]
        assert len(shown) <= most + (best if all_of is ended else 0)
        assert max((b - a for a, b in pairwise([-1, *shown])), default=0) <= math.ceil(len(all_of) / most)
        assert shown[-1:] == [len(all_of) - 1][: len(all_of)]
    complete = sorted(by_state[TrialState.COMPLETE], key=lambda one: -one.values[0])
    assert {trial.number for trial in complete[:best]} <= numbers or len(ended) <= best + others


def searched(sampler: optuna.samplers.BaseSampler, trials: int) -> optuna.Study:
    """Search a space with a condition; every fifth trial is left running, every seventh is pruned."""
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for number in range(trials):
        trial = study.ask()
        loss = abs(trial.suggest_float("x", 0, 1) - 0.3)
        if trial.suggest_categorical("kind", ["a", "b"]) == "b":
            loss += abs(trial.suggest_float("y", 0, 1) - 0.6)
        if number % 7 == 6:
            study.tell(trial, state=TrialState.PRUNED)
        elif number % 5 != 4:
            study.tell(trial, 1 - loss)
    return study


def tpe(window: Window | None) -> PerTrialSampler:
    def build(seed: int) -> TPESampler:
        return TPESampler(seed=seed, n_startup_trials=5, group=True, multivariate=True)

    return PerTrialSampler(build, study_seed=3, window=window)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_that_fits_into_the_window_is_searched_as_without_one() -> None:
    without, within = (searched(tpe(window), 60) for window in (None, TPE_WINDOW))
    assert [trial.params for trial in within.trials] == [trial.params for trial in without.trials]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_longer_study_is_searched_through_the_window() -> None:
    without, within = (searched(tpe(window), 60) for window in (None, Window(best=5, others=15, training=100)))
    params = [[trial.params for trial in study.trials] for study in (without, within)]
    assert params[0][:20] == params[1][:20]
    assert params[0] != params[1]


def test_of_a_long_study_tpe_takes_the_same_trials_for_good_as_it_would_of_all() -> None:
    study = optuna.create_study(direction="maximize")
    distributions = {"x": FloatDistribution(0, 1), "c": CategoricalDistribution(["a", "b"])}
    study.add_trials(
        [
            create_trial(value=(number * 7919) % 1009 / 1009, params={"x": 0.5, "c": "a"}, distributions=distributions)
            for number in range(1500)
        ]
    )
    good = []
    for seen in (study, windowed_study(study, TPE_WINDOW)):
        trials = seen.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        below, _ = _split_trials(seen, trials, default_gamma(len(trials)))
        good.append([trial.number for trial in below])
    assert good[0] == good[1]
    assert len(good[0]) == TPE_WINDOW.best
