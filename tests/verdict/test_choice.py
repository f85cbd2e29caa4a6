"""What to take, from the runs of a race."""

from collections.abc import Mapping

from hpo.verdict.choice import Choice, choose
from hpo.verdict.comparison import Runs
from hpo.verdict.race import Course, Race
from tests.verdict.confirmed import runs

DEFAULT = 0
CLOSE = (0.900, 0.902, 0.901)
"""Three seeds that hardly differ."""


def chosen(
    of: Mapping[int, Runs],
    *,
    seconds: Mapping[int, float] | None = None,
    default: int | None = DEFAULT,
    bias: float = 0.0,
) -> Choice | None:
    finalists = tuple(trial for trial in of if trial != default)
    race = Race(finalists=finalists, default=default, runs=100, seeds=5)
    course = Course({trial: one.scores.tolist() for trial, one in of.items()}, {})
    return choose(race, course, of, seconds or dict.fromkeys(of, 100.0), bias)


def taken(*args: Mapping[int, Runs], **rest: object) -> int:
    choice = chosen(*args, **rest)  # type: ignore[arg-type]
    assert choice is not None
    return choice.recommended


def higher(by: float) -> Runs:
    return runs([score + by for score in CLOSE])


def test_a_winner_that_is_clearly_better_is_taken() -> None:
    choice = chosen({DEFAULT: higher(0.0), 3: higher(0.02)})

    assert choice is not None
    assert (choice.winner, choice.recommended) == (3, 3)
    points, interval = choice.differences[DEFAULT]
    assert interval.low > 0
    assert abs(points - 0.02) < 1e-9


def test_the_default_is_kept_unless_the_winner_is_likely_better() -> None:
    assert taken({DEFAULT: higher(0.0), 3: higher(0.0005)}) == DEFAULT
    assert taken({DEFAULT: higher(0.02), 3: higher(0.0)}) == DEFAULT


def test_one_that_is_likely_but_not_surely_better_is_taken() -> None:
    choice = chosen({DEFAULT: higher(0.0), 3: higher(0.002)})

    assert choice is not None
    assert choice.differences[DEFAULT][1].low < 0
    assert choice.recommended == 3


def test_the_bias_counts_against_the_winner() -> None:
    compared = {DEFAULT: higher(0.0), 3: higher(0.02)}

    assert taken(compared, bias=0.0) == 3
    assert taken(compared, bias=0.02) == DEFAULT


def test_a_much_faster_one_that_cannot_be_told_from_the_winner_is_taken() -> None:
    compared = {DEFAULT: higher(0.0), 3: higher(0.02), 4: higher(0.0195)}

    assert taken(compared, seconds={0: 100, 3: 100, 4: 50}) == 4
    assert taken(compared, seconds={0: 100, 3: 100, 4: 90}) == 3


def test_a_faster_one_that_is_worse_is_not() -> None:
    compared = {DEFAULT: higher(0.0), 3: higher(0.02), 4: higher(0.01)}

    assert taken(compared, seconds={0: 100, 3: 100, 4: 10}) == 3


def test_without_a_default_the_winner_is_taken() -> None:
    choice = chosen({3: higher(0.0), 4: higher(-0.02)}, default=None)

    assert choice is not None
    assert choice.recommended == 3
    assert set(choice.differences) == {4}


def test_of_those_left_the_one_with_fewer_runs_does_not_win() -> None:
    """It failed under the seed that it lacks, or was cut short."""
    compared = {DEFAULT: higher(0.0), 3: runs([0.95]), 4: higher(0.01), 5: runs([0.5]), 6: runs([0.4])}

    choice = chosen(compared)

    assert choice is not None
    assert choice.winner == 4


def test_nothing_is_said_where_nothing_is_known_of_seeds() -> None:
    assert chosen({DEFAULT: runs([0.9]), 3: runs([0.95])}) is None


def test_nothing_is_said_where_no_finalist_was_trained() -> None:
    assert chosen({DEFAULT: higher(0.0)}) is None
    assert chosen({}, default=None) is None
