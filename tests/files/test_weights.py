import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

from hpo.errors import NoResultError
from hpo.files import disk
from hpo.files.checkpoints import TrialFiles, keep_only, trial_folder
from hpo.files.weights import (
    Weights,
    header_of,
    load_weights,
    save_weights,
    weights_are_of,
    weights_path,
)
from tests.models import tiny_report

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, 2).T}
REPORT = tiny_report(attempt=2, score=0.1 + 0.2)


def at(root: Path, trial: int = 1, **values: Any) -> TrialFiles:
    return TrialFiles(root=root, trial=trial, **values)


def test_what_is_saved_is_read_back(tmp_path: Path):
    path = save_weights(at(tmp_path / "new", 12), TENSORS, {"score": "0.5"})
    assert path == tmp_path / "new" / "trial-0012" / "weights.safetensors"
    loaded = load_weights(tmp_path / "new", 12)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"score": "0.5"}


def test_a_write_that_fails_leaves_the_earlier_file_and_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save_weights(at(tmp_path), TENSORS, {})
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "flush", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_weights(at(tmp_path), {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_missing_weights_are_said(tmp_path: Path):
    with pytest.raises(NoResultError, match="No weights of trial 7 were kept"):
        load_weights(tmp_path, 7)


def test_weights_are_those_of_one_evaluation(tmp_path: Path):
    assert not weights_are_of(tmp_path, REPORT)
    save_weights(at(tmp_path), TENSORS, header_of(REPORT))
    assert weights_are_of(tmp_path, REPORT)
    barely_other = replace(REPORT.validation, values={"macro_f1": 0.3})
    for other in (
        replace(REPORT, trial=2),
        replace(REPORT, attempt=1),
        replace(REPORT, rung=1000),
        replace(REPORT, validation=barely_other),
    ):
        assert not weights_are_of(tmp_path, other)


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"torn"])
def test_a_file_that_is_no_whole_file_of_weights_is_of_no_evaluation(content: bytes, tmp_path: Path):
    path = save_weights(at(tmp_path), TENSORS, header_of(REPORT))
    path.write_bytes(path.read_bytes()[:-1] if content == b"torn" else content)
    assert not weights_are_of(tmp_path, REPORT)


def test_weights_without_a_header_are_of_no_evaluation(tmp_path: Path):
    weights_path(tmp_path, 1).parent.mkdir()
    safetensors.torch.save_file({"a": torch.ones(1)}, weights_path(tmp_path, 1))
    assert not weights_are_of(tmp_path, REPORT)


def test_a_trial_keeps_the_weights_of_its_best_report_only(tmp_path: Path):
    kept = Weights(at(tmp_path))
    kept.keep(REPORT, TENSORS)
    kept.keep_only_of(REPORT)
    assert weights_are_of(tmp_path, REPORT)
    kept.keep_only_of(replace(REPORT, rung=1000))
    assert not weights_path(tmp_path, 1).exists()
    kept.keep(REPORT, TENSORS)
    kept.keep_only_of(None)
    assert not weights_path(tmp_path, 1).exists()


def test_weights_that_the_disk_has_no_room_for_are_logged_once_and_earlier_ones_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """What is there would else be taken for the new best's."""
    kept = Weights(at(tmp_path))
    kept.keep(REPORT, TENSORS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for rung in (750, 1000):
            kept.keep(replace(REPORT, rung=rung), {"a": torch.ones(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    [message] = caplog.messages
    assert message.startswith(f"No weights of trial 1 were kept in {tmp_path}: ")
    assert "File too large" in message
    assert not list(trial_folder(tmp_path, 1).iterdir())


def test_no_weights_are_kept_past_the_budget(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    kept = Weights(at(tmp_path, disk_gib=0.002))
    kept.keep(REPORT, {"a": torch.ones(2 * 10**5)})
    assert weights_are_of(tmp_path, REPORT)
    other = replace(REPORT, trial=2)
    Weights(at(tmp_path, 2, disk_gib=0.002)).keep(other, {"a": torch.ones(2 * 10**5)})
    assert not weights_path(tmp_path, 2).exists()
    assert weights_are_of(tmp_path, REPORT)
    assert caplog.messages == [
        f"No weights of trial 2 were kept in {tmp_path}: 0.00 GiB are needed, and of store.disk_gib, 0.002 GiB, "
        f"0.00 GiB are left in {tmp_path}."
    ]


def test_memory_that_runs_out_costs_the_weights_and_not_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("hpo.files.disk.save_file", fail)
    Weights(at(tmp_path)).keep(REPORT, TENSORS)
    assert caplog.messages == [f"No weights of trial 1 were kept in {tmp_path}: memory ran out."]


CHECKPOINT = "checkpoint-a.pt"
HALF_WRITTEN = ("checkpoint-b.pt.17.part", "weights.safetensors.17.part", ".tmp8VNenJ")


def test_keep_only_removes_what_is_over_and_leaves_alone_what_is_not(tmp_path: Path):
    for trial in (1, 2, 3, 10000):
        save_weights(at(tmp_path, trial), TENSORS, {})
        for name in (CHECKPOINT, *HALF_WRITTEN):
            (trial_folder(tmp_path, trial) / name).write_bytes(b"")
    (trial_folder(tmp_path, 1) / "log.txt").write_text("kept")
    (tmp_path / "trial-notes").mkdir()
    keep_only(tmp_path, {2}, {3})
    left = {path.name: sorted(file.name for file in path.iterdir()) for path in tmp_path.iterdir()}
    assert left == {
        "trial-0001": ["log.txt"],
        "trial-0002": sorted(["weights.safetensors", CHECKPOINT, *HALF_WRITTEN]),
        "trial-0003": ["weights.safetensors"],
        "trial-notes": [],
    }
    keep_only(tmp_path / "none", {2}, set())


def test_what_cannot_be_removed_is_logged_and_neither_ends_the_search_nor_keeps_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A folder stands where a file is to be removed."""
    stuck = trial_folder(tmp_path, 2) / CHECKPOINT
    stuck.mkdir(parents=True)
    for trial in (1, 3):
        save_weights(at(tmp_path, trial), TENSORS, {})
    keep_only(tmp_path, set(), set())
    assert [path.name for path in tmp_path.iterdir()] == ["trial-0002"]
    [message] = caplog.messages
    assert message.startswith(f"{stuck} could not be removed: ")


def test_the_room_that_is_used_can_be_told_while_another_worker_removes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_weights(at(tmp_path), TENSORS, {})
    going = trial_folder(tmp_path, 2)
    going.mkdir()
    scandir = os.scandir

    def removing(path: Path | str):
        if Path(path) == going and going.exists():
            going.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", removing)
    save_weights(at(tmp_path, 3, disk_gib=1), TENSORS, {})
    assert not going.exists()


def test_one_that_is_taken_for_dead_and_still_writes_spoils_no_weights_of_the_next_attempt(tmp_path: Path) -> None:
    first, second = Weights(at(tmp_path)), Weights(at(tmp_path, attempt=2))
    first.keep(REPORT, TENSORS)
    second.keep_only_of(REPORT)
    assert weights_are_of(tmp_path, REPORT)
    better = replace(REPORT, attempt=2, rung=500)
    second.keep(better, {"a": torch.zeros(3)})
    assert [path.name for path in trial_folder(tmp_path, 1).iterdir()] == ["weights-2.safetensors"]
    first.keep(replace(REPORT, rung=750), TENSORS)
    assert weights_are_of(tmp_path, better)
    assert torch.equal(load_weights(tmp_path, 1)["a"], torch.zeros(3))
    first.remove()
    assert weights_are_of(tmp_path, better)
    keep_only(tmp_path, set(), set())
    assert not trial_folder(tmp_path, 1).exists()


def test_weights_of_a_later_attempt_under_the_name_of_an_earlier_version_are_known(tmp_path: Path) -> None:
    later = replace(REPORT, attempt=3)
    save_weights(at(tmp_path), TENSORS, header_of(later))
    assert weights_are_of(tmp_path, later)
    Weights(at(tmp_path, attempt=4)).keep_only_of(later)
    assert weights_are_of(tmp_path, later)
    assert set(load_weights(tmp_path, 1)) == set(TENSORS)
