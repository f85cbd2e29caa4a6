"""What a user names is written whole, or told not to be before a night of work; nothing else of theirs is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.errors import ConfigurationError
from hpo.export.configs import HEADER, MARK, default_output
from hpo.export.writing import check_writable, write_text

TEXT = HEADER + "study: mine\nstudy_uid: '1234567890'\n"
UID = "1234567890"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(name: str, text: str = "") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("before", [None, "", TEXT, MARK + " An older kind of it.\n"])
def test_it_takes_the_place_of_nothing_of_an_empty_file_and_of_its_own_kind(before: str | None) -> None:
    path = Path("best.yaml") if before is None else made("best.yaml", before)
    check_writable(path, MARK)
    write_text(path, TEXT, MARK)
    assert path.read_text() == TEXT
    assert os.listdir() == ["best.yaml"]


@pytest.mark.parametrize("name", ["other", "hpo.db-wal", "folder", "none/best.yaml", "away", "x" * 300])
def test_what_cannot_be_written_is_told_before_and_after(name: str) -> None:
    made("other", "text,label\n")
    Path("folder").mkdir()
    Path("away").symlink_to("none/best.yaml")
    before = sorted(os.listdir())
    with pytest.raises(ConfigurationError, match=r"^Cannot write .*; name another"):
        check_writable(Path(name), MARK)
    with pytest.raises(ConfigurationError, match=r"^Cannot write .*; name another"):
        write_text(Path(name), TEXT, MARK)
    assert sorted(os.listdir()) == before
    assert Path("other").read_text() == "text,label\n"


@pytest.mark.parametrize("name", ["hpo.db", "sub/../hpo.db", "link"])
def test_a_store_that_is_made_only_later_is_no_place(name: str) -> None:
    Path("sub").mkdir()
    Path("link").symlink_to("hpo.db")
    with pytest.raises(ConfigurationError, match="it is the store; name another"):
        check_writable(Path(name), MARK, "sqlite:///hpo.db")


def test_standard_output_that_leads_to_a_file_keeps_what_was_said_before() -> None:
    code = (
        "from pathlib import Path; from hpo.export.configs import MARK; from hpo.export.writing import *; "
        "check_writable(Path('/dev/stdout'), MARK); print('progress', flush=True); "
        "write_text(Path('/dev/stdout'), MARK, MARK)"
    )
    with open("log.txt", "w") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert Path("log.txt").read_text() == f"progress\n{MARK}"


@pytest.mark.parametrize(
    ("text", "mine"),
    [
        (TEXT, True),
        (HEADER + "study: another\nstudy_uid: '77'\n", False),
        # Of a study of that name in another store, and of an older kind of file, which does not say of which.
        (HEADER + "study: mine\nstudy_uid: '77'\n", False),
        (HEADER + "study: mine\n", False),
        ("# My own words first.\n" + TEXT, False),
        ("study: mine\nstudy_uid: '1234567890'\n", False),
        ("{", False),
        ("", False),
    ],
)
def test_best_yaml_is_where_a_study_s_own_configuration_is_or_nothing(text: str, mine: bool) -> None:
    assert default_output("mine", UID) == Path("best.yaml")
    made("best.yaml", text)
    found = default_output("mine", UID)
    assert found == Path("best.yaml" if mine else "best-mine.yaml")
    check_writable(found, MARK)
    made("best-mine.yaml", text)
    assert default_output("mine", UID) == Path("best.yaml" if mine else "best-mine-12345678.yaml")


def test_whom_a_file_is_for_stays_as_it_was() -> None:
    path = made("best.yaml", TEXT)
    path.chmod(0o640)
    write_text(path, TEXT, MARK)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_may_not_be_written_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its folder may; root, who may run this, may write everything."""
    path, may = made("best.yaml", TEXT), os.access
    monkeypatch.setattr(os, "access", lambda where, mode: where != path and may(where, mode))
    with pytest.raises(ConfigurationError, match=r"Cannot write best\.yaml: Permission denied; name another place"):
        check_writable(path, MARK)


def test_a_pipe_in_the_place_of_best_yaml_is_not_waited_for() -> None:
    os.mkfifo("best.yaml")
    assert default_output("mine", UID) == Path("best-mine.yaml")
