"""Audit of the pruner: estimate, interval and sentence."""

import pytest

from hpo.messages import Ending
from hpo.store.results import StudyResults
from hpo.verdict.pruning_audit import audit_of_pruning
from tests.verdict.confirmed import study, trial


def searched(*, pruned: int, trained_on: int, good: int = 0) -> StudyResults:
    """Return a study of ten plain trials; of the others so many were pruned, or trained on and came first."""
    plain = [trial(number, 0.8 + number / 1000) for number in range(10)]
    stopped = [trial(10 + number, 0.5, state="PRUNED", ending=str(Ending.PRUNED)) for number in range(pruned)]
    drawn = [trial(100 + number, 0.95 if number < good else 0.4) for number in range(trained_on)]
    return study([*plain, *stopped, *drawn], audited=frozenset(one.number for one in drawn))


def test_where_nothing_was_pruned_there_is_nothing_to_say() -> None:
    assert audit_of_pruning(searched(pruned=0, trained_on=0)) is None


def test_where_nothing_was_drawn_it_says_that_it_does_not_know() -> None:
    found = audit_of_pruning(searched(pruned=5, trained_on=0))

    assert found is not None
    assert found.probability is None
    assert (found.interval.low, found.interval.high) == (0.0, 1.0)
    assert "stopped 5 trials, none of which was drawn" in found.sentence


def test_none_of_ten_among_the_best_has_the_interval_of_clopper_and_pearson() -> None:
    """Of 0 in 10 the upper end is 1 - 0.025^(1/10), which is 0.3085 in their tables."""
    found = audit_of_pruning(searched(pruned=0, trained_on=10))

    assert found is not None
    assert found.probability == 0
    assert found.interval.low == 0
    assert found.interval.high == pytest.approx(1 - (1 - 0.3085) ** 10, abs=1e-4)


def test_two_of_ten_among_the_best() -> None:
    """Of 2 in 10 their interval is 0.0252 to 0.5561."""
    found = audit_of_pruning(searched(pruned=30, trained_on=10, good=2))

    assert found is not None
    assert (found.pruned, found.trained_on, found.among_the_best) == (40, 10, 2)
    assert found.probability == pytest.approx(1 - 0.8**40)
    assert found.interval.low == pytest.approx(1 - (1 - 0.0252) ** 40, abs=1e-3)
    assert found.interval.high == pytest.approx(1 - (1 - 0.5561) ** 40, abs=1e-3)
    assert "Of 40 trials that the pruner stopped 10, drawn at random, were trained to the end, and 2" in found.sentence


def test_what_is_drawn_and_still_trains_does_not_count_yet() -> None:
    training = trial(50, None, state="RUNNING", ending=None)

    assert audit_of_pruning(study([trial(0, 0.8), training], audited=frozenset({50}))) is None


def test_one_of_all_is_spelled_as_one() -> None:
    found = audit_of_pruning(searched(pruned=0, trained_on=1))

    assert found is not None
    assert found.sentence.startswith(
        "Of 1 trial that the pruner stopped 1, drawn at random, was trained to the end, and 0"
    )
