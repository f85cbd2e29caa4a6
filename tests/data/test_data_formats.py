"""Hostile files: each is read as its writer meant it, or refused in a sentence that names the line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.config.study_file import DataConfig
from hpo.data.readers.formats import FORMATS, read_table
from hpo.data.readers.table import Table
from hpo.data.sources import read_examples
from hpo.errors import DataError

CELLS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def read(folder: Path, name: str, content: bytes, strict: bool = False) -> Table:
    path = folder / name
    path.write_bytes(content)
    return read_table(path, strict=strict)


TEXTS = [
    'say "hi"',
    "a,b;c\td",
    "one\r\ntwo\n",
    " <b>&amp;</b> ",
    "\u2028\u0085\x1b[2J",
    "\ufeff\U0001f600e\u0301",
    "null",
]
LABELS = ["1", "0", "1.0", "true", "NaN", "-1", ""]


def write_quoted(path: Path, delimiter: str) -> None:
    cells = [["text", "label"], *map(list, zip(TEXTS, LABELS, strict=True))]
    lines = (delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells)
    path.write_bytes("\r\n".join(lines).encode())


def write_objects(path: Path) -> None:
    objects = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_bytes("\n".join(json.dumps(row, ensure_ascii=row["label"] != "1") for row in objects).encode())


def write_arrow(path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS, "label": pa.array(LABELS).dictionary_encode()}), path)


KNOWN_ANSWERS: dict[str, Callable[[Path], None]] = {
    ".csv": lambda path: write_quoted(path, ","),
    ".tsv": lambda path: write_quoted(path, "\t"),
    ".jsonl": write_objects,
    ".ndjson": write_objects,
    ".parquet": write_arrow,
}
"""How the table of `TEXTS` and `LABELS` is written in each format."""


def test_every_format_has_a_known_answer() -> None:
    assert KNOWN_ANSWERS.keys() == FORMATS.keys()
    assert all(entry.description and entry.source for entry in FORMATS.values())


@pytest.mark.parametrize("ending", FORMATS)
def test_the_same_hostile_table_reads_back_equal_in_each_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending.upper()}"
    KNOWN_ANSWERS[ending](path)
    table = read_table(path, strict=True)
    assert (table.source, table.called, table.names, table.rows) == (str(path), path.name, ("text", "label"), 7)
    assert table.column("text") == TEXTS
    assert table.column("label") == LABELS
    assert table.notes == ()


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), delimiter=st.sampled_from(",;\t"))
def test_csv_of_any_delimiter_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    table = read_table(path, strict=True)
    assert table.column("text") == [text for text, _ in rows]
    assert table.column("label") == [label for _, label in rows]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.text(max_size=20), st.integers() | st.none()), min_size=1, max_size=8))
def test_jsonl_comes_back_equal_whatever_stands_in_its_strings(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int | None]]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.ndjson"
    objects = [
        json.dumps({"text": text, "label": label}, ensure_ascii=index % 2 == 0)
        for index, (text, label) in enumerate(rows)
    ]
    path.write_text("\n".join(objects), encoding="utf-8", newline="\n")
    table = read_table(path, strict=True)
    assert table.column("text") == [text for text, _ in rows]
    assert table.column("label") == [label for _, label in rows]


def test_newlines_may_be_mixed_and_stand_inside_quotes(tmp_path: Path) -> None:
    table = read(tmp_path, "a.csv", b'text,label\r\n"one\r\ntwo\nthree",a\nfour,b\r"fi""ve",c\r\n\r\n\n')
    assert table.column("text") == ["one\r\ntwo\nthree", "four", 'fi"ve']
    assert table.column("label") == ["a", "b", "c"]


def test_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", b"\xef\xbb\xbftext,label\nx,a\n").names == ("text", "label")
    assert read(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n').names == ("text",)


def test_a_row_of_300_kilobytes_is_read_whole(tmp_path: Path) -> None:
    long = 'He said "no", ' * 25_000
    content = "text,label\n" + '"' + long.replace('"', '""') + '",a\nshort,b\n'
    assert read(tmp_path, "a.csv", content.encode()).column("text") == [long, "short"]


def test_unicode_line_separators_are_ordinary_characters_of_json(tmp_path: Path) -> None:
    table = read(tmp_path, "a.jsonl", '{"text": "a\u2028b\x85c"}\r\n\n{"text": "d\te"}'.encode())
    assert table.column("text") == ["a\u2028b\x85c", "d\te"]


def test_json_rows_may_lack_keys(tmp_path: Path) -> None:
    table = read(tmp_path, "a.jsonl", b'{"text": "x"}\n{"label": 1}\n')
    assert table.names == ("text", "label")
    assert table.column("label") == [None, 1]


def test_bytes_that_are_not_utf8_stay_in_their_cell(tmp_path: Path) -> None:
    table = read(tmp_path, "a.csv", b"text,label\ncaf\xe9,a\nx,b\n")
    assert table.column("text") == ["caf\udce9", "x"]


def test_a_latin1_name_of_a_column_can_be_shown(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", b"text,cat\xe9gorie\nx,a\n").names == ("text", "cat\ufffdgorie")
    table = read(tmp_path, "a.jsonl", b'{"cat\xe9gorie": "a"}\n')
    assert table.column("cat\ufffdgorie") == ["a"]


def test_tsv_with_stray_quotes_is_read_as_plain_characters_and_says_so(tmp_path: Path) -> None:
    table = read(tmp_path, "a.tsv", b'text\tlabel\n"Open and shut\t1\nfine\t0\n"again" he said\t1\n')
    assert table.column("text") == ['"Open and shut', "fine", '"again" he said']
    assert table.notes == ("a.tsv: the quotation marks do not match in pairs, so they were read as plain characters.",)
    assert read(tmp_path, "b.tsv", b'text\tlabel\n"tab\there"\t1\n').column("text") == ["tab\there"]


def test_stray_quotes_of_a_tsv_that_match_by_chance_do_not_make_one_row_of_several(tmp_path: Path) -> None:
    content = b'text\tlabel\n"Open and shut\t1\nfine\t0\nagain"\t1\n"quoted"\t0\n'
    table = read(tmp_path, "a.tsv", content)
    assert table.column("text") == ['"Open and shut', "fine", 'again"', '"quoted"']
    assert table.column("label") == ["1", "0", "1", "0"]
    assert table.notes == (
        "a.tsv: the quotation marks would make one row of several, so they were read as plain characters.",
    )
    quoted = read(tmp_path, "b.tsv", b'text\tlabel\n"one\n\ntwo"\t1\n"tab\tand\nline"\t0\n')
    assert (quoted.column("text"), quoted.notes) == (["one\n\ntwo", "tab\tand\nline"], ())


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.xlsx", b"x", "known are .csv, .tsv, .jsonl, .ndjson, .parquet, and text compressed as .gz, .bz2, .xz."),
        ("a.csv.zst", b"x", "is compressed with Zstandard, which is not read; decompress it, or compress it as .gz or"),
        ("a.parquet.gz", b"x", "is a compressed .parquet, which is compressed already; decompress it."),
        ("a.gz", b"x", "Cannot tell the format of"),
        ("a.parquet", b"", "is empty"),
        ("a.parquet", b"PAR1 but not really PAR1", "is cut short, damaged or no Parquet file; write or copy it again."),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\n\r\n\n", "holds only blank lines"),
        ("a.jsonl", b"\n  \n", "holds only blank lines"),
        ("a.csv", b"text,label\n", "names columns but holds no rows"),
        ("a.csv", "text,label\nx,a\n".encode("utf-16"), "looks like UTF-16 text"),
        ("a.csv", b"text,text\nx,a\n", "more than one column 'text'"),
        ("a.csv", b"text,label\nx,a\nHello, world,b\n", "line 3, has 3 cells where the header names 2 columns"),
        ("a.csv", b'text,label\n"a\nb",a\n"never closed,b\nx,c\n', "the row that starts at line 4 do not match"),
        ("a.csv", b'text,label\n"He said "hi" twice",a\n', "write each quotation mark twice"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2, is not valid JSON: expecting value"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": "y\n',
            "line 2, is not valid JSON: unterminated string starting at character 10",
        ),
        ("a.jsonl", b'[{"text": "x"}]\n', "line 1, must be one JSON object {...}, but is a list"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000 + b"\n", "line 1, holds JSON that is nested too deeply"),
        ("a.jsonl", b'{"a": ' + b"9" * 5_000 + b"}\n", "or a number too long"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, name, content)
    assert sentence in str(error.value)


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*gone.csv: No such file or directory"):
        read_table(tmp_path / "gone.csv", strict=False)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        read_table(tmp_path / "folder.csv", strict=False)


def test_strict_names_the_first_line_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 3, is not UTF-8"):
        read(tmp_path, "a.csv", "text,label\né,a\n".encode() + b"\xe9,b\n\xe9,c\n", strict=True)


@pytest.mark.parametrize(
    ("content", "delimiter", "names"),
    [
        ("text|label\na, b|x\n", None, ("text", "label")),
        ('"What, or why, or when?";"label"\ngood;x\nbad, or worse;y\n', None, ("What, or why, or when?", "label")),
        ('"text;a;b;c",label\ngood,x\n', None, ("text;a;b;c", "label")),
        ("   \n,,\ntext,label\ngood,x\n", None, ("text", "label")),
        ("text;label\na|b, c|d;x\n", None, ("text", "label")),
        ("text, said|label\na, b, c|x\nd|y\n", None, ("text, said", "label")),
        ("text|more,label\na|b|c,x\nd,y\n", None, ("text|more", "label")),
        ('text,label\n"a\nb|c",x\n', None, ("text", "label")),
        ("text^label\na, b^x\n", "^", ("text", "label")),
        ("text,x;label\na,b;x\n", ";", ("text,x", "label")),
    ],
)
def test_cells_are_divided_by_what_divides_all_rows_or_as_is_said(
    content: str, delimiter: str | None, names: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert read_table(tmp_path / "a.csv", strict=True, delimiter=delimiter).names == names


def test_a_single_column_asks_for_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text^label\na^x\n")
    with pytest.raises(DataError, match=r"If another character divides its cells, name that by data.delimiter"):
        read_examples(str(tmp_path / "a.csv"), "train", DataConfig(train=tmp_path / "a.csv"))


@pytest.mark.parametrize(("told", "character"), [("pipe", "|"), ("tab", "\t"), ("\\t", "\t"), ("^", "^"), (" ", " ")])
def test_a_delimiter_is_a_character_or_its_name(told: str, character: str) -> None:
    assert DataConfig(train="a.csv", delimiter=told).delimiter == character


@pytest.mark.parametrize("told", ["", "||", "a", '"', "\n"])
def test_what_cannot_divide_cells_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match="cells are divided by one character"):
        DataConfig(train="a.csv", delimiter=told)
