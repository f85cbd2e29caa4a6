from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.config.parsing import differences


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 before, 2 now"]),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1, "d": 3}}}, ["a.b.d: 2 before, 3 now"]),
        ({"a": 1, "b": 2}, {"b": 2, "c": 3}, ["a: 1 before, nothing now", "c: nothing before, 3 now"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a: {'b': 1} before, 1 now"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] before, [2, 1] now"]),
        ({"a": None}, {}, ["a: None before, nothing now"]),
        ({"a": 1}, {"a": 1.0}, []),
    ],
)
def test_each_leaf_that_differs_is_named(before: dict[str, Any], after: dict[str, Any], expected: list[str]) -> None:
    assert differences(before, after) == expected


def test_a_prefix_says_where() -> None:
    assert differences({"a": 1}, {"a": 2}, "space.") == ["space.a: 1 before, 2 now"]


mappings = st.recursive(
    st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), mappings), st.dictionaries(st.sampled_from("abc"), mappings))
def test_there_are_none_just_where_both_are_equal(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert (differences(before, after) == []) == (before == after)
