from hypothesis import given
from hypothesis import strategies as st

from hpo.messages import Milestone
from hpo.training.milestones import examples_seen, milestone_steps, steps_per_epoch


def places(rungs, *, rows=100, batch=10, epochs=2, maximum=2, full=()):
    milestones = tuple(Milestone(rung=rung, full=rung in full or rung == rungs[-1]) for rung in rungs)
    return milestone_steps(
        milestones, maximum_examples=maximum * rows, train_rows=rows, batch_size=batch, epochs=epochs
    )


def test_known_places():
    assert {step: m.rung for step, m in places((250, 500, 750, 1000)).items()} == {5: 250, 10: 500, 15: 750, 20: 1000}


def test_a_rung_is_reached_at_the_first_step_that_saw_enough():
    assert list(places((1, 251, 1000))) == [1, 6, 20]


def test_a_short_trial_ends_on_its_last_milestone():
    # A third of the longest trial is 333 per mille, a hair less than one epoch.
    assert list(places((167, 333), epochs=1, maximum=3, rows=1000, batch=1)) == [501, 1000]


def test_a_milestone_beyond_the_end_falls_on_the_last_step_and_gives_way():
    found = places((800, 900, 500), epochs=1)
    assert {step: (m.rung, m.full) for step, m in found.items()} == {10: (500, True)}


def test_on_one_step_a_full_evaluation_is_that_of_the_last_common_rung():
    found = places((10, 20, 30, 1000), rows=100, batch=50, full=(20,))
    assert found[1] == Milestone(rung=30, full=True)
    assert places((10, 20, 30, 1000), rows=100, batch=50, full=(10, 30))[1] == Milestone(rung=20, full=True)
    assert places((10, 20, 30, 1000), rows=100, batch=50, full=(10, 20, 30))[1] == Milestone(rung=30, full=True)
    assert places((10, 20, 30, 1000), rows=100, batch=50)[1].rung == 30


@st.composite
def plans(draw):
    rungs = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=8, unique=True).map(sorted))
    milestones = tuple(Milestone(rung=rung, full=draw(st.booleans())) for rung in rungs[:-1])
    maximum, rows = draw(st.integers(1, 5)), draw(st.integers(1, 60))
    return {
        "milestones": (*milestones, Milestone(rung=rungs[-1], full=True)),
        "maximum_examples": maximum * rows,
        "train_rows": rows,
        "batch_size": draw(st.integers(1, 70)),
        "epochs": draw(st.integers(1, maximum)),
    }


def test_a_trial_on_a_fraction_is_measured_by_the_longest_trial():
    # Of a study of 4 passes over 100 texts, 10 texts in 4 epochs are a tenth: 100 per mille.
    found = milestone_steps(
        (Milestone(rung=50, full=False), Milestone(rung=100, full=True)),
        maximum_examples=4 * 100,
        train_rows=10,
        batch_size=5,
        epochs=4,
    )
    assert {step: milestone.rung for step, milestone in found.items()} == {4: 50, 8: 100}


def test_a_product_of_fractions_is_not_a_hair_too_much():
    # 0.1 + 0.2 is more than 0.3 in binary; the rung is reached with the third text all the same.
    found = milestone_steps(
        (Milestone(rung=1000, full=False), Milestone(rung=1000, full=True)),
        maximum_examples=(0.1 + 0.2) * 10,
        train_rows=10,
        batch_size=1,
        epochs=1,
    )
    assert list(found) == [3, 10]


@given(plans())
def test_places_follow_from_counting_examples(plan):
    rows, batch = plan["train_rows"], plan["batch_size"]
    total = plan["epochs"] * steps_per_epoch(rows, batch)
    seen = [0]
    for _ in range(plan["epochs"]):
        seen += [seen[-1] + min(start + batch, rows) for start in range(0, rows, batch)]
    assert [examples_seen(step, rows, batch) for step in range(total + 1)] == seen
    fallen: dict[int, list[Milestone]] = {}
    *earlier, last = plan["milestones"]
    for milestone in earlier:
        goal = milestone.rung * plan["maximum_examples"]
        step = next((s for s in range(total + 1) if seen[s] * 1000 >= goal), total)
        fallen.setdefault(step, []).append(milestone)
    expected = {
        step: Milestone(
            rung=([one.rung for one in here if not one.full] or [one.rung for one in here])[-1],
            full=any(one.full for one in here),
        )
        for step, here in fallen.items()
    }
    # The end belongs to the last milestone unless a later rung that is full fell there too; rungs rise, so none is.
    expected[total] = last
    assert milestone_steps(**plan) == dict(sorted(expected.items()))
