"""Label sets: read from one column however it is written, or from columns of 0 and 1; every mistake told at once."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.config.study_file import DataConfig
from hpo.data.label_checks import without_rare
from hpo.data.labels import MULTI_LABEL, label_matrix, labels_in
from hpo.data.sources import Examples, Source, read_examples
from hpo.data.splits import split_examples
from hpo.errors import DataError


def read(path: Path, content: str, **how: object) -> Source:
    path.write_text(content, encoding="utf-8")
    return read_examples(str(path), "train", DataConfig(train=path, **how), of_sets=True)  # type: ignore[arg-type]


def sets(source: Source) -> list[tuple[str, ...]]:
    return [labels_in(cell) for cell in source.examples.labels]


def test_a_cell_is_divided_its_labels_stripped_sorted_and_named_once(tmp_path: Path) -> None:
    source = read(
        tmp_path / "a.csv", 'text,labels\none, b |a|b\ntwo,\nthree,1.0| True\nfour,"[""x|y"", 2]"\nfive,|a|\n'
    )
    assert sets(source) == [("a", "b"), (), ("1", "true"), ("2", "x|y"), ("a",)]


def test_another_separator(tmp_path: Path) -> None:
    assert sets(read(tmp_path / "a.csv", 'text,labels\none,"b, a"\n', label_separator=",")) == [("a", "b")]


def test_lists_of_json_lines(tmp_path: Path) -> None:
    lines = [{"text": "one", "labels": ["b", "a", "b"]}, {"text": "two", "labels": []}, {"text": "three"}]
    source = read(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert sets(source) == [("a", "b"), (), ()]


def test_lists_of_parquet_and_of_class_numbers(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kind = datasets.Sequence(datasets.ClassLabel(names=["joy", "fear"]))
    features = datasets.Features({"text": datasets.Value("string"), "labels": kind})
    made = datasets.Dataset.from_dict({"text": ["one", "two"], "labels": [[1, 0], []]}, features=features)
    path = tmp_path / "a.parquet"
    made.to_parquet(str(path))
    assert sets(read_examples(str(path), "train", DataConfig(train=path), of_sets=True)) == [("fear", "joy"), ()]


def test_columns_of_0_and_1(tmp_path: Path) -> None:
    content = "text,toxic,id,insult,hate\none,1,7,0,0\ntwo,0,8,0,\nthree,true,9,1.0,0\nfour,,10,False,0\n"
    source = read(tmp_path / "a.csv", content, label_columns=("toxic", "insult", "hate"))
    assert sets(source) == [("toxic",), (), ("insult", "toxic"), ()]
    assert (source.columns.text, source.columns.label) == ("text", "toxic, insult, hate")
    assert "a.csv: columns of data.label_columns without a 1: 'hate'." in source.notes


def test_a_column_without_sets_is_told_and_one_of_equal_sets_is_refused() -> None:
    def divided(*cells: str) -> tuple[str, ...]:
        rows = Examples(texts=tuple(map(str, range(12))), labels=cells * 6)
        return split_examples(rows, validation=0.2, seed=0, kind=MULTI_LABEL).notes

    told = "No training row has several labels; if cells list them, give their data.label_separator."
    assert told in divided('["a,b"]', '["b"]')
    assert told not in divided('["a", "b"]', '["b"]')
    for cells, held in (("[]", "no label"), ('["a", "b"]', "the label 'a', 'b'")):
        with pytest.raises(DataError, match=f"All 12 training rows have {held}; multi-label classification needs"):
            divided(cells, cells)


@pytest.mark.parametrize(
    ("content", "how", "sentence"),
    [
        (
            "text,a,b\none,1,x\ntwo,2,0\n",
            {"label_columns": ("a", "b")},
            "must hold 0 or 1, but row 2 holds '2' in 'a', row 1 holds 'x' in 'b'.",
        ),
        (
            "text,a\none,1\n",
            {"label_columns": "a", "label_column": "b", "text_column": "a"},
            "There are 2 mistakes\n  - Column 'a' is named by data.label_columns and by data.text_column; name another."
            "\n  - data.label_column and data.label_columns are two ways to name the labels; leave one out.",
        ),
        ("text,a\none,1\n", {"label_columns": ("a", "c")}, "has no column 'c', which data.label_columns names"),
        (
            "text,labels\n" + "one,['a']\n" * 7,
            {},
            "row 1 holds \"['a']\", row 2 holds \"['a']\", row 3 holds \"['a']\", row 4 holds \"['a']\", row 5 holds "
            "\"['a']\", 2 more do not.",
        ),
        ('text,labels\none,"[[1]]"\n', {}, "must hold the labels of a row divided by '|' (data.label_separator)"),
    ],
)
def test_every_mistake_is_told_at_once(tmp_path: Path, content: str, how: dict[str, object], sentence: str) -> None:
    with pytest.raises(DataError) as raised:
        read(tmp_path / "a.csv", content, **how)
    assert sentence in str(raised.value)


def test_rare_labels_are_taken_out_of_rows_which_stay() -> None:
    train = Examples(texts=tuple("12345"), labels=('["a"]', '["a", "b", "c"]', *['["b"]'] * 3))
    # Merged they are still too few, and so dropped as well.
    for how in ("drop", "merge"):
        parts, (note, *_) = without_rare({"training": train}, 3, how, MULTI_LABEL)
        assert [labels_in(cell) for cell in parts["training"].labels[:2]] == [(), ("b",)]
        assert "'a', 'c' (rows: 2 training)." in note
    plenty = Examples(texts=tuple("123456"), labels=('["a"]', '["a", "c"]', '["c", "d"]', *['["b"]'] * 3))
    parts, _ = without_rare({"training": plenty}, 3, "merge", MULTI_LABEL)
    assert [labels_in(cell) for cell in parts["training"].labels] == [("other",)] * 3 + [("b",)] * 3


@given(st.lists(st.sets(st.sampled_from("abcd"))))
def test_a_matrix_has_a_one_for_each_label_of_a_row(rows: list[set[str]]) -> None:
    matrix = label_matrix([json.dumps(sorted(row)) for row in rows], "abcd")
    assert [{name for name, one in zip("abcd", row, strict=True) if one} for row in matrix] == rows
