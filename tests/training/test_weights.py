from pathlib import Path

import pytest
import safetensors
import torch

from hpo.errors import NoResultError
from hpo.training import weights
from hpo.training.weights import keep_only, load_weights, save_weights, weights_path

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, 2).T}


def test_what_is_saved_is_read_back(tmp_path: Path):
    path = save_weights(tmp_path / "new", 12, TENSORS, {"score": "0.5"})
    assert path == tmp_path / "new" / "trial-0012" / "weights.safetensors"
    loaded = load_weights(tmp_path / "new", 12)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"score": "0.5"}


def test_a_write_that_fails_leaves_the_earlier_file_and_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save_weights(tmp_path, 1, TENSORS, {})
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_flush", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_weights(tmp_path, 1, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_missing_weights_are_said(tmp_path: Path):
    with pytest.raises(NoResultError, match="No weights of trial 7 were kept"):
        load_weights(tmp_path, 7)


def test_keep_only_removes_other_trials_weights_and_nothing_else(tmp_path: Path):
    for trial in (1, 2, 10000):
        save_weights(tmp_path, trial, TENSORS, {})
    (tmp_path / "trial-0001" / "log.txt").write_text("kept")
    (tmp_path / "trial-notes").mkdir()
    keep_only(tmp_path, {2})
    assert weights_path(tmp_path, 2).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial-0001", "trial-0002", "trial-notes"]
    assert [path.name for path in (tmp_path / "trial-0001").iterdir()] == ["log.txt"]
    keep_only(tmp_path / "none", {2})
