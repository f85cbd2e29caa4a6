"""Compressed text is read as if it were not; a damaged archive is one sentence, wherever the damage is."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.data.readers.formats import read_table
from hpo.data.readers.text_files import COMPRESSIONS
from hpo.errors import DataError

KNOWN_ANSWERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
"""What compresses as each ending says."""

ROWS = "text,label\n" + "".join(f"caf\u00e9 number {row * 7919 % 10007},{row % 2}\n" for row in range(5000))


def test_every_compression_has_a_known_answer() -> None:
    assert KNOWN_ANSWERS.keys() == COMPRESSIONS.keys()
    assert all(entry.description and entry.source for entry in COMPRESSIONS.values())


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_a_compressed_file_reads_as_the_plain_one(tmp_path: Path, ending: str) -> None:
    (tmp_path / "rows.csv").write_bytes(ROWS.encode())
    (tmp_path / f"rows.CSV{ending}").write_bytes(KNOWN_ANSWERS[ending](ROWS.encode()))
    plain = read_table(tmp_path / "rows.csv", strict=True)
    packed = read_table(tmp_path / f"rows.CSV{ending}", strict=True)
    assert (packed.names, packed.rows) == (plain.names, 5000)
    assert packed.column("text") == plain.column("text")


@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
@pytest.mark.parametrize("strict", [False, True])
def test_an_archive_cut_short_is_one_sentence(tmp_path: Path, ending: str, share: float, strict: bool) -> None:
    whole = KNOWN_ANSWERS[ending](ROWS.encode())
    path = tmp_path / f"rows.csv{ending}"
    path.write_bytes(whole[: max(3, int(len(whole) * share))])
    with pytest.raises(
        DataError,
        match=r"rows.csv\.\w+ cannot be decompressed: it is cut short, damaged, or not what its ending says; write",
    ):
        read_table(path, strict=strict)


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_a_damaged_archive_and_one_of_another_kind_are_one_sentence(tmp_path: Path, ending: str) -> None:
    whole = bytearray(KNOWN_ANSWERS[ending](ROWS.encode()))
    del whole[len(whole) // 2 : len(whole) // 2 + 40]
    path = tmp_path / f"rows.jsonl{ending}"
    for content in (bytes(whole), ROWS.encode()):
        path.write_bytes(content)
        with pytest.raises(DataError, match="it is cut short, damaged"):
            read_table(path, strict=False)


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_what_is_inside_is_checked_like_a_plain_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.csv{ending}"
    for content, sentence in (
        (b"", "is empty"),
        ("text,label\nx,a\n".encode("utf-16"), "looks like UTF-16 text"),
        (b"text,label\nx,a\n\xe9,b\n", "line 3, is not UTF-8"),
        (b"text,label\nx,a,b\n", "line 2, has 3 cells where the header names 2 columns"),
    ):
        path.write_bytes(KNOWN_ANSWERS[ending](content))
        with pytest.raises(DataError, match=sentence):
            read_table(path, strict=True)


def test_a_missing_archive_is_told_as_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*gone.csv.gz: No such file or directory"):
        read_table(tmp_path / "gone.csv.gz", strict=False)
