"""Row files: what is read is what was written, or nothing, whatever became of the file or of who wrote it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.files.shared import DIGEST_BYTES, RowFile

SIZES = np.array([5, 1, 8, 3])
RECORDS = [bytes([row + 1]) * int(size) for row, size in enumerate(SIZES)]
ALL = 10**6


def filled(path: Path) -> RowFile:
    file = RowFile(path, SIZES, ALL)
    for row, record in enumerate(RECORDS):
        file.write(row, record)
    return file


def found(file: RowFile) -> list[bytes | None]:
    return [None if record is None else bytes(record) for record in map(file.read, range(file.rows))]


def test_what_one_wrote_the_others_read(tmp_path: Path) -> None:
    first, second = RowFile(tmp_path / "rows", SIZES, ALL), RowFile(tmp_path / "rows", SIZES, ALL)
    assert found(second) == [None] * 4
    first.write(2, RECORDS[2])
    assert found(second) == [None, None, RECORDS[2], None]
    second.write(0, RECORDS[0])
    assert found(first) == [RECORDS[0], None, RECORDS[2], None]


def test_a_file_of_no_path_is_its_own(tmp_path: Path) -> None:
    file = RowFile(None, SIZES, ALL)
    file.write(1, RECORDS[1])
    assert found(file) == [None, RECORDS[1], None, None]
    assert found(RowFile(None, SIZES, ALL)) == [None] * 4


def test_rows_beyond_its_bytes_have_no_place(tmp_path: Path) -> None:
    two = int(SIZES[:2].sum()) + 2 * DIGEST_BYTES
    assert RowFile(tmp_path / "none", SIZES, DIGEST_BYTES).rows == 0
    assert RowFile(tmp_path / "two", SIZES, two).rows == 2
    assert RowFile(tmp_path / "almost", SIZES, two - 1).rows == 1
    # Whoever comes later follows the one that made it.
    assert RowFile(tmp_path / "two", SIZES, ALL).rows == 2


@given(data=st.data())
def test_no_altered_byte_is_believed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("altered") / "rows"
    filled(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    ends = np.cumsum(SIZES + DIGEST_BYTES)
    row = int(np.searchsorted(ends, place, side="right"))
    assert found(RowFile(path, SIZES, ALL)) == [None if one == row else record for one, record in enumerate(RECORDS)]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from hpo.files.shared import RowFile
file = RowFile(Path(sys.argv[1]), np.full(20, 2**20), 10**9)
for number in range(10**6):
    file.write(number % 20, bytes([1 + number // 20 % 200]) * 2**20)
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_no_record_that_is_torn(tmp_path: Path) -> None:
    """It writes records of one byte over and over; in a sound one all bytes are alike."""
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "rows")], stdout=subprocess.PIPE)
        assert writer.stdout
        for _ in range(30):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        file = RowFile(tmp_path / "rows", np.full(20, 2**20), 10**9)
        records = [record for record in map(file.read, range(20)) if record is not None]
        assert len(records) >= 19
        assert all(bytes(record) == bytes(record[:1]) * 2**20 for record in records)
