"""`hpo export`: a format by its name or by the ending of the file, and nothing on standard output but that."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hpo.config.parsing import write_yaml
from hpo.config.study_file import StudyConfig
from hpo.export.exported_file import read_exported
from hpo.store.results import StudyResults
from tests.command_line import Hpo
from tests.export.conftest import SPACE


@pytest.fixture
def export(results: StudyResults, config: StudyConfig, hpo: Hpo) -> Hpo:
    """Export from the store in which `results` are."""
    return partial(hpo, "export", "--store", config.store.url)


def test_a_trial_of_ones_own_choice(export: Hpo, results: StudyResults, tmp_path: Path) -> None:
    last = results.leaderboard[-1]
    assert export("--trial", last.number, "--output", "one.json")[0] == 0
    found = read_exported(tmp_path / "one.json")
    assert (found.trial, found.chosen_by, found.score) == (last.number, "user", last.score)
    assert export("--trial", 77)[0] == 2


def test_what_cannot_be_said_ends_with_a_sentence_and_writes_nothing(export: Hpo, tmp_path: Path) -> None:
    # The space of this search varies the dropout, of which TrainingArguments know nothing.
    code, out, err = export("--format", "training-arguments", "--output", "arguments.json")
    assert (code, out) == (2, "")
    assert "dropout 0." in err
    assert list(tmp_path.iterdir()) == []


def test_an_override_is_a_known_key(export: Hpo, tmp_path: Path) -> None:
    code, _, err = export("--output", "best.yaml", "data.trian=other.csv")
    assert code == 2
    assert "unknown key 'data.trian'. Did you mean 'data.train'?" in err
    assert list(tmp_path.iterdir()) == []


def test_a_script_by_the_ending_of_its_file_and_what_it_reads_beside_it(export: Hpo, tmp_path: Path) -> None:
    code, _, err = export("--output", "train.py")
    assert code == 0, err
    assert err.startswith("Wrote train.py.\nWrote train.json.\nThe script reads the other file, and needs torch ")
    compile((tmp_path / "train.py").read_text(), "train.py", "exec")
    assert read_exported(tmp_path / "train.json").study == "tiny"


def test_a_script_overwrites_neither_file_where_one_is_the_user_s(export: Hpo, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    code, _, err = export("--output", "train.py")
    assert (code, [path.name for path in tmp_path.iterdir()]) == (2, ["train.json"])
    assert "Cannot write train.json: it holds something else" in err
    code, _, err = export("--format", "python")
    assert code == 2
    assert "A script reads the .json file beside it" in err


@pytest.mark.parametrize("name", ["best.YML", "best"])
def test_yaml_by_the_ending_of_the_file_or_without_one(export: Hpo, tmp_path: Path, name: str) -> None:
    assert export("--output", name) == (0, "", f"Wrote {name}.\n")
    assert read_exported(tmp_path / name).trial >= 0


def test_an_ending_that_names_no_format_is_refused_with_the_choices(export: Hpo, tmp_path: Path) -> None:
    code, _, err = export("--output", "best.txt")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "best.txt does not say in which format to write; end it .yaml, .json or .py" in err
    assert "--format: yaml, json, training-arguments, python, peft." in err


def test_a_store_is_not_written_over(export: Hpo, config: StudyConfig, tmp_path: Path) -> None:
    store = Path(config.store.url.removeprefix("sqlite:///"))
    before = store.read_bytes()
    code, _, err = export("--format", "json", "--output", store)
    assert (code, store.read_bytes() == before) == (2, True)
    assert "it is the store; name another place" in err


@pytest.mark.parametrize("name", ["best.yaml", "best.json", "train.py", "arguments.json"])
def test_what_was_exported_is_replaced_and_nothing_else(
    export: Hpo, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.export.training_arguments.FIELDS", {})
    format_ = ("--format", "training-arguments") if name == "arguments.json" else ()
    for _ in range(2):
        assert export(*format_, "--output", name).code == 0
    theirs = {"study": "mine", "model": {"name": "any"}}
    for text in ("text,label\nmine,a\n", json.dumps(theirs, indent=2), write_yaml(theirs)):
        (tmp_path / name).write_text(text)
        assert export(*format_, "--output", name).code == 2
        assert (tmp_path / name).read_text() == text


def test_an_ending_of_another_format_is_refused(export: Hpo, tmp_path: Path) -> None:
    code, _, err = export("--format", "json", "--output", "best.yaml")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "best.yaml ends as a file of yaml does, but --format is json; end it .json." in err


def test_arguments_are_all_that_is_on_standard_output(
    export: Hpo, monkeypatch: pytest.MonkeyPatch, results: StudyResults
) -> None:
    monkeypatch.setattr("hpo.export.training_arguments.FIELDS", {})
    code, out, err = export("--format", "training-arguments")
    assert code == 0, err
    assert json.loads(out)["learning_rate"] == results.best.configuration["learning_rate"]
    assert err.startswith("Beside TrainingArguments: texts are cut at 16 tokens")


def test_no_such_format(export: Hpo) -> None:
    code, _, err = export("--format", "pyton")
    assert code == 2
    assert "Did you mean 'python'? Known: json, peft, python, training-arguments, yaml." in err


def test_standard_output_by_its_name_and_a_link_that_leads_to_itself(
    export: Hpo, config: StudyConfig, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "hpo", "export", "--store", config.store.url, "--output", "/dev/stdout"]
    piped = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert piped.stdout.startswith("# One configuration of a search")
    (tmp_path / "loop").symlink_to("loop")
    assert export("--output", "loop")[0] == 0
    assert read_exported(tmp_path / "loop").study == "tiny"


@pytest.fixture
def elsewhere(model_folder: Path, texts_file: Path, tmp_path: Path, hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is not that of a search, which named model and texts as they lie there, and in which they moved."""
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    shutil.copytree(model_folder, "bert")
    shutil.copy(texts_file, "texts.csv")
    space = {name: spec for name, spec in SPACE.items() if name != "dropout"}
    values = ("confirmation={finalists: 0}", "compute.precision=fp32", "compute.threads=1", "evaluation.rung_rows=12")
    words = ("--model", "./bert", "--train", "texts.csv", "--trials", 1, f"space={json.dumps(space)}")
    assert hpo("run", *words, *values).code == 0
    monkeypatch.chdir(tmp_path)
    Path("there/bert").rename("model")
    Path("there/texts.csv").rename("moved.csv")
    return tmp_path


@pytest.mark.slow
def test_from_another_folder_with_other_paths_every_form_gives_the_same_score(hpo: Hpo, elsewhere: Path) -> None:
    store, here = ("--store", "there/hpo.db"), ("data.train=moved.csv", "model.name=./model")
    assert hpo("export", *store, *here, "--output", "train.py").code == 0
    assert hpo("export", *store, *here, "--output", "moved.json").code == 0
    assert hpo("reproduce", "moved.json").code == 0
    assert "Reproduced to the last bit" in hpo("reproduce", "there/best.yaml", *here).out
    assert hpo("train", "there/best.yaml", *here, "--output", "ours").code == 0
    # The script as a program, texts and model moved once more.
    Path("moved.csv").rename("again.csv")
    Path("model").rename("again")
    words = [sys.executable, "train.py", "--train", "again.csv", "--model", "./again", "--output", "theirs"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["score"] == pytest.approx(said["in_the_search"], abs=1e-9)
    ours, theirs = (load_file(elsewhere / folder / "model.safetensors") for folder in ("ours", "theirs"))
    whole = next(name for name in ours if name.endswith("word_embeddings.weight"))
    pretrained = next(one for name, one in load_file("again/model.safetensors").items() if whole.endswith(name))
    # hpo does not train the rows of tokens that do not occur; in the script weight decay shrinks them.
    trained = (ours[whole] != pretrained).any(dim=1)
    assert trained.any()
    for name, weight in ours.items():
        rows = trained if name == whole else slice(None)
        torch.testing.assert_close(theirs[name][rows], weight[rows], rtol=1e-4, atol=1e-5)
