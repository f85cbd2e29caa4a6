"""Recommendation of a configuration, from the runs of a race."""

from collections.abc import Mapping

import numpy as np
import pytest

from hpo.verdict.comparison import Runs
from hpo.verdict.judgement import Recommendation, SearchScores, recommend
from hpo.verdict.sequential_halving import NO_SCORE, Race, RaceState
from tests.verdict.confirmed import runs

DEFAULT = 0
CLOSE = (0.900, 0.902, 0.901)
"""Three seeds that hardly differ."""


def chosen(
    of: Mapping[int, Runs],
    *,
    seconds: Mapping[int, float] | None = None,
    default: int | None = DEFAULT,
    search: SearchScores | None = None,
) -> Recommendation | None:
    finalists = tuple(trial for trial in of if trial != default)
    race = Race(finalists=finalists, default=default, runs=100, seeds=5)
    state = RaceState({trial: one.scores.tolist() for trial, one in of.items()}, {})
    return recommend(race, state, of, seconds or dict.fromkeys(of, 100.0), search or SearchScores())


def taken(*args: Mapping[int, Runs], **rest: object) -> int:
    found = chosen(*args, **rest)  # type: ignore[arg-type]
    assert found is not None
    return found.recommended


def higher(by: float) -> Runs:
    return runs([score + by for score in CLOSE])


def test_a_winner_that_is_clearly_better_is_taken() -> None:
    found = chosen({DEFAULT: higher(0.0), 3: higher(0.02)})

    assert found is not None
    assert (found.winner, found.recommended) == (3, 3)
    lead, interval = found.lead(3, DEFAULT)
    assert interval.low > 0
    assert abs(lead - 0.02) < 1e-9


def test_the_default_is_kept_unless_the_winner_is_likely_better() -> None:
    assert taken({DEFAULT: higher(0.0), 3: higher(0.0005)}) == DEFAULT
    assert taken({DEFAULT: higher(0.02), 3: higher(0.0)}) == DEFAULT


def test_one_that_is_likely_but_not_surely_better_is_taken() -> None:
    found = chosen({DEFAULT: higher(0.0), 3: higher(0.002)})

    assert found is not None
    assert found.lead(3, DEFAULT)[1].low < 0
    assert found.recommended == 3


def test_selection_bias_of_the_rows_counts_against_the_winner() -> None:
    apart = np.array([[0.01, -0.01]] * 3)
    compared = {DEFAULT: runs([0.9, 0.902, 0.901], apart), 3: runs([0.904, 0.906, 0.905], apart[:, ::-1])}
    equal = tuple(np.random.default_rng(0).normal(0.9, 0.01, 40).tolist())

    unseen, seen = (chosen(compared, search=SearchScores(scores=equal, unseen=unseen)) for unseen in (True, False))

    assert unseen is not None
    assert seen is not None
    assert (unseen.selection_bias[3], seen.selection_bias[DEFAULT]) == (0, 0)
    assert seen.selection_bias[3] > 0.01
    assert seen.lead(3, DEFAULT)[0] == pytest.approx(unseen.lead(3, DEFAULT)[0] - seen.selection_bias[3])


def test_the_run_that_decided_the_race_does_not_count_for_the_winner() -> None:
    """Trials 3 and 4 ran once each, 3 was better and went on: its first score is high because it decided."""
    found = chosen({DEFAULT: higher(0.0), 3: runs([0.95, 0.90, 0.91]), 4: runs([0.94])})

    assert found is not None
    assert (found.winner, found.left_out) == (3, 1)
    assert found.runs[3].scores.tolist() == [0.90, 0.91]
    assert found.lead(3, DEFAULT)[0] == pytest.approx(0.905 - 0.901)
    assert found.runs[4].scores.tolist() == [0.94]


def test_a_failed_run_that_decided_is_not_left_out_in_place_of_one_that_has_a_score() -> None:
    race = Race(finalists=(3, 4), default=DEFAULT, runs=9, seeds=5)
    state = RaceState({DEFAULT: [0.9, 0.9], 3: [NO_SCORE, 0.91], 4: [NO_SCORE]}, {})
    of = {DEFAULT: runs([0.9, 0.9]), 3: runs([0.91])}

    found = recommend(race, state, of, dict.fromkeys(of, 1.0), SearchScores())

    assert found is not None
    assert (found.winner, found.left_out, len(found.runs[3].scores)) == (3, 0, 1)


def test_where_the_winner_has_no_other_run_its_selection_bias_is_taken_off() -> None:
    equal = tuple(np.random.default_rng(0).normal(0.9, 0.01, 40).tolist())
    compared = {DEFAULT: runs([0.9, 0.91, 0.92]), 3: runs([0.95]), 4: runs([0.94]), 5: runs([0.93])}

    found = chosen(compared, search=SearchScores(scores=equal))

    assert found is not None
    assert (found.winner, found.left_out) == (3, 0)
    assert found.selection_bias[3] == pytest.approx(0.846 * 0.01, rel=0.15)
    assert found.selection_bias[4] < 0


def test_a_much_faster_one_that_is_not_distinguishable_from_the_winner_is_taken() -> None:
    compared = {DEFAULT: higher(0.0), 3: higher(0.02), 4: higher(0.0198)}

    assert taken(compared, seconds={0: 100, 3: 100, 4: 50}) == 4
    assert taken(compared, seconds={0: 100, 3: 100, 4: 90}) == 3


def test_a_faster_one_that_is_worse_is_not() -> None:
    compared = {DEFAULT: higher(0.0), 3: higher(0.02), 4: higher(0.01)}

    assert taken(compared, seconds={0: 100, 3: 100, 4: 10}) == 3


def test_without_a_default_the_winner_is_taken() -> None:
    found = chosen({3: higher(0.0), 4: higher(-0.02)}, default=None)

    assert found is not None
    assert found.recommended == 3
    assert set(found.runs) == {3, 4}


def test_of_those_left_the_one_with_fewer_runs_does_not_win() -> None:
    """It failed under the seed that it lacks, or was cut short."""
    compared = {DEFAULT: higher(0.0), 3: runs([0.95]), 4: higher(0.01), 5: runs([0.5]), 6: runs([0.4])}

    found = chosen(compared)

    assert found is not None
    assert found.winner == 4


def test_nothing_is_said_where_nothing_is_known_of_seeds() -> None:
    assert chosen({DEFAULT: runs([0.9]), 3: runs([0.95])}) is None


def test_nothing_is_said_where_no_finalist_was_trained() -> None:
    assert chosen({DEFAULT: higher(0.0)}) is None
    assert chosen({}, default=None) is None
