from hypothesis import given
from hypothesis import strategies as st

from hpo.messages import Milestone
from hpo.search.rungs import fold_milestones, milestones


def test_a_known_answer() -> None:
    """A trial of 2 epochs in a study of 4: two full evaluations in its half, common rungs between them."""
    assert milestones(passes=2, maximum_passes=4, rungs=8, full_reports=2) == (
        Milestone(rung=125, full=False),
        Milestone(rung=250, full=True),
        Milestone(rung=375, full=False),
        Milestone(rung=500, full=True),
    )


@st.composite
def studies(draw: st.DrawFn) -> dict[str, int]:
    """Draw a study and one of its trials that is long enough for its full evaluations to fall apart."""
    maximum = draw(st.integers(1, 100))
    epochs = draw(st.integers(1, maximum))
    full = draw(st.integers(1, min(100, 1000 * epochs // maximum)))
    return {"passes": epochs, "maximum_passes": maximum, "full_reports": full, "rungs": draw(st.integers(0, 100))}


@given(studies())
def test_every_trial_is_evaluated_in_full_as_often_the_last_time_at_its_own_end(study: dict[str, int]) -> None:
    made = milestones(**study)
    rungs = [milestone.rung for milestone in made]
    assert sum(milestone.full for milestone in made) == study["full_reports"]
    assert made[-1] == Milestone(rung=round(1000 * study["passes"] / study["maximum_passes"]), full=True)
    assert rungs == sorted(set(rungs))
    assert rungs[0] >= 1
    assert rungs[-1] <= 1000


@given(studies(), studies())
def test_trials_of_other_lengths_share_the_common_rungs(one: dict[str, int], other: dict[str, int]) -> None:
    """A pruner compares trials at equal rungs: up to the end of the shorter one both stand on the same ones."""
    common = {"rungs": one["rungs"]}
    first, second = ({m.rung for m in milestones(**study | common)} for study in (one, other))
    shared = {round(1000 * part / one["rungs"]) for part in range(1, one["rungs"] + 1)} if one["rungs"] else set()
    shorter = min(max(first), max(second))
    assert {rung for rung in shared if rung < shorter} <= first & second


@given(st.integers(1, 20), st.data())
def test_full_evaluations_are_spread_evenly_over_the_trial(maximum: int, data: st.DataObject) -> None:
    epochs = data.draw(st.integers(1, maximum))
    made = milestones(passes=epochs, maximum_passes=maximum, rungs=0, full_reports=4)
    length = 1000 * epochs / maximum
    for part, milestone in enumerate(made, start=1):
        assert abs(milestone.rung - length * part / 4) <= 0.5


def test_a_trial_on_half_of_the_texts_ends_where_one_of_half_the_epochs_does() -> None:
    half_the_texts = milestones(passes=4 * 0.5, maximum_passes=4, rungs=8, full_reports=2)
    assert half_the_texts == milestones(passes=2, maximum_passes=4, rungs=8, full_reports=2)


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
