"""Text and label are found where a person would look for them; a doubtful table is refused, never guessed at."""

from typing import Any

import pytest

from hpo.data.columns import LABEL_NAMES, TEXT_NAMES, Columns, find_columns
from hpo.data.readers.table import Table
from hpo.errors import DataError


def table(**columns: Any) -> Table:
    return Table(
        source="rows.csv",
        names=tuple(columns),
        rows=len(next(iter(columns.values()))),
        column=lambda name: columns[name],
    )


def found(
    source: Table, text: str | None = None, pair: str | None = None, label: str | None = None, group: str | None = None
) -> tuple[str, str | None, str]:
    columns = find_columns(source, text=text, pair=pair, label=label, group=group)
    assert columns.group == group
    return columns.text, columns.pair, columns.label


@pytest.mark.parametrize("text", TEXT_NAMES)
@pytest.mark.parametrize("label", LABEL_NAMES)
def test_usual_names_are_found_in_any_case(text: str, label: str) -> None:
    source = table(**{"id": [1], label.upper(): ["a"], "author": ["b"], text.title(): ["c"]})
    assert found(source) == (text.title(), None, label.upper())


def test_pairs_come_before_single_texts() -> None:
    source = table(title=["t"], premise=["p"], hypothesis=["h"], label=["0"])
    assert found(source) == ("premise", "hypothesis", "label")
    assert found(source, text="title") == ("title", None, "label")
    assert found(source, text="title", pair="premise") == ("title", "premise", "label")


def test_what_is_named_is_taken_and_no_more_detected() -> None:
    source = table(a=["x"], b=["y"], text=["z"], label=["0"])
    columns = find_columns(source, text="a", pair=None, label="b")
    assert columns == Columns(text="a", pair=None, label="b", detected=False)


def test_one_column_left_is_the_part_that_is_missing() -> None:
    assert found(table(id=["1"], text=["x"], mood=["sad"])) == ("text", None, "mood")
    assert found(table(words=["x"], label=["0"])) == ("words", None, "label")


def test_two_unnamed_columns_are_told_apart_by_their_values() -> None:
    source = table(**{"": ["0", "1", "2"], "v1": ["ham", "spam", "ham"], "v2": ["see you", "win now", "at nine"]})
    assert found(source) == ("v2", None, "v1")


def test_the_group_is_neither_text_nor_label_of_a_single_text() -> None:
    assert found(table(document=["d"], snippet=["s"], label=["0"]), group="document") == ("snippet", None, "label")
    assert found(table(topic=["t"], text=["s"], mood=["0"]), group="topic") == ("text", None, "mood")
    assert found(table(words=["x"], mood=["0"], writer=["w"]), label="mood", group="writer") == ("words", None, "mood")


def test_the_group_may_be_the_first_of_a_pair() -> None:
    source = table(premise=["p"], hypothesis=["h"], label=["0"])
    assert found(source, group="premise") == ("premise", "hypothesis", "label")
    assert found(source, text="premise", pair="hypothesis", group="premise") == ("premise", "hypothesis", "label")


@pytest.mark.parametrize(
    ("source", "wanted", "sentence"),
    [
        (table(a=["x"], b=["y"], c=["z"]), {}, "which column of rows.csv holds the text and which the label"),
        (table(a=["x"], b=["y"], c=["z"]), {}, "it has 'a', 'b', 'c'. Name it with --text-column (data.text_column)"),
        (table(text=["x"], b=["y"], c=["z"]), {}, "holds the label; it has 'text', 'b', 'c'. Name it with --label"),
        (table(a=["xx", "yy"], b=["yyy", "zzz"]), {}, "Cannot tell"),
        (table(a=["ham", "spam"], b=["x", "x"]), {"text": "c"}, "has no column 'c'. Known: a, b."),
        (table(texts=["x"], b=["y"]), {"text": "text"}, "Did you mean 'texts'?"),
        (table(a=["x"], b=["y"]), {"text": "a", "label": "a"}, "Column 'a' of rows.csv is named twice"),
        (table(a=["x"], b=["y"]), {"text": "a", "group": "writer"}, "rows.csv has no column 'writer'. Known: a, b."),
        (
            table(a=["x"], b=["y"]),
            {"label": "b", "group": "b"},
            "Column 'b' of rows.csv is named as label and as group",
        ),
        (table(good=["bad", "good"] * 2, fine=["so bad", "so good", "so so", "well"]), {}, "looks like a row"),
    ],
)
def test_a_doubtful_table_is_refused(source: Table, wanted: dict[str, str], sentence: str) -> None:
    with pytest.raises(DataError) as error:
        found(source, **wanted)
    assert sentence in str(error.value)
