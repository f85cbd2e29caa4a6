"""The benchmark of searches around the Trainer: the time that is charged to each method."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Action, Assignment, Decision, Ending, Milestone, Outcome, Report
from hpo.runners.replay.curves import Curve, Point
from hpo.runners.replay.worker_pool import VirtualClock

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import ladder
import ladder_bank
from curve_peers import Handed
from curve_responses import SHARES, Trained


class Straight:
    """Every trial takes 100 seconds, and scores the share that is trained."""

    def curve(self, assignment: Assignment) -> Curve:
        points = tuple(
            Point(rung=one.rung, score=one.rung / 1000, seconds=one.rung / 10) for one in assignment.milestones
        )
        return Curve(
            hyperparameters=assignment.hyperparameters, length=1000, points=points, ending=Ending.COMPLETED,
            seconds=100.0,
        )  # fmt: skip

    def true_score(self, _assignment: Assignment) -> float:
        return 1.0


def attempt(number: int) -> Assignment:
    return Assignment(
        trial=0, attempt=number, hyperparameters=Hyperparameters(), seed=0, maximum_passes=3.0,
        milestones=tuple(Milestone(rung=rung, full=True) for rung in (500, 1000)),
    )  # fmt: skip


def reports(pool: ladder.PausingPool, clock: VirtualClock) -> list[float]:
    """Return the moments of the reports until the trial ends or none comes."""
    moments: list[float] = []
    for _ in range(6):
        messages = [message for _, message in pool.listen(1000.0)]
        moments += [clock() for message in messages if isinstance(message, Report)]
        if moments or any(isinstance(message, Outcome) for message in messages):
            break
    return moments


def test_pausing_and_resuming_take_time() -> None:
    clock = VirtualClock(0.0)
    pool = ladder.PausingPool(1, Straight(), clock, metric="macro_f1", progress_every=1e6)
    pool.give("replay-0", attempt(1))
    assert reports(pool, clock) == [50.0]
    pool.apply("replay-0", Decision(trial=0, attempt=1, action=Action.PAUSE))
    assert clock() == 50.0 + ladder.PAUSE_SECONDS
    pool.listen(0.0)
    pool.give("replay-0", attempt(2))
    [last] = reports(pool, clock)
    assert last == pytest.approx(100.0 + ladder.PAUSE_SECONDS + ladder.RESUME_SECONDS)


def test_flaml_has_the_seed_of_its_search_and_pays_for_a_trial_until_it_diverges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Mapping[str, float]] = []

    def run(evaluate: Any, search_alg: Mapping[str, Any], **_: Any) -> None:
        assert (search_alg["seed"], search_alg["cost_budget"]) == (3, 100.0)
        found.extend(evaluate(search_alg["points_to_evaluate"][0]) for _ in range(2))

    tune = SimpleNamespace(**dict.fromkeys(("choice", "randint", "loguniform", "uniform"), lambda *_: None), run=run)
    monkeypatch.setitem(sys.modules, "flaml", SimpleNamespace(tune=tune, BlendSearch=dict))
    responses: Any = SimpleNamespace(
        trained=lambda *_: Trained(np.full(len(SHARES), 0.5), 10.0, 0.25), worth=lambda _: 0.5
    )
    handed = ladder.searched_by_flaml(responses, seed=3, seconds=100.0)
    assert [one["seconds"] for one in found] == [2.5, 2.5]
    assert handed == [Handed(2.5, 0.5)]


def test_the_start_of_ray_is_no_part_of_a_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tuner = SimpleNamespace(fit=lambda: time.sleep(0.03))
    tune = SimpleNamespace(
        Tuner=lambda *_, **__: tuner, with_resources=lambda *_: None, TuneConfig=dict, RunConfig=dict
    )
    ray = SimpleNamespace(init=lambda **_: time.sleep(1.5), shutdown=lambda: None, tune=tune)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ladder_bank.ladder_data, "write", lambda *_: {})
    values = dict.fromkeys(ladder_bank.SPACE, 1)
    assert 0.01 <= ladder_bank.ray_seconds("films", tmp_path, bf16=False, values=values) < 0.5


def test_live_counts_no_trial_of_the_trainer_that_ends_after_the_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(_values: Mapping[str, Any], *, seed: int, heard: Any) -> float:
        time.sleep(seed)
        return float(seed)

    monkeypatch.setattr(ladder, "TrainerLoop", lambda *_, **__: SimpleNamespace(open=lambda: None, train=train))
    monkeypatch.setattr(ladder.ladder_data, "write", lambda *_: {})
    found = ladder.live_b2(tmp_path, "films", 0, 0.5)
    assert found == {**ladder.space_of(dict(ladder.SPACE)).default_values(), **ladder.FIXED}


def test_added_noise_is_that_of_the_rows_left_out() -> None:
    """Full evaluations are as recorded; a partial one on all of validation has no more noise."""
    responses: Any = SimpleNamespace(
        trained=lambda *_: Trained(np.full(len(SHARES), 0.8), 10.0), table=SimpleNamespace(
            warmup_of_first_epoch=False, train_rows=120
        ),
    )  # fmt: skip

    def scores(rows: int, seed: int) -> list[float]:
        assignment = Assignment(
            trial=0, attempt=1, hyperparameters=Hyperparameters(), seed=seed, maximum_passes=3.0,
            milestones=(Milestone(rung=500, full=False), Milestone(rung=1000, full=True)),
        )  # fmt: skip
        return [point.score for point in ladder.PartlyScored(responses, rows).curve(assignment).points]

    assert scores(ladder.ladder_data.VALIDATION, 0) == pytest.approx([0.8, 0.8])
    partial, full = zip(*(scores(100, seed) for seed in range(400)), strict=True)
    assert set(full) == {0.8}
    assert np.std(partial) == pytest.approx((0.8 * 0.2 * (1 / 100 - 1 / 200)) ** 0.5, rel=0.1)


def test_time_is_until_the_worth_of_b2_is_first_reached() -> None:
    of_b2 = [Handed(10.0, 0.5), Handed(90.0, 0.7), Handed(150.0, 0.9)]
    found = ladder.compared([Handed(5.0, 0.4), Handed(20.0, 0.7), Handed(60.0, 0.6)], of_b2, 100.0)
    assert (found.time, found.more) == pytest.approx((0.2, 0.0))
    assert ladder.compared([Handed(5.0, 0.4)], of_b2, 100.0).time == ladder.NEVER
