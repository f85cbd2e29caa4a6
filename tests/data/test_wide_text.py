"""A file in UTF-16 or UTF-32 is refused, marked or not, with the command that converts it."""

import subprocess
from pathlib import Path

import pytest

from hpo.data.readers.formats import read_table
from hpo.errors import DataError

TEXTS = {
    "latin": "text,label\n" + "a good day,pos\na bad day,neg\n" * 40,
    "header alone is latin": "text,label\n" + "天気が良い日,pos\n" * 40,
    "cyrillic": "текст,метка\n" + "хороший день был,да\nплохой день,нет\n" * 40,
}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", TEXTS)
def test_the_command_that_is_told_converts_it(kind: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "the 'texts'.csv"
    path.write_bytes(TEXTS[kind].encode(encoding))
    with pytest.raises(DataError, match="holds many NUL bytes and looks like UTF-") as told:
        read_table(path, strict=False)
    subprocess.run(["bash", "-c", str(told.value).partition("Convert it: ")[2]], check=True)
    assert (tmp_path / "the 'texts'-utf8.csv").read_text("utf-8-sig") == TEXTS[kind]


@pytest.mark.parametrize("text", [*TEXTS.values(), "text,label\na\0b,x\n", "text,label\n" + "\0a long text,x\n" * 40])
def test_texts_of_single_bytes_are_read_with_a_nul_here_and_there(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / "a.csv", strict=False).rows
