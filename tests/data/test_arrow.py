"""Arrow columns become plain cells: class labels their names, and what is no text is refused by name."""

import datetime
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpo.config.study_file import DataConfig
from hpo.data.readers.formats import read_table
from hpo.data.readers.table import Table
from hpo.data.sources import read_examples
from hpo.errors import DataError


def read(folder: Path, columns: dict[str, Any], strict: bool = False) -> Table:
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    return read_table(path, strict=strict)


def test_class_labels_that_datasets_wrote_become_their_names(tmp_path: Path) -> None:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [1, 0, -1, None]}, features=features)
    pq.write_table(rows.data.table, tmp_path / "rows.parquet")
    assert read_table(tmp_path / "rows.parquet", strict=True).column("label") == ["pos", "neg", None, None]
    source = read_examples(str(tmp_path / "rows.parquet"), "train", DataConfig(train=tmp_path / "rows.parquet"))
    assert source.examples.labels == ("pos", "neg")
    assert source.notes[-1] == "rows.parquet: rows dropped for having no label: 2 (rows 3, 4)."


def test_a_class_without_a_name_is_told(tmp_path: Path) -> None:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    schema = features.arrow_schema
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, 2]}, schema=schema), tmp_path / "rows.parquet")
    with pytest.raises(DataError) as error:
        read_table(tmp_path / "rows.parquet", strict=False).column("label")
    assert str(error.value) == (
        f"Column 'label' of {tmp_path / 'rows.parquet'} holds class 2, but names classes 0 to 1 only; write it again "
        "with a name for each class."
    )


def test_columns_of_a_kind_that_datasets_does_not_know_are_told(tmp_path: Path) -> None:
    described = {b"huggingface": b'{"info": {"features": {"label": {"_type": "OfTheFuture"}}}}'}
    table = pa.table({"text": ["a"], "label": [0]}).replace_schema_metadata(described)
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"what the installed datasets does not understand .*OfTheFuture.*; install"):
        read_table(tmp_path / "rows.parquet", strict=False)


def test_numbers_truth_values_and_dates_are_cells(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    table = read(tmp_path, {"a": [1, None], "b": [1.0, 2.5], "c": [True, False], "d": [day, day], "e": [None, None]})
    assert [table.column(name) for name in "abcde"] == [
        [1, None], [1.0, 2.5], [True, False], [day, day], [None, None],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "kind"),
    [([[["a"]], [["b"]]], "list<"), ([{"bytes": b"x"}] * 2, "struct<"), ([b"x", b"y"], "binary")],
)
def test_lists_images_and_bytes_are_no_text(tmp_path: Path, cells: list[Any], kind: str) -> None:
    table = read(tmp_path, {"text": cells, "label": [0, 1]})
    assert table.column("label") == [0, 1]
    with pytest.raises(
        DataError, match=rf"Column 'text' of .*rows.parquet holds {kind}.*; a text, a label or a group is"
    ):
        table.column("text")


def test_strings_that_are_not_utf8_are_replaced_or_refused(tmp_path: Path) -> None:
    offsets, characters = pa.py_buffer(b"\0\0\0\0\4\0\0\0\5\0\0\0"), pa.py_buffer(b"caf\xe9x")
    texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, characters])
    assert read(tmp_path, {"text": texts, "label": [0, 1]}).column("text") == ["caf\udce9", "x"]
    source = read_examples(str(tmp_path / "rows.parquet"), "train", DataConfig(train=tmp_path / "rows.parquet"))
    assert source.examples.texts == ("caf\ufffd", "x")
    with pytest.raises(
        DataError, match=r"Row 1 of .*rows.parquet holds bytes that are not UTF-8, or NUL characters; mend"
    ):
        read_examples(str(tmp_path / "rows.parquet"), "train", DataConfig(train=tmp_path / "rows.parquet", strict=True))


def test_a_parquet_file_cut_or_overwritten_is_one_sentence(tmp_path: Path) -> None:
    read(tmp_path, {"text": ["a"] * 1000, "label": [1] * 1000})
    path = tmp_path / "rows.parquet"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:8] + b"\xff" * 60 + whole[68:]):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"rows.parquet is cut short, damaged or no Parquet file; write or copy it again"
        ):
            read_table(path, strict=False)


def test_columns_of_one_name_and_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names columns but holds no rows"):
        read(tmp_path, {"text": pa.array([], pa.string())})
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="has more than one column 'text'"):
        read_table(tmp_path / "twice.parquet", strict=False)


def test_a_missing_package_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    sentence = (
        r"rows.parquet needs the package 'pyarrow', which is not installed; run `pip install 'llm-hpo\[datasets\]'`"
    )
    with pytest.raises(DataError, match=sentence):
        read_table(tmp_path / "rows.parquet", strict=False)
