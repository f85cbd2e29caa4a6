"""Learning curves: from a store to a file and back, the nearest one to a proposal, and those that are made up."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError, HpoError, NoResultError
from hpo.messages import Assignment, Ending, Milestone
from hpo.runners.replay.curves import (
    Curve,
    Point,
    RecordedCurves,
    Recording,
    differences,
    distance,
    export_curves,
    read_curves,
    to_lines,
)
from hpo.runners.replay.generated_curves import GeneratedCurves
from hpo.store.database import open_database
from tests.search.scripted import CPU, ended, led, report_at, search, study_at

FULL = Hyperparameters(epochs=2, learning_rate=1e-4)


def assigned(hyperparameters: Hyperparameters, *rungs: int, seed: int = 0) -> Assignment:
    return Assignment(
        trial=0,
        attempt=1,
        hyperparameters=hyperparameters,
        seed=seed,
        milestones=tuple(Milestone(rung=rung, full=rung == rungs[-1]) for rung in rungs),
        maximum_passes=4.0,
    )


def curve_of(
    hyperparameters: Hyperparameters,
    *points: tuple[int, float, float],
    length: int = 500,
    ending: Ending = Ending.COMPLETED,
    seconds: float | None = None,
) -> Curve:
    return Curve(
        hyperparameters=hyperparameters,
        length=length,
        points=tuple(Point(rung=rung, score=score, seconds=at) for rung, score, at in points),
        ending=ending,
        seconds=points[-1][2] if seconds is None else seconds,
    )


# -- from the store


def test_a_study_s_curves_are_what_its_trials_reported(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        outcomes = search(coordinator)
    database = open_database(database_url)
    recording = export_curves(database, "scripted")
    database.close()
    assert (recording.study, recording.metric) == ("scripted", "macro_f1")
    assert recording.parameters == ("learning_rate", "optimizer", "momentum", "epochs")
    assert [curve.ending for curve in recording.curves] == [Ending.COMPLETED] * len(outcomes)
    for curve, outcome in zip(recording.curves, outcomes, strict=True):
        assert outcome.best is not None
        # The longest trial has 3 epochs, and a scripted report takes a hundredth of its rung in seconds.
        assert curve.length == round(1000 * curve.hyperparameters.epochs / 3) == curve.points[-1].rung
        assert [point.seconds for point in curve.points] == [point.rung / 100 for point in curve.points]
        assert max(point.score for point in curve.points) == outcome.best.validation.objective


def test_what_failed_or_waits_leaves_no_curve_and_what_diverged_does(sqlite_url: str) -> None:
    endings = [Ending.COMPLETED, Ending.DIVERGED, Ending.PAUSED]
    with led(study_at(sqlite_url, budget={"trials": 3})) as coordinator:
        given = [coordinator.next_assignment(f"request-{number}", CPU) for number in range(3)]
        for assignment, ending in zip(given, endings, strict=True):
            assert assignment is not None
            report = report_at(assignment, assignment.milestones[-1], 0.5)
            coordinator.observe(report)
            coordinator.finish(ended(assignment, ending, report))
    database = open_database(sqlite_url)
    recording = export_curves(database)
    database.close()
    assert [curve.ending for curve in recording.curves] == [Ending.COMPLETED, Ending.DIVERGED]


def test_a_study_without_a_completed_trial_has_none_to_export(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)):
        pass
    database = open_database(sqlite_url)
    with pytest.raises(NoResultError, match="no completed trial yet"):
        export_curves(database)
    database.close()


# -- the file


def recording_of(curves: Sequence[Curve]) -> Recording:
    return Recording(study="one", metric="macro_f1", parameters=("epochs", "learning_rate"), curves=tuple(curves))


def test_curves_are_the_same_after_a_file(tmp_path: Path) -> None:
    rates = (1e-6, 3e-5, 1e-4, 1e-2)
    made = GeneratedCurves(3)
    curves = [made.curve(assigned(Hyperparameters(learning_rate=rate), 125, 500, 750)) for rate in rates]
    recording = recording_of(curves)
    path = tmp_path / "curves.jsonl"
    path.write_text(to_lines(recording))
    assert {curve.ending for curve in curves} == {Ending.COMPLETED, Ending.DIVERGED}
    assert read_curves(path) == recording


GOOD = to_lines(recording_of([curve_of(FULL, (250, 0.5, 10.0), (500, 0.6, 20.0))])).splitlines()


def changed(line: str, **values: Any) -> str:
    return json.dumps(json.loads(line) | values)


def points_of(*points: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    return [{"rung": rung, "score": score, "seconds": seconds} for rung, score, seconds in points]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "is not a file of learning curves"),
        (["trial,score", "1,0.5"], "line 1: this is not JSON"),
        (["[1, 2]"], "is not a file of learning curves"),
        (['{"format": "other"}'], "is not a file of learning curves"),
        (["[" * 100_000], "line 1: this is not JSON"),
        ([changed(GOOD[0], version=2), GOOD[1]], "has version 2 of the format, but this hpo reads version 1"),
        ([changed(GOOD[0], text="a text"), GOOD[1]], "line 1: unknown key 'text'"),
        (GOOD[:1], "has no completed curve"),
        ([GOOD[0], "null"], "line 2: a curve is a JSON object"),
        ([GOOD[0], GOOD[1][:-5]], "line 2: this is not JSON"),
        ([GOOD[0], changed(GOOD[1], ending="won")], "line 2: 'ending' cannot be 'won'"),
        ([GOOD[0], changed(GOOD[1], points=[])], "a completed curve has at least one point"),
        ([GOOD[0], changed(GOOD[1], points=points_of((2, 0.5, 2), (2, 0.5, 3)))], "must rise in rung and in seconds"),
        ([GOOD[0], changed(GOOD[1], points=points_of((2, 0.5, 3), (3, 0.5, 2)))], "must rise in rung and in seconds"),
        ([GOOD[0], changed(GOOD[1], points=points_of((501, 0.5, 2)))], "must lie within its `length`"),
        ([GOOD[0], changed(GOOD[1], points=points_of((2, math.nan, 2)))], "line 2: 'points"),
        ([GOOD[0], changed(GOOD[1], points=points_of((2, 0.5, -2)))], "line 2: 'points"),
        ([GOOD[0], changed(GOOD[1], hyperparameters={"epochs": 0})], "line 2: 'hyperparameters.epochs' is 0"),
        ([GOOD[0], changed(GOOD[1], hyperparameters={"epoch": 1})], "unknown key 'hyperparameters.epoch'"),
    ],
)
def test_a_file_that_is_not_one_is_refused_in_a_sentence(tmp_path: Path, lines: list[str], says: str) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigurationError) as refused:
        read_curves(path)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "make", [lambda path: path.write_bytes(b"\xff\xfe\x00"), lambda path: path.mkdir(), lambda _: 0]
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "curves.jsonl"
    make(path)
    with pytest.raises(ConfigurationError, match="Cannot read"):
        read_curves(path)


# -- recorded


def by_hand(one: Hyperparameters, other: Hyperparameters) -> float:
    """Gower's distance over what varies in `NEIGHBOURS`, spelled out for them."""
    rate = abs(math.log10(one.learning_rate) - math.log10(other.learning_rate)) / 3  # 1e-6 to 1e-3, on its log scale
    epochs = abs(one.epochs - other.epochs) / 3  # 1 to 4, as it is
    optimizer = 0 if one.optimizer == other.optimizer else 1
    if one.momentum is None or other.momentum is None:
        momentum = 0.0 if one.momentum == other.momentum else 1.0
    else:
        momentum = abs(one.momentum - other.momentum) / 0.4  # 0.5 to 0.9
    # Of AdamW's own three, what varies is whether they are there; of L2, which form it has.
    return rate + epochs + optimizer + momentum + 4 * optimizer


NEIGHBOURS = [
    Hyperparameters(learning_rate=1e-6, epochs=1),
    Hyperparameters(learning_rate=1e-4, epochs=4),
    Hyperparameters(learning_rate=1e-3, epochs=2, optimizer="momentum", momentum=0.5),
    Hyperparameters(learning_rate=1e-5, epochs=3, optimizer="momentum", momentum=0.9),
]
ASKED = [
    Hyperparameters(learning_rate=rate, epochs=epochs, optimizer=optimizer, momentum=momentum)
    for rate in (1e-6, 2e-5, 3e-4)
    for epochs in (1, 2, 4)
    for optimizer, momentum in (("adamw", None), ("momentum", 0.6))
]


def test_distances_are_those_of_the_formula() -> None:
    apart = differences(NEIGHBOURS)
    for one in ASKED:
        for other in NEIGHBOURS:
            assert distance(apart, one, other) == pytest.approx(by_hand(one, other))


def test_a_proposal_is_answered_by_the_nearest() -> None:
    scores = (0.1, 0.2, 0.3, 0.4)
    recorded = RecordedCurves(
        [curve_of(near, (500, score, 10.0)) for near, score in zip(NEIGHBOURS, scores, strict=True)]
    )
    for asked in ASKED:
        nearest = min(range(4), key=lambda number: by_hand(asked, NEIGHBOURS[number]))
        (point,) = recorded.curve(assigned(asked, 700)).points
        assert point.score == scores[nearest]
        assert recorded.true_score(assigned(asked, 700)) == scores[nearest]


def test_a_curve_is_stretched_to_the_proposal_s_length_and_its_seconds_by_the_passes() -> None:
    recorded = RecordedCurves([curve_of(FULL, (250, 0.4, 10.0), (500, 0.6, 30.0))])
    twice = FULL.model_copy(update={"epochs": 4})
    curve = recorded.curve(assigned(twice, 250, 750, 1000))
    # A quarter of the way is half way to the first point; three quarters lie between the two.
    assert [point.score for point in curve.points] == pytest.approx([0.4, 0.5, 0.6])
    assert [point.seconds for point in curve.points] == pytest.approx([10.0, 40.0, 60.0])
    assert (curve.length, curve.ending, curve.seconds) == (1000, Ending.COMPLETED, 60.0)


def test_a_curve_that_was_given_up_goes_on_beside_the_nearest_completed_one() -> None:
    pruned = FULL.model_copy(update={"learning_rate": 1e-6})
    recorded = RecordedCurves(
        [
            curve_of(FULL, (250, 0.4, 10.0), (375, 0.55, 15.0), (500, 0.6, 20.0)),
            curve_of(pruned, (250, 0.1, 20.0), ending=Ending.PRUNED),
        ]
    )
    curve = recorded.curve(assigned(pruned, 250, 375, 500))
    assert [point.score for point in curve.points] == pytest.approx([0.1, 0.25, 0.3])
    assert [point.seconds for point in curve.points] == pytest.approx([20.0, 30.0, 40.0])
    assert curve.ending is Ending.COMPLETED


def test_a_curve_that_stopped_itself_stays_level() -> None:
    recorded = RecordedCurves([curve_of(FULL, (250, 0.4, 10.0))])
    curve = recorded.curve(assigned(FULL, 250, 500))
    assert [(point.score, point.seconds) for point in curve.points] == [(0.4, 10.0), (0.4, 20.0)]


def test_what_diverged_diverges_again_where_it_did() -> None:
    recorded = RecordedCurves(
        [
            curve_of(FULL, (500, 0.6, 20.0)),
            curve_of(
                FULL.model_copy(update={"learning_rate": 1.0}), (250, 0.2, 10.0), ending=Ending.DIVERGED, seconds=12.0
            ),
        ]
    )
    wild = FULL.model_copy(update={"learning_rate": 0.5, "epochs": 4})
    curve = recorded.curve(assigned(wild, 250, 500, 750, 1000))
    assert [point.rung for point in curve.points] == [250, 500]
    assert (curve.ending, curve.seconds) == (Ending.DIVERGED, 24.0)
    assert math.isnan(recorded.true_score(assigned(wild, 1000)))


def test_of_a_configuration_on_two_seeds_the_seed_of_the_proposal_picks_one() -> None:
    recorded = RecordedCurves([curve_of(FULL, (500, 0.5, 10.0)), curve_of(FULL, (500, 0.7, 10.0))])
    scores = [recorded.curve(assigned(FULL, 500, seed=seed)).points[0].score for seed in range(4)]
    assert scores == [0.5, 0.7, 0.5, 0.7]
    assert recorded.true_score(assigned(FULL, 500)) == pytest.approx(0.6)


def test_without_a_completed_curve_there_is_nothing_to_answer_by() -> None:
    with pytest.raises(HpoError, match="None of the recorded curves is completed"):
        RecordedCurves([curve_of(FULL, (250, 0.5, 10.0), ending=Ending.PRUNED)])


# -- generated

RUNGS = (125, 250, 500, 750)


def made(seed: int, trial_seed: int = 0, **values: Any) -> Curve:
    return GeneratedCurves(seed).curve(assigned(Hyperparameters(**values), *RUNGS, seed=trial_seed))


def test_generated_curves_are_the_same_for_the_same_seeds_alone() -> None:
    assert made(1) == made(1)
    assert made(1) != made(2)
    assert made(1).points != made(1, trial_seed=1).points
    assert made(1).seconds == made(1, trial_seed=1).seconds


@pytest.mark.parametrize("seed", range(5))
def test_generated_curves_behave_as_training_does(seed: int) -> None:
    truth = GeneratedCurves(seed)

    def true(**values: Any) -> float:
        return truth.true_score(assigned(Hyperparameters(**values), *RUNGS))

    curve = made(seed)
    assert [point.rung for point in curve.points] == list(RUNGS)
    assert curve.points[0].score < curve.points[-1].score
    # Far from the best rate on either side it is worse; longer is better; training less of the model is worse.
    assert true(learning_rate=3e-5) > max(true(learning_rate=1e-7), true(learning_rate=1e-3))
    assert true(epochs=5) > true(epochs=1)
    assert true() > true(method="head", learning_rate=9e-4)
    assert made(seed, learning_rate=1.0).ending is Ending.DIVERGED
    assert made(seed, max_length=512).ending is Ending.INFEASIBLE


def test_generated_seconds_follow_the_work_with_a_log_normal_spread() -> None:
    def seconds(**values: Any) -> list[float]:
        return [made(7, batch_size=size, **values).seconds for size in range(1, 400)]

    def log_mean(values: Sequence[float]) -> float:
        return sum(map(math.log, values)) / len(values)

    once = seconds(epochs=1)
    spread = math.sqrt(sum((math.log(one) - log_mean(once)) ** 2 for one in once) / len(once))
    # Of 399 draws: within four standard errors.
    assert spread == pytest.approx(0.5, abs=0.08)
    assert log_mean(seconds(epochs=4)) - log_mean(once) == pytest.approx(math.log(4), abs=0.15)
    assert log_mean(seconds(epochs=1, data_fraction=0.5)) - log_mean(once) == pytest.approx(math.log(0.5), abs=0.15)
