"""Data sets that `datasets` loads: without a network, from folders laid out as the hub's repositories are."""

import sys
import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest

from hpo.config.study_file import DataConfig
from hpo.data.readers.hub import SplitName, parse_address
from hpo.data.readers.locations import read_source
from hpo.data.sources import read_examples
from hpo.data.splits import load_splits
from hpo.errors import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(prefix: str, count: int) -> Any:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    cells = {"text": [f"{prefix} {row}" for row in range(count)], "label": [row % 2 for row in range(count)]}
    return datasets.Dataset.from_dict(cells, features=features)


def repository(folder: Path, **counts: int) -> Path:
    """Write CSV files of so many rows, one a split, as a repository of the hub holds them."""
    folder.mkdir(parents=True)
    for split, count in counts.items():
        lines = "".join(f"{split} {row},{row % 2}\n" for row in range(count))
        (folder / f"{split}.csv").write_text(f"text,label\n{lines}")
    return folder


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("hf://OWNER/NAME", ("OWNER/NAME", {})),
        ("hf://squad", ("squad", {})),
        (
            "hf://nyu-mll/glue?configuration=sst2&split=validation&revision=refs/pr/1",
            ("nyu-mll/glue", {"configuration": "sst2", "split": "validation", "revision": "refs/pr/1"}),
        ),
        ("hf:///data/my%20set/?split=train[:10%25]", ("/data/my set", {"split": "train[:10%]"})),
        ("hf://./data/set", ("./data/set", {})),
    ],
)
def test_an_address_is_taken_apart(source: str, address: tuple[str, dict[str, str]]) -> None:
    assert parse_address(source) == address


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("hf://", "hf:// names no data set; write hf://OWNER/NAME."),
        ("hf://a/b?splitt=x", "unknown key 'splitt'. Did you mean 'split'? Known: configuration, revision, split."),
        ("hf://a/b?split=", "gives 'split' no value; give it one."),
        ("hf://a/b?split=x&split=y", "gives 'split' twice; give it one."),
        ("hf://a/b?split", "cannot be read as hf://OWNER/NAME?configuration=NAME&split=NAME."),
        ("hf://[a/b", "cannot be read as hf://OWNER/NAME?configuration=NAME&split=NAME."),
    ],
)
def test_an_address_that_cannot_be_is_told(source: str, sentence: str) -> None:
    with pytest.raises(DataError) as error:
        read_source(source, "train", strict=False)
    assert sentence in str(error.value)


def test_a_study_takes_its_splits_from_one_repository_and_nothing_shows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = f"hf://{repository(tmp_path / 'set', train=8, validation=4, test=2)}"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        splits = load_splits(DataConfig(train=source, validation=source, test=source), seed=0)
    assert splits.test is not None
    assert splits.train.texts == tuple(f"train {row}" for row in range(8))
    assert splits.validation.texts == tuple(f"validation {row}" for row in range(4))
    assert splits.test.texts == ("test 0", "test 1")
    assert splits.notes[0] == f"{source}: text from column 'text', label from column 'label' (detected)."
    assert capfd.readouterr() == ("", "")
    assert not [warning for warning in seen if warning.category is not ResourceWarning]
    assert not datasets.utils.are_progress_bars_disabled()


def test_class_labels_become_names_and_splits_may_be_sliced(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    rows("text", 6).to_parquet(tmp_path / "set" / "train.parquet")
    address = f"hf://{tmp_path / 'set'}?split=train[:3]"
    source = read_examples(address, "validation", DataConfig(train=address))
    assert source.examples.labels == ("neg", "pos", "neg")


def test_a_relative_folder_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "set", train=3)
    monkeypatch.chdir(tmp_path)
    assert read_source("hf://./set", "train", strict=False).rows == 3


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", r"cannot be loaded: Unknown split \"validation\". Should be one of \['train', 'test'\]\."),
        ("?configuration=other", "cannot be loaded: BuilderConfig 'other' not found. Available: \\['default'\\]"),
    ],
)
def test_a_split_or_configuration_that_is_not_there_is_told(tmp_path: Path, query: str, sentence: str) -> None:
    source = f"hf://{repository(tmp_path / 'set', train=2, test=2)}{query}"
    with pytest.raises(DataError, match=sentence):
        read_source(source, "validation", strict=False)


def test_a_repository_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone cannot be loaded: Couldn't find any data file at"):
        read_source(f"hf://{tmp_path / 'gone'}", "train", strict=False)


def test_the_reason_is_told_whatever_the_library_raises(tmp_path: Path) -> None:
    folder = repository(tmp_path / "set")
    (folder / "train.jsonl").write_text('{"text": "a", "label"\n')
    with pytest.raises(DataError, match="cannot be loaded: JSON parse error: Missing a colon"):
        read_source(f"hf://{folder}", "train", strict=False)
    (folder / "README.md").write_text("---\nconfigs: [1, 2\n---\n")
    with pytest.raises(DataError, match="cannot be loaded: while parsing a flow sequence"):
        read_source(f"hf://{folder}", "train", strict=False)


def test_what_the_address_names_is_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*names: str | None, **options: str | None) -> Any:
        asked.append((names, options))
        return rows("text", 2)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read_source("hf://nyu-mll/glue?configuration=sst2&revision=main", "test", strict=False)
    read_source("hf://nyu-mll/glue?split=dev", "test", strict=False)
    assert asked == [
        (("nyu-mll/glue", "sst2"), {"split": "test", "revision": "main"}),
        (("nyu-mll/glue", None), {"split": "dev", "revision": None}),
    ]
    assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS is False


def test_a_saved_data_set_is_read_with_only_the_rows_that_are_its_own(tmp_path: Path) -> None:
    rows("text", 6).select([4, 1]).save_to_disk(tmp_path / "saved")
    source = read_examples(str(tmp_path / "saved"), "train", DataConfig(train=tmp_path / "saved"))
    assert source.examples.texts == ("text 4", "text 1")
    assert source.examples.labels == ("neg", "pos")
    assert source.notes == ("saved: text from column 'text', label from column 'label' (detected).",)


@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_of_saved_splits_the_one_of_the_role_or_the_only_one_is_read(tmp_path: Path, role: SplitName) -> None:
    splits = {name: rows(name, 2) for name in ("train", "validation", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "three")
    assert read_source(str(tmp_path / "three"), role, strict=False).column("text") == [f"{role} 0", f"{role} 1"]
    datasets.DatasetDict(other=rows("other", 2)).save_to_disk(tmp_path / "one")
    assert read_source(str(tmp_path / "one"), role, strict=False).column("text") == ["other 0", "other 1"]


def test_splits_of_a_folder_that_are_not_read_are_told(tmp_path: Path) -> None:
    datasets.DatasetDict(train=rows("a", 2), validation=rows("b", 2)).save_to_disk(tmp_path / "saved")
    folder = str(tmp_path / "saved")
    assert read_source(folder, "train", strict=False).notes == (
        f"{folder}: the split 'train' is read; its others (validation) only where named, as {folder}/NAME.",
    )
    assert read_source(f"{folder}/validation", "validation", strict=False).notes == ()


def test_folders_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    datasets.DatasetDict(train=rows("a", 2), dev=rows("b", 2)).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"none that is called 'validation'. Known: dev, train. Name the folder of one"):
        read_source(str(tmp_path / "saved"), "validation", strict=False)
    folder = repository(tmp_path / "set", train=2)
    with pytest.raises(
        DataError, match=rf"save_to_disk` of datasets wrote; .* {folder}/\*.csv, or hf://{folder} where"
    ):
        read_source(str(folder), "train", strict=False)
    (tmp_path / "saved" / "dataset_dict.json").write_text("{")
    with pytest.raises(DataError, match="saved cannot be loaded: Expecting property name"):
        read_source(str(tmp_path / "saved"), "train", strict=False)


def test_a_missing_package_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows("text", 2).save_to_disk(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in ("hf://owner/name", str(tmp_path / "saved")):
        with pytest.raises(
            DataError, match=rf"Reading {source} needs the package 'datasets', .*'llm-hpo\[datasets\]'`"
        ):
            read_source(source, "train", strict=False)
