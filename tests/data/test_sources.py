"""Every row that is repaired or dropped is counted, and equal labels become equal whatever wrote the file."""

from pathlib import Path

import pytest

from hpo.config.study_file import DataConfig
from hpo.data.sources import Examples, Source, read_examples
from hpo.errors import DataError


def read(folder: Path, name: str, content: bytes, **options: str | bool) -> Source:
    path = folder / name
    path.write_bytes(content)
    return read_examples(str(path), "train", DataConfig(train=path, **options))  # type: ignore[arg-type]


def test_what_was_detected_is_told(tmp_path: Path) -> None:
    source = read(tmp_path, "a.csv", b"id,Review,Sentiment\n1,good,1\n2,bad,0\n")
    assert source.examples == Examples(texts=("good", "bad"), labels=("1", "0"))
    assert source.notes == ("a.csv: text from column 'Review', label from column 'Sentiment' (detected).",)
    pairs = read(tmp_path, "b.csv", b"sentence1,sentence2,label\na,b,1\n")
    assert pairs.examples.pairs == ("b",)
    assert "text from column 'sentence1' and 'sentence2'" in pairs.notes[0]


def test_columns_that_were_named_need_no_note(tmp_path: Path) -> None:
    source = read(tmp_path, "a.csv", b"a,b\nx,1\n", text_column="a", label_column="b")
    assert source.notes == ()


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("1", "1"), ("1.0", "1"), ("-3.00", "-3"), ('"1.0"', "1"), ("1e2", "100"), ("2.5", "2.5"), ("true", "true"),
        ("false", "false"), ('"True"', "true"), ('"FALSE"', "false"), ('"TrUe"', "TrUe"), ('" spam "', "spam"),
        ('"<img onerror=alert(1)>"', "<img onerror=alert(1)>"), ('"01"', "01"), ("1e400", "inf"),
    ],
)  # fmt: skip
def test_labels_are_strings_of_one_spelling(tmp_path: Path, written: str, label: str) -> None:
    source = read(tmp_path, "a.jsonl", f'{{"text": "x", "label": {written}}}\n'.encode())
    assert source.examples.labels == (label,)


def test_one_and_true_are_different_labels(tmp_path: Path) -> None:
    rows = b'{"text": "x", "label": 1}\n{"text": "x", "label": true}\n{"text": "x", "label": 1.0}\n'
    assert read(tmp_path, "a.jsonl", rows).examples.labels == ("1", "true", "1")


def test_rows_without_text_or_label_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = (
        b'{"text": "kept", "label": 0}\n{"text": " \\t\\n", "label": 0}\n{"text": null, "label": null}\n{"label": 1}\n'
        b'{"text": "a", "label": null}\n{"text": "b", "label": " "}\n{"text": "c", "label": NaN}\n'
        b'{"text": 5, "label": 1}\n'
    )
    source = read(tmp_path, "a.jsonl", rows)
    assert source.examples == Examples(texts=("kept", "5"), labels=("0", "1"))
    assert source.notes[1:] == (
        "a.jsonl: rows dropped for having no text: 3 (lines 2, 3, 4).",
        "a.jsonl: rows dropped for having no label: 3 (lines 5, 6, 7).",
    )
    assert source.warnings == source.notes[1:]


def test_a_row_cut_short_has_no_label(tmp_path: Path) -> None:
    source = read(tmp_path, "a.csv", b"text,label\nx,a\nlast row was cu")
    assert source.examples.texts == ("x",)
    assert source.notes[-1] == "a.csv: rows dropped for having no label: 1 (line 3)."

    text = b'text,label\n"of two\nlines",a\n\n' + b"x,\n" * 7
    assert read(tmp_path, "b.csv", text).notes[-1].endswith("having no label: 7 (lines 5, 6, 7, 8, 9, ...).")


def test_of_a_pair_one_text_may_be_blank(tmp_path: Path) -> None:
    source = read(tmp_path, "a.csv", b"premise,hypothesis,label\n,b,1\na,,1\n,,1\n")
    assert source.examples.texts == ("", "a")
    assert source.examples.pairs == ("b", "")


def test_other_bytes_and_nul_are_replaced_and_their_rows_counted(tmp_path: Path) -> None:
    source = read(tmp_path, "a.csv", b"text,label\n\xa35 and \xa36,a\nfine,b\nx\x00y,c\xe9\n")
    assert source.examples == Examples(texts=("\ufffd5 and \ufffd6", "fine", "x y"), labels=("a", "b", "c\ufffd"))
    replaced = "rows with bytes that are not UTF-8 or with NUL characters, which were replaced (--strict refuses them)"
    assert source.notes[-1] == f"a.csv: {replaced}: 2 (lines 2, 4)."


def test_escaped_lone_surrogates_and_nul_are_replaced_too(tmp_path: Path) -> None:
    rows = b'{"text": "\\ud83d", "label": "\\u0000a"}\n{"text": "\\ud83d\\ude00", "label": "a"}\n'
    examples = read(tmp_path, "a.jsonl", rows).examples
    assert examples == Examples(texts=("\ufffd", "\U0001f600"), labels=("a", "a"))


def test_strict_refuses_other_bytes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2, is not UTF-8; save the file as UTF-8, or leave out `strict`"):
        read(tmp_path, "a.csv", b"text,label\n\xa35,a\n", strict=True)


def test_a_list_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Row 2 of .*a.jsonl holds a list in column 'label'"):
        read(tmp_path, "a.jsonl", b'{"text": "x", "label": 1}\n{"text": "x", "label": [1, 2]}\n')


def test_a_file_without_a_whole_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has both a text \(column 'text'\) and a label \(column 'label'\)"):
        read(tmp_path, "a.csv", b"text,label\n,a\nx,\n")
