import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpo.data.fractions import stratified_beginning

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(np.array)


@given(LABELS, st.integers(0, 9), st.data())
def test_a_larger_part_holds_every_smaller_one(labels, seed, data):
    more = data.draw(st.integers(1, labels.size))
    fewer = data.draw(st.integers(1, more))
    assert set(stratified_beginning(labels, fewer, seed)) <= set(stratified_beginning(labels, more, seed))


@given(LABELS, st.integers(0, 9), st.data())
def test_classes_stand_in_a_part_as_they_do_in_all(labels, seed, data):
    rows = data.draw(st.integers(1, labels.size))
    part = stratified_beginning(labels, rows, seed)
    assert part.tolist() == sorted(set(part.tolist()))
    assert part.size == rows
    classes, counts = np.unique(labels, return_counts=True)
    found = np.array([np.count_nonzero(labels[part] == one) for one in classes])
    if rows >= classes.size:
        assert found.min() >= 1
    # The row that every class begins with may displace as many others.
    assert np.abs(found - counts * rows / labels.size).max() <= classes.size


def test_another_seed_takes_other_rows():
    labels = np.zeros(100, dtype=np.int64)
    parts = [stratified_beginning(labels, 10, seed).tolist() for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
