"""The output folder: whole or not there, and what killed processes left beside it is removed."""

import errno
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from hpo.errors import ConfigurationError
from hpo.export.output_folder import LOCK, atomic_folder


def refuse() -> None:
    raise AssertionError("it was to be refused before training")


def die_while_writing(output: Path) -> None:
    """Die as by `kill -9`, with the weights half written."""
    with atomic_folder(output) as part:
        (part / "model").mkdir()
        (part / "model" / "model.safetensors").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def killed_while_writing(output: Path) -> Path:
    """Return the folder that a killed process left."""
    process = multiprocessing.get_context("spawn").Process(target=die_while_writing, args=(output,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    [left] = output.parent.glob(".*.part")
    return left


def fill(output: Path) -> None:
    with atomic_folder(output) as part:
        (part / "model").mkdir()
        (part / "model" / "model.safetensors").write_bytes(b"weights")


def test_the_next_process_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    output = tmp_path / "model [1]"
    assert (killed_while_writing(output) / "model" / "model.safetensors").is_file()
    assert not output.exists()
    fill(output)
    assert os.listdir(tmp_path) == [output.name]


def test_a_disk_that_is_full_only_when_it_is_flushed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("model.safetensors"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    output = tmp_path / "model"
    with pytest.raises(ConfigurationError, match="No space left"):
        fill(output)
    assert os.listdir(tmp_path) == []


def test_folders_in_use_those_of_other_machines_and_of_other_programs_stay(tmp_path: Path) -> None:
    output, foreign = tmp_path / "model", tmp_path / ".model-mine.part"
    elsewhere = killed_while_writing(output)
    (elsewhere / LOCK).write_text("another machine")
    foreign.mkdir()
    with atomic_folder(output) as first:
        fill(tmp_path / "model")
        assert first.is_dir()
        shutil.rmtree(output)
        (first / "model").mkdir()
    assert sorted(tmp_path.iterdir()) == sorted([output, foreign, elsewhere])


def test_a_folder_that_no_other_can_take_the_place_of_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that a disk is mounted on."""

    def busy(*_: object) -> Path:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    (tmp_path / "model").mkdir()
    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(ConfigurationError, match="Device or resource busy"), atomic_folder(tmp_path / "model"):
        refuse()
    assert os.listdir(tmp_path) == ["model"]


def test_the_current_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_folder(Path()) as part:
        (part / "model").mkdir()
        (part / "model" / "config.json").touch()
    assert os.listdir(tmp_path / "here") == ["config.json"]
