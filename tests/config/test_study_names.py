"""A study's name keeps letters of any script, and is safe as the name of a file."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.cli.study_arguments import study_name
from hpo.config.study_file import StudyConfig
from hpo.config.study_names import as_study_name, is_study_name
from hpo.store.database import sqlite_path


@pytest.mark.parametrize("name", ["größe", "Ürün yorumları", "тексты", "日本語", "हिन्दी", "s.1_a-b c", "1"])
def test_letters_of_any_script_stay(name: str) -> None:
    assert is_study_name(name)
    assert StudyConfig.model_validate({"study": name, "model": {"name": "m"}, "data": {"train": "t"}}).study == name
    assert study_name("m", f"/data/{name}.csv") == f"{name.replace(' ', '-').partition('.')[0]}-m"


@pytest.mark.parametrize(
    "name", ["", "../up", "a/b", "a\\b", "a\0b", "a\n", ".x", "-x", "\u0301a", "a\u202eb", "ü" * 129, "日" * 67]
)
def test_what_is_no_name_of_a_file_is_none_of_a_study(name: str) -> None:
    assert not is_study_name(name)


@given(text=st.text(max_size=300))
def test_any_text_gives_a_name_that_a_file_may_have(text: str) -> None:
    name = as_study_name(text, "study")
    assert is_study_name(name)
    assert os.path.basename(name) == name
    assert len(os.fsencode(f"STORE-{name} (confirmation).yaml")) < 255


def test_a_tilde_in_a_study_file_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    sections = {"model": {"name": "~/bert"}, "data": {"train": "~/a.csv", "test": Path("~/b.csv")}, "space": "~/s.yaml"}
    config = StudyConfig.model_validate({"study": "s", **sections, "store": {"url": "~/s.db", "files": "~/files"}})
    paths = (config.model.name, config.data.train, config.data.test, config.space, str(config.store.files))
    assert paths == ("/home/me/bert", "/home/me/a.csv", "/home/me/b.csv", "/home/me/s.yaml", "/home/me/files")
    for url in ("~/s.db", "sqlite:///~/s.db"):
        assert sqlite_path(url) == Path("/home/me/s.db")
    assert sqlite_path("sqlite:///a~b.db") == Path("a~b.db")
