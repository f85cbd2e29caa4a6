"""Targets of numbers: what is none is refused at once, and splits have their share of every quantile."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.data.labels import NUMBER
from hpo.data.sources import Examples
from hpo.data.splits import Splits, split_examples
from hpo.data.stratify import LEAST_ROWS_OF_A_QUANTILE, MOST_QUANTILES, quantiles
from hpo.errors import DataError


def examples(*cells: object, name: str = "t") -> Examples:
    return Examples(texts=tuple(f"{name} {row}" for row in range(len(cells))), labels=tuple(map(str, cells)))


def divided(*cells: object, **asked: object) -> Splits:
    return split_examples(examples(*cells), **{"validation": 0.2, "seed": 0, "kind": NUMBER} | asked)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from((0.0, 1.0, 2.5, -3.0)) | st.floats(-1e9, 1e9), max_size=700))
def test_quantiles_are_of_like_size_and_in_the_order_of_the_numbers(numbers: list[float]) -> None:
    places = quantiles(np.array(numbers))
    sizes = np.bincount(places)
    assert len(sizes) <= MOST_QUANTILES
    assert len(sizes) < 2 or sizes.min() >= LEAST_ROWS_OF_A_QUANTILE
    assert len(sizes) == 0 or sizes.max() - sizes.min() <= 1
    for place in range(1, len(sizes)):
        below, above = np.array(numbers)[places == place - 1], np.array(numbers)[places == place]
        assert below.max() <= above.min()


@pytest.mark.parametrize("folds", [None, 4])
def test_every_split_has_the_numbers_that_all_have(folds: int | None) -> None:
    """Each has its share of a tenth of all rows that lies far off the others."""
    cells = [*np.random.default_rng(0).normal(size=900), *([1000.0] * 100)]
    splits = divided(*cells, test=0.1, folds=folds)
    of_folds = [splits.train.take(fold.validation.tolist()) for fold in splits.folds]
    parts = of_folds or [splits.validation, splits.test]
    for part in parts:
        assert part is not None
        assert part.labels.count("1000.0") == pytest.approx(part.rows / 10, abs=1)
    assert splits.label_names == ()
    assert "numbers from -" in splits.notes[-1]
    assert "to 1000.0." in splits.notes[-1]


def test_all_that_is_no_number_is_told_at_once() -> None:
    validation, test = examples(1, "nan", name="v"), examples("1,5", 2, name="w")
    with pytest.raises(DataError) as told:
        divided("2", "good", "bad", "good", validation=validation, test=test)
    assert str(told.value) == (
        "task.name is regression, which needs a number such as -1234.5 in each row of the label column, but training "
        "has 'good', 'bad' (rows: 3) and validation has 'nan' (rows: 1) and test has '1,5' (rows: 1); mend these rows, "
        "or name another data.label_column."
    )


def test_a_thousand_with_a_point_beside_a_decimal_comma_is_not_left_as_one() -> None:
    with pytest.raises(DataError, match=r"has '1\.234,5' \(rows: 1\); write every number with a decimal point alone"):
        divided("1.000", "1.234,5", "2")


@pytest.mark.parametrize("cell", ["", "inf", "-Infinity", "1e101", "true", "1 2", "zero"])
def test_what_is_no_finite_number_is_refused(cell: str) -> None:
    with pytest.raises(DataError, match=r"needs a number such as -1234\.5"):
        divided(1, 2, cell, 3)


def test_a_column_of_one_number_is_refused_however_it_is_written() -> None:
    with pytest.raises(DataError, match=r"All 3 training rows have the number 1\.50"):
        divided("1.50", "1.5", "15e-1")
    with pytest.raises(DataError, match="have the number 1e-170, or almost"):
        divided("1e-170", "2e-170")


@pytest.mark.parametrize("cells", [(5, 5, 5), (5,)])
def test_validation_of_one_number_is_refused(cells: tuple[int, ...]) -> None:
    """A correlation with it is 0, whatever a trial predicts."""
    with pytest.raises(DataError, match=rf"All {len(cells)} validation rows have the number '5'; regression needs two"):
        divided(1, 2, 3, validation=examples(*cells, name="v"))


def test_training_that_is_left_with_one_number_is_refused() -> None:
    """The only other one is a text of validation."""
    train = Examples(texts=("a", "b", "v 0"), labels=("1", "1", "2"))
    with pytest.raises(DataError, match="needs two numbers"):
        split_examples(train, validation=examples(2, 1, name="v"), seed=0, kind=NUMBER)


def test_a_text_with_several_numbers_is_told_in_words_for_numbers() -> None:
    train = Examples(texts=("a", "a", "b", "c"), labels=("1", "2", "3", "4"))
    splits = split_examples(train, validation=examples(1, 2, name="v"), seed=0, kind=NUMBER)
    assert "Training texts that occur with more than one number: 1." in splits.notes
