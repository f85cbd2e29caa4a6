"""The race of a confirmation: who is trained on a fresh seed next."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.verdict.sequential_halving import Race, RaceState, finalists_for, in_contention, most_runs, next_trial, ranked

DEFAULT = 0


def race(finalists: int, *, runs: int = 100, seeds: int = 5, default: int | None = DEFAULT) -> Race:
    return Race(finalists=tuple(range(1, finalists + 1)), default=default, runs=runs, seeds=seeds)


def run(of: Race, scores: Mapping[int, float], workers: int = 1) -> list[int]:
    """Train as the race asks, so many side by side, until it asks for nothing; return what was begun, in order."""
    begun: list[int] = []
    ended: dict[int, list[float]] = {}
    training: list[int] = []
    while True:
        counts = {trial: begun.count(trial) for trial in set(begun)}
        while len(training) < workers and (chosen := next_trial(of, RaceState(ended, counts))) is not None:
            begun.append(chosen)
            training.append(chosen)
            counts[chosen] = counts.get(chosen, 0) + 1
        if not training:
            return begun
        over = training.pop(0)
        ended.setdefault(over, []).append(scores[over])


def test_seeds_go_to_the_better_half_until_one_is_left() -> None:
    begun = run(race(4), {0: 0.1, 1: 0.6, 2: 0.9, 3: 0.8, 4: 0.5})

    assert begun[:5] == [0, 1, 2, 3, 4]
    assert begun[5:8] == [0, 2, 3]
    assert {trial: begun.count(trial) for trial in range(5)} == {0: 5, 1: 1, 2: 5, 3: 2, 4: 1}


def test_of_equals_the_better_of_the_search_is_kept() -> None:
    begun = run(race(2), {0: 0.5, 1: 0.7, 2: 0.7})

    assert begun.count(1) == 5
    assert begun.count(2) == 1
    assert ranked([1, 2], RaceState({1: [0.7], 2: [0.7]}, {})) == [1, 2]


def test_the_default_stays_in_however_bad_it_is() -> None:
    begun = run(race(3), {0: 0.0, 1: 0.7, 2: 0.8, 3: 0.9})

    assert begun.count(DEFAULT) == 5
    assert begun[0] == DEFAULT


def test_without_a_default_the_finalists_run_alone() -> None:
    assert run(race(2, default=None, seeds=3), {1: 0.7, 2: 0.8}) == [1, 2, 2, 2]


def test_a_failed_run_drops_its_configuration() -> None:
    state = RaceState({1: [0.9, -math.inf], 2: [0.8, 0.7], 3: [0.2], 4: [0.1]}, {})

    assert in_contention(race(4), state) == (DEFAULT, 2)


def test_nothing_is_halved_before_a_round_is_over() -> None:
    assert in_contention(race(2), RaceState({1: [0.9]}, {1: 1, 2: 1})) == (DEFAULT, 1, 2)
    assert in_contention(race(2), RaceState({1: [0.9], 2: [0.8]}, {1: 1, 2: 1})) == (DEFAULT, 1)


def test_an_idle_worker_goes_ahead_with_those_in_contention() -> None:
    begun = run(race(2), {0: 0.5, 1: 0.8, 2: 0.7}, workers=4)

    assert sorted(begun[:3]) == [0, 1, 2]
    assert begun[3] == DEFAULT


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=8),
    st.integers(1, 30),
    st.integers(2, 6),
    st.integers(1, 10),
    st.booleans(),
)
def test_it_ends_within_its_runs_and_seeds(
    scores: list[float], runs: int, seeds: int, workers: int, with_default: bool
) -> None:
    one = race(len(scores) - 1, runs=runs, seeds=seeds, default=DEFAULT if with_default else None)

    begun = run(one, dict(enumerate(scores)), workers)

    counts = {trial: begun.count(trial) for trial in set(begun)}
    assert len(begun) <= runs
    assert max(counts.values()) <= seeds
    assert set(begun) <= set(one.entrants)
    assert not with_default or counts[DEFAULT] == max(counts.values())
    if workers == 1:
        assert len(begun) <= most_runs(len(one.finalists), seeds)


@pytest.mark.parametrize(("finalists", "seeds", "runs"), [(3, 5, 12), (1, 3, 6), (4, 3, 10), (8, 2, 14)])
def test_most_runs_is_what_a_whole_race_takes(finalists: int, seeds: int, runs: int) -> None:
    assert most_runs(finalists, seeds) == runs
    assert len(run(race(finalists, seeds=seeds), dict.fromkeys(range(finalists + 1), 0.5))) == runs


@pytest.mark.parametrize(("runs", "finalists"), [(4, 1), (6, 1), (7, 2), (8, 3), (10, 3), (100, 3)])
def test_rivals_are_as_many_as_leave_three_seeds_to_the_last(runs: int, finalists: int) -> None:
    assert finalists_for(runs, most=3, seeds=5) == finalists


def test_at_least_one_takes_part_where_any_is_asked_for() -> None:
    assert finalists_for(1, most=3, seeds=5) == 1
    assert finalists_for(10, most=0, seeds=5) == 0


def test_runs_of_those_who_took_part_once_leave_as_many_to_those_who_do_now() -> None:
    """A second night has found better ones: they get a race of their own, beside the default's earlier runs."""
    ended = {DEFAULT: [0.5] * 5, 8: [0.7] * 5, 9: [0.6] * 2}

    assert next_trial(race(3, runs=12), RaceState(ended, {trial: len(scores) for trial, scores in ended.items()})) == 1
