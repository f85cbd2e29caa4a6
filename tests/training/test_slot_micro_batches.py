"""Parts of several trials' batches in shared passes: whole, in order, and within the limit of tokens."""

from collections.abc import Iterator
from types import SimpleNamespace
from unittest.mock import MagicMock

from hypothesis import given
from hypothesis import strategies as st

from hpo.training.gradients import SlotBatch, micro_batches


def some_parts() -> st.SearchStrategy[list[SlotBatch]]:
    """Return parts of several trials, the widest of each trial first."""
    sizes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 8)), max_size=5).map(lambda of: sorted(of)[::-1])

    def parts_of(trials: list[list[tuple[int, int]]]) -> Iterator[SlotBatch]:
        for sizes_of_one in trials:
            model = MagicMock()
            for width, rows in sizes_of_one:
                yield SlotBatch(model=model, batch=SimpleNamespace(width=width, rows=rows), units=1)  # type: ignore[arg-type]

    return st.lists(sizes, max_size=4).map(lambda trials: list(parts_of(trials)))


@given(parts=some_parts(), pass_tokens=st.integers(1, 100), most_tokens=st.integers(1, 400))
def test_micro_batches_consist_of_whole_parts_in_order_within_the_limit_of_tokens(
    parts: list[SlotBatch], pass_tokens: int, most_tokens: int
) -> None:
    made = micro_batches(parts, pass_tokens, most_tokens)
    for model in {id(part.model): part.model for part in parts}.values():
        in_order = [part for micro_batch in made for part in micro_batch if part.model is model]
        assert in_order == [part for part in parts if part.model is model]
    for micro_batch in made:
        assert len({id(part.model) for part in micro_batch}) == len(micro_batch)
        width, rows = micro_batch[0].batch.width, sum(part.batch.rows for part in micro_batch)
        assert len(micro_batch) == 1 or width * rows <= most_tokens
        assert all((width - part.batch.width) * part.batch.rows < pass_tokens for part in micro_batch)


def test_a_micro_batch_never_has_two_parts_of_one_trial() -> None:
    model = MagicMock()
    parts = [SlotBatch(model=model, batch=SimpleNamespace(width=8, rows=1), units=2) for _ in range(2)]  # type: ignore[arg-type]
    assert micro_batches(parts, 100, 1000) == [[parts[0]], [parts[1]]]
