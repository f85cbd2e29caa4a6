"""The simulation that the verdict's figures come from, in short: it knows its truth, and the verdict keeps to it."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from verdict_searches import SAME, UNSEEN, Found, Rows, World, all_equal, deviations, f1, search

from hpo.metrics.jackknife import deviations as left_out


def searches(name: str, rows: Rows) -> list[Found]:
    return [search(name, 0.005, rows, seed) for seed in range(60)]


def test_a_run_scores_its_truth_but_for_rows_and_seeds() -> None:
    random = np.random.default_rng(0)
    world = World(random, all_equal(random), 0.02, Rows(name="many", searched=20_000, kept=20_000))

    scores = [f1(world.run(configuration), world.labels) for configuration in range(40)]

    assert np.mean(scores) == pytest.approx(0.88, abs=0.015)
    assert np.std(scores) == pytest.approx(0.02, rel=0.35)


def test_its_jackknife_from_counts_is_that_of_the_product() -> None:
    random = np.random.default_rng(0)
    correct, labels = random.random(500) < 0.8, random.random(500) < 0.5
    groups = np.arange(500) % 50

    ours = left_out(lambda kept: f1(correct[kept], labels[kept]), groups)

    assert deviations(correct, labels, groups) == pytest.approx(ours)


@pytest.mark.parametrize("rows", [UNSEEN, SAME], ids=lambda rows: rows.name)
def test_where_all_are_equal_better_is_seldom_said(rows: Rows) -> None:
    found = searches("all equal", rows)

    assert np.mean([one.low > 0 for one in found]) <= 0.1
    assert np.mean([one.low <= one.true <= one.high for one in found]) >= 0.85
    assert max(one.runs for one in found) == 10


def test_a_gain_of_two_points_is_found_and_the_confirmed_score_is_not_biased() -> None:
    found = searches("one better", UNSEEN)

    assert np.mean([one.low > 0 for one in found]) >= 0.75
    assert abs(np.mean([one.confirmed for one in searches("mixture", UNSEEN)])) < 0.003
