"""Every command that is printed can be pasted into a shell, whatever stands in names of folders, files and studies."""

import re
import shlex
from pathlib import Path

import pytest

from hpo.config.parsing import write_yaml
from hpo.config.study_file import StudyConfig
from tests.command_line import Hpo

ODD = 'it\'s a $HOME; "folder"'


@pytest.fixture
def odd_folder(hpo: Hpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    del hpo  # It changes to the test's own folder, and this to one in it.
    folder = tmp_path / ODD
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_commands_after_a_search_do_what_they_say(hpo: Hpo, odd_folder: Path, config: StudyConfig) -> None:
    values = config.model_dump(mode="json", exclude={"store"}) | {"study": "a study", "budget": {"trials": 1}}
    Path("study.yaml").write_text(write_yaml(values))
    said = hpo("run", "study.yaml")
    assert said.code == 0
    command = re.findall(r"hpo (report .*)", said.out)[0]
    assert hpo(*shlex.split(command)).code == 0
    assert Path("report.html").exists()


def test_a_file_that_a_message_names_is_the_one_meant(hpo: Hpo, odd_folder: Path) -> None:
    Path("a space.yaml").write_text("method: random\nparameters: {epochs: {value: 1}}\n")
    told = hpo("space", "check", odd_folder / "a space.yaml").err
    named = shlex.split(re.findall(r"hpo run (.*) --model", told)[0])
    assert named == [str(odd_folder / "a space.yaml")]
    Path("best one.yaml").write_text("hyperparameters: {}\n")
    told = hpo("run", odd_folder / "best one.yaml").err
    for verb, end in (("train", " --output"), ("reproduce", "`")):
        assert shlex.split(re.findall(f"hpo {verb} (.*?){end}", told)[0]) == [str(odd_folder / "best one.yaml")]
