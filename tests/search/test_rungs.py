from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.data.sources import Examples
from hpo.data.splits import split_examples
from hpo.messages import Dimensions, Milestone
from hpo.search.pruners import evenly_spaced, fold_milestones, milestones, partial_rungs, with_evaluation_defaults
from hpo.search.trial_sizes import Workload
from hpo.space.search_space import SearchSpace


def test_a_known_answer() -> None:
    """A trial of 2 epochs in a study of 4: two full evaluations in its half, common rungs between them."""
    assert milestones(passes=2, maximum_passes=4, common=evenly_spaced(8), full_reports=2) == (
        Milestone(rung=125, full=False),
        Milestone(rung=250, full=True),
        Milestone(rung=375, full=False),
        Milestone(rung=500, full=True),
    )


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a study and one of its trials that is long enough for its full evaluations to fall apart."""
    maximum = draw(st.integers(1, 100))
    epochs = draw(st.integers(1, maximum))
    full = draw(st.integers(1, min(100, 1000 * epochs // maximum)))
    return {
        "passes": epochs,
        "maximum_passes": maximum,
        "full_reports": full,
        "common": evenly_spaced(draw(st.integers(0, 100))),
    }


@given(studies())
def test_every_trial_is_evaluated_in_full_as_often_the_last_time_at_its_own_end(study: dict[str, Any]) -> None:
    made = milestones(**study)
    rungs = [milestone.rung for milestone in made]
    assert sum(milestone.full for milestone in made) == study["full_reports"]
    assert made[-1] == Milestone(rung=round(1000 * study["passes"] / study["maximum_passes"]), full=True)
    assert rungs == sorted(set(rungs))
    assert rungs[0] >= 1
    assert rungs[-1] <= 1000


@given(studies(), studies())
def test_trials_of_other_lengths_share_the_common_rungs(one: dict[str, Any], other: dict[str, Any]) -> None:
    """A pruner compares trials at equal rungs: up to the end of the shorter one both stand on the same ones."""
    common = {"common": one["common"]}
    first, second = ({m.rung for m in milestones(**study | common)} for study in (one, other))
    shorter = min(max(first), max(second))
    assert {rung for rung in one["common"] if rung < shorter} <= first & second


@given(st.integers(1, 20), st.data())
def test_full_evaluations_are_spread_evenly_over_the_trial(maximum: int, data: st.DataObject) -> None:
    epochs = data.draw(st.integers(1, maximum))
    made = milestones(passes=epochs, maximum_passes=maximum, common=(), full_reports=4)
    length = 1000 * epochs / maximum
    for part, milestone in enumerate(made, start=1):
        assert abs(milestone.rung - length * part / 4) <= 0.5


def test_a_trial_on_half_of_the_texts_ends_where_one_of_half_the_epochs_does() -> None:
    half_the_texts = milestones(passes=4 * 0.5, maximum_passes=4, common=evenly_spaced(8), full_reports=2)
    assert half_the_texts == milestones(passes=2, maximum_passes=4, common=evenly_spaced(8), full_reports=2)


@pytest.mark.parametrize(
    ("factor", "rungs"), [(2, (31, 62, 124, 248)), (3, (31, 93, 279)), (4, (31, 124)), (20, (31,))]
)
def test_promotion_has_rungs_at_shares_of_a_trial_and_none_near_its_end(factor: int, rungs: tuple[int, ...]) -> None:
    """Of a trial of half the length of the longest, from 1/16 on."""
    config = load_config(
        values={
            "study": "s",
            "model": {"name": "m"},
            "data": {"train": "t.csv"},
            "search": {"reduction_factor": factor},
        }
    )
    assert partial_rungs(config, 5, 10) == rungs


@given(st.integers(2, 50))
def test_folds_have_a_rung_each_and_their_mean_the_last(folds: int) -> None:
    *each, mean = fold_milestones(folds)
    rungs = [milestone.rung for milestone in each]
    assert mean == Milestone(rung=1000, full=True)
    assert len(set(rungs)) == folds
    assert rungs == sorted(rungs)
    assert rungs[-1] == 999
    assert not any(milestone.full for milestone in each)
    for fold, rung in enumerate(rungs[:-1], start=1):
        assert abs(rung - 1000 * fold / folds) <= 0.5


# -- how many there are


def evaluated(space: dict[str, Any], train_rows: int, validation_rows: int, **asked: Any) -> StudyConfig:
    """Return a study over such rows with the evaluations that it has."""
    config = load_config(
        values={
            "study": "s", "model": {"name": "none"}, "data": {"train": "none.csv"}, "space": space, "evaluation": asked,
        }
    )  # fmt: skip
    labels = ("a", "b") * (train_rows // 2)
    train = Examples(texts=tuple(f"text {n}" for n in range(train_rows)), labels=labels)
    others = tuple(f"other {n}" for n in range(validation_rows))
    validation = Examples(texts=others, labels=("a", "b") * (validation_rows // 2))
    splits = split_examples(train, validation=validation, seed=0)
    return with_evaluation_defaults(config, SearchSpace.from_mapping(space, "s"), splits)


EPOCHS = {"epochs": {"min": 2, "max": 6, "default": 3}, "batch_size": {"value": 16}}


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 4), st.integers(0, 4), st.sampled_from([0.25, 0.5, 1.0]), st.integers(10, 400), st.integers(1, 50),
    st.integers(0, 20),
)  # fmt: skip
def test_evaluation_takes_at_most_a_tenth_of_a_trial_if_validation_is_small_and_otherwise_a_third(
    least: int, more: int, fraction: float, pairs: int, part: int, rungs: int
) -> None:
    """By counting, of every trial of the space: a row that is trained on takes as long as three that are scored."""
    rows, validation_rows = 20 * pairs, 2 * max(1, 20 * pairs // 2 // part)
    space = {
        "epochs": {"values": list(range(least, least + more + 1))}, "batch_size": {"value": 16},
        "data_fraction": {"values": sorted({fraction, 1.0}), "default": 1.0},
    }  # fmt: skip
    config = evaluated(space, rows, validation_rows, rungs=rungs)
    searched = SearchSpace.from_mapping(space, "s")
    dimensions = Dimensions(train_rows=rows, validation_rows=validation_rows, layers=1)
    workload = Workload(config=config, space=searched, dimensions=dimensions)
    evaluation = config.evaluation
    fewest = (evaluation.full_reports, evaluation.part_rows) == (1, 1 if 4 * validation_rows <= rows else 100)
    for epochs in range(least, least + more + 1):
        for share in (fraction, 1.0):
            values = searched.hyperparameters(
                searched.default_values() | {"epochs": epochs, "data_fraction": share, "batch_size": 16}
            )
            trained, _, scored, _ = workload.of(values).total
            most = 0.1 if 4 * validation_rows <= share * rows else 1 / 3
            assert scored <= most * (3 * trained + scored) + 1e-6 or fewest
    assert 1 <= (config.evaluation.full_reports or 0) <= least + more


@pytest.mark.parametrize(
    ("rows", "validation_rows", "fulls", "part"),
    [
        (600, 150, 1, 50),
        (600, 60, 1, 68),
        (10_000, 2500, 2, 200),
        (10_000, 1000, 5, 185),
        (600, 152, 5, 115),
        (120, 200, 1, 100),
    ],
)
def test_fewer_full_evaluations_where_more_would_take_long(
    rows: int, validation_rows: int, fulls: int, part: int
) -> None:
    """With 152 of 600 rows validation is more than a quarter: then evaluation may take a third."""
    evaluation = evaluated(EPOCHS, rows, validation_rows).evaluation
    assert (evaluation.full_reports, evaluation.rung_rows) == (fulls, part)


def test_what_is_asked_for_stands() -> None:
    assert evaluated(EPOCHS, 600, 150, full_reports=4, rung_rows=50).evaluation.full_reports == 4
    assert evaluated(EPOCHS, 600, 150, full_reports=4, rung_rows=50).evaluation.rung_rows == 50
    assert evaluated(EPOCHS, 600, 150, full_reports=4).evaluation.rung_rows == 100
    assert evaluated(EPOCHS, 600, 60, rung_rows=30).evaluation.full_reports == 3


@pytest.mark.parametrize(
    "follows",
    [
        {"early_stopping_patience": {"value": 2}},
        {"schedule": {"values": ["linear", "reduce_on_plateau"]}},
    ],
)
def test_trials_that_follow_their_full_evaluations_keep_them(follows: dict[str, Any]) -> None:
    assert evaluated(EPOCHS | follows, 600, 150).evaluation.full_reports == 6
