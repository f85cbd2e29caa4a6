"""Each domain proposes only what it contains, and its ends and middle are what arithmetic says."""

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.space.domains import Choice, Constant, Domain, Grid, Range, as_yaml

FINITE = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-12, 1e6)
WHOLE = st.integers(-1000, 1000)


def _pair(values):
    return st.tuples(values, values).map(sorted).filter(lambda ends: ends[0] < ends[1])


GRIDS = st.tuples(st.integers(-500, 500), st.integers(1, 60), st.integers(1, 40))
DOMAINS = st.one_of(
    st.integers().map(lambda value: Constant(value=value)),
    st.lists(st.one_of(st.none(), st.text(), st.integers()), min_size=1, unique=True).map(
        lambda values: Choice(choices=tuple(values))
    ),
    _pair(FINITE).map(lambda ends: Range(low=ends[0], high=ends[1])),
    _pair(POSITIVE).map(lambda ends: Range(low=ends[0], high=ends[1], log=True)),
    _pair(WHOLE).map(lambda ends: Grid(low=ends[0], high=ends[1])),
    GRIDS.map(lambda g: Grid(low=g[0], high=g[0] + g[1] * g[2], q=g[2])),
    GRIDS.map(lambda g: Grid(low=g[0] / 100, high=(g[0] + g[1] * g[2]) / 100, q=g[2] / 100)),
)


def random_trial(seed: int) -> optuna.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


@given(domain=DOMAINS, seed=st.integers(0, 2**31))
def test_what_a_real_optuna_trial_picks_is_contained_and_between_the_ends(domain: Domain, seed: int) -> None:
    value = domain.suggest(random_trial(seed), "x")
    assert domain.contains(value)
    if not isinstance(domain, Choice):
        low, high = domain.ends()
        assert low <= value <= high


@given(domain=DOMAINS)
def test_the_middle_is_contained(domain: Domain) -> None:
    assert domain.contains(domain.middle())


@pytest.mark.parametrize(
    ("domain", "middle", "ends", "text"),
    [
        (Constant(value=128), 128, (128, 128), "128"),
        (Constant(value="full"), "full", None, "full"),
        (Choice(choices=(8, 16, 32)), 16, (8, 32), "8, 16, 32"),
        (Choice(choices=(64, 8, 16, 32)), 32, (8, 64), "64, 8, 16, 32"),
        (Choice(choices=("sgd", "adamw")), "sgd", None, "sgd, adamw"),
        (Choice(choices=(None, 0.5, 5.0)), None, (0.5, 5.0), "null, 0.5, 5"),
        (Range(low=0.0, high=0.3), 0.15, (0.0, 0.3), "0 … 0.3, uniform"),
        (Range(low=1e-4, high=1.0, log=True), 0.01, (1e-4, 1.0), "0.0001 … 1, log-uniform"),
        (Range(low=0.03, high=30.0, log=True), math.sqrt(0.9), (0.03, 30.0), "0.03 … 30, log-uniform"),
        (Grid(low=1, high=4), 2, (1, 4), "1 … 4, whole numbers"),
        (Grid(low=0.1, high=0.7, q=0.1), 0.4, (0.1, 0.7), "0.1 … 0.7 in steps of 0.1"),
        (Grid(low=8, high=64, q=8), 32, (8, 64), "8 … 64 in steps of 8"),
    ],
)
def test_known_middle_ends_and_text(domain: Domain, middle: object, ends: object, text: str) -> None:
    found = domain.middle()
    assert found == (pytest.approx(middle) if isinstance(middle, float) else middle)
    assert domain.ends() == ends
    assert domain.describe() == text


@pytest.mark.parametrize(
    ("domain", "outside"),
    [
        (Constant(value=3), [4, None, "3"]),
        (Choice(choices=("a", 1)), ["b", None, 2]),
        (Range(low=0.0, high=1.0), [-0.1, 1.1, "0.5", None, True, math.nan]),
        (Range(low=0.1, high=1.0, log=True), [0.0, 2.0, None]),
        (Grid(low=1, high=4), [0, 5, 2.5, "2", None, True]),
        (Grid(low=0.0, high=1.0, q=0.25), [0.3, 1.25, -0.25, None]),
        (Grid(low=8, high=56, q=8), [9, 60, 64]),
    ],
)
def test_values_outside_are_not_contained(domain: Domain, outside: list[object]) -> None:
    assert [value for value in outside if domain.contains(value)] == []


def test_whole_numbered_grids_give_whole_numbers_and_others_do_not() -> None:
    assert type(Grid(low=8, high=64, q=8).suggest(random_trial(0), "x")) is int
    assert type(Grid(low=0.0, high=64.0, q=8.0).suggest(random_trial(0), "x")) is float


def test_a_grid_has_every_step_and_no_other() -> None:
    grid = Grid(low=0.1, high=0.5, q=0.2)
    seen = {round(float(grid.suggest(random_trial(seed), "x")), 12) for seed in range(40)}
    assert seen == {0.1, 0.3, 0.5}


def test_a_constant_asks_nobody() -> None:
    trial = random_trial(0)
    assert Constant(value="full").suggest(trial, "method") == "full"
    assert trial.params == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (30.0, "30"), (3e-05, "3e-05"), (0.1234567890123, "0.1234567890123"), ("a", "a")],
)
def test_values_are_spelled_as_in_yaml(value: object, text: str) -> None:
    assert as_yaml(value) == text
