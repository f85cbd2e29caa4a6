"""A source is found where it says: one file, several of a pattern, or a sentence on what to write instead."""

import gzip
from pathlib import Path

import pytest

from hpo.config.study_file import DataConfig
from hpo.data.readers.locations import read_source, refuse_missing
from hpo.data.sources import read_examples
from hpo.errors import DataError


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_files_of_a_pattern_are_one_table_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "part-2.csv", "label,text\nb,two\n")
    write(tmp_path / "part-1.csv", "text,label\none,a\nuno,a\n")
    (tmp_path / "part-3.csv.gz").write_bytes(gzip.compress(b"text,label\nthree,c\n"))
    write(tmp_path / "part-0.csv" / "inside.csv", "not,asked\nfor,it\n")
    pattern = str(tmp_path / "part-*")
    source = read_examples(pattern, "train", DataConfig(train=pattern, label_column="label"))
    assert source.examples.texts == ("one", "uno", "two", "three")
    assert source.examples.labels == ("a", "a", "b", "c")
    assert source.notes == (
        "part-*: text from column 'text', label from column 'label' (detected).",
        "part-*: files read: 3.",
    )


def test_two_asterisks_reach_folders_within_folders(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", '{"text": "x", "label": 1}\n')
    write(tmp_path / "a" / "deep" / "c.jsonl", '{"text": "y", "label": 0}\n')
    table = read_source(str(tmp_path / "**" / "*.jsonl"), "train", strict=True)
    assert table.column("text") == ["y", "x"]
    assert table.notes == ("*.jsonl: files read: 2.",)


def test_notes_of_each_file_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "1.tsv", "text\tlabel\nx\t1\n")
    write(tmp_path / "2.tsv", 'text\tlabel\n"open\t1\n')
    assert (
        "2.tsv: the quotation marks do not match" in read_source(str(tmp_path / "*.tsv"), "train", strict=True).notes[1]
    )


def test_a_file_that_is_there_is_no_pattern(tmp_path: Path) -> None:
    path = write(tmp_path / "[1] rows*.csv", "text,label\nx,a\n")
    assert read_source(str(path), "train", strict=True).column("text") == ["x"]


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "text,label\nx,a\n")
    write(tmp_path / "2.csv", "text,label,id\nx,a,1\n")
    with pytest.raises(DataError, match=r"same columns, but .*2.csv has 'id' and .*1.csv has not"):
        read_source(str(tmp_path / "*.csv"), "train", strict=True)
    write(tmp_path / "2.csv", "text\nx\n")
    with pytest.raises(DataError, match=r"same columns, but .*1.csv has 'label' and .*2.csv has not"):
        read_source(str(tmp_path / "*.csv"), "train", strict=True)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("gone-*.csv", "No file matches the pattern gone-*.csv."),
        ("gone.csv", "Cannot read 'gone.csv': No such file or directory."),
        ("", "Cannot read '': No such file or directory."),
        ("a\0b.csv", "No such file or directory."),
        ("x" * 5000 + ".csv", "No such file or directory."),
        ("stanfordnlp/imdb", "for a data set of the hub write hf://stanfordnlp/imdb."),
        ("texts/gone.csv", "Cannot read 'texts/gone.csv': No such file or directory."),
        ("https://me:secret@example.org/a.csv", "https://***@example.org/a.csv is a https address"),
        ("https://example.org/rows.csv", "is a https address, which is not read; download it, or name a data set"),
    ],
)  # fmt: skip
def test_a_source_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        read_source(source, "train", strict=False)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("texts/reveiws.csv", "Did you mean 'texts/reviews.csv'?"),
        ("texts/reviews.parquet", "Did you mean 'texts/reviews.csv'?"),
        ("texts/nope.csv", "In its folder there are new.csv.gz, reviews.csv."),
    ],
)
def test_files_near_one_that_is_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for name in ("reviews.csv", "new.csv.gz", "notes.md"):
        Path("texts", name).touch()
    with pytest.raises(DataError) as error:
        refuse_missing(source)
    assert str(error.value) == f"Cannot read {source!r}: No such file or directory. {sentence}"
