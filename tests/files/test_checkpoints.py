"""Checkpoint files: written in turns, found out when damaged, without a copy of what is in them, within the budget."""

import resource
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hpo.files import checkpoints, disk
from hpo.files.checkpoints import (
    DIGEST_BYTES,
    SEEN_BYTES,
    Checkpoints,
    TrialFiles,
    checkpoint_names,
    write_checkpoint,
)

FILES = checkpoint_names(1)


def checkpoints_in(folder: Path, identity: str = "this", **values: Any) -> Checkpoints:
    return Checkpoints(TrialFiles(root=folder.parent, trial=0, **values), identity)


def state_at(seen: int, numbers: int = 4) -> dict[str, object]:
    return {"seen": seen, "tensor": torch.full((numbers,), float(seen))}


def furthest(folder: Path, identity: str = "this") -> int | None:
    state = checkpoints_in(folder, identity).load()
    assert state is None or torch.equal(state["tensor"], state_at(state["seen"])["tensor"])
    return None if state is None else state["seen"]


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    """The second of two checkpoints, of 1 and 2 examples seen, in `tmp_path / "trial-0000"`."""
    kept = checkpoints_in(tmp_path / "trial-0000")
    for seen in (1, 2):
        kept.save(state_at(seen), 0.0)
    return tmp_path / "trial-0000" / FILES[1]


def test_the_furthest_is_resumed_from_whenever_it_was_written(newest: Path) -> None:
    assert furthest(newest.parent) == 2
    content = newest.read_bytes()
    newest.write_bytes((newest.parent / FILES[0]).read_bytes())
    (newest.parent / FILES[0]).write_bytes(content)
    assert furthest(newest.parent) == 2


def test_one_of_something_else_is_not_resumed_from(newest: Path) -> None:
    assert furthest(newest.parent, "that") is None
    that = checkpoints_in(newest.parent, "that")
    that.save(state_at(1), 0.0)
    assert furthest(newest.parent, "that") == 1
    assert furthest(newest.parent, "this") == 2


@pytest.mark.parametrize("missing", [1, DIGEST_BYTES - 1, DIGEST_BYTES, DIGEST_BYTES + SEEN_BYTES, 1000, 10**9])
def test_a_torn_one_is_found_out_and_the_one_before_used(missing: int, newest: Path) -> None:
    newest.write_bytes(newest.read_bytes()[:-missing])
    assert furthest(newest.parent) == 1


def test_one_with_more_behind_its_end_is_found_out_too(newest: Path) -> None:
    newest.write_bytes(newest.read_bytes() + bytes(1))
    assert furthest(newest.parent) == 1


def test_a_flipped_bit_is_found_out_wherever_it_is(newest: Path) -> None:
    content = newest.read_bytes()
    places = {*range(0, len(content), 37), *range(len(content) - DIGEST_BYTES - SEEN_BYTES, len(content))}
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        newest.write_bytes(altered)
        assert furthest(newest.parent) == 1, place


def test_with_both_damaged_there_is_none_and_that_is_logged(newest: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in FILES:
        (newest.parent / name).write_bytes(b"")
    assert furthest(newest.parent) is None
    assert f"The checkpoint {newest} is damaged, and is not used." in caplog.text


def test_one_that_cannot_be_read_is_logged(newest: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest.unlink()
    newest.mkdir()
    assert furthest(newest.parent) == 1
    assert furthest(newest.parent, "that") is None
    assert f"The checkpoint {newest} cannot be read: Is a directory." in caplog.text


def test_one_that_this_torch_does_not_read_is_logged(newest: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_checkpoint(newest, {"seen": 3, "stranger": SimpleNamespace()})
    assert furthest(newest.parent) == 1
    assert "is whole, but this version of torch does not read it: Weights only load failed" in caplog.text


def test_the_older_of_two_is_written_over_by_the_next_process_too(tmp_path: Path) -> None:
    folder = tmp_path / "trial-0000"
    kept = checkpoints_in(folder)
    for seen in range(1, 9):
        if seen == 5:
            kept = checkpoints_in(folder)
            assert kept.load()["seen"] == 4
        kept.save(state_at(seen), 0.0)
        found = {torch.load(path)["seen"] for path in folder.iterdir()}
        assert found == ({seen, seen - 1} if seen > 1 else {1})


def test_one_that_is_taken_for_dead_and_still_writes_spoils_nothing_of_the_next_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "trial-0000"
    first = checkpoints_in(folder)
    for seen in (1, 2):
        first.save(state_at(seen), 0.0)
    second = checkpoints_in(folder, attempt=2)
    assert second.load()["seen"] == 2
    second.save(state_at(3), 0.0)
    assert {torch.load(path)["seen"] for path in folder.iterdir()} == {2, 3}
    for seen in (11, 12, 13):
        first.save(state_at(seen), 0.0)
    second.save(state_at(4), 0.0)
    first.save(state_at(14), 0.0)
    third = checkpoints_in(folder, attempt=3)
    assert third.load()["seen"] == 4
    third.save(state_at(5), 0.0)
    assert {torch.load(path)["seen"] for path in folder.iterdir()} == {4, 5}
    checkpoints_in(folder).remove()
    assert not folder.exists()


def test_an_attempt_reads_none_of_a_later_one(tmp_path: Path) -> None:
    folder = tmp_path / "trial-0000"
    checkpoints_in(folder, attempt=3).save(state_at(9), 0.0)
    assert checkpoints_in(folder, attempt=2).load() is None
    checkpoints_in(folder).remove()
    assert not folder.exists()


def test_no_copy_is_made_of_what_is_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensor's own memory goes to the file, and the file's pages are the tensor that is read."""
    state = state_at(1, 4 * 2**20)
    came_from: list[int] = []
    write = checkpoints._HashingFile.write

    def noting(self: checkpoints._HashingFile, content: memoryview | bytes) -> int:
        came_from.append(np.frombuffer(content, dtype=np.uint8).ctypes.data)
        return write(self, content)

    monkeypatch.setattr(checkpoints._HashingFile, "write", noting)
    kept = checkpoints_in(tmp_path / "trial-0000")
    tracemalloc.start()
    kept.save(state, 0.0)
    read = kept.load()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert state["tensor"].data_ptr() in came_from
    assert peak < state["tensor"].nbytes / 4
    assert torch.equal(read["tensor"], state["tensor"])
    if Path("/proc/self/maps").exists():
        assert str(tmp_path) in Path("/proc/self/maps").read_text()


def test_what_is_mapped_stays_as_it_was_when_the_file_is_replaced(newest: Path) -> None:
    kept = checkpoints_in(newest.parent)
    mapped = kept.load()
    for seen in (3, 4, 5):
        kept.save(state_at(seen), 0.0)
    assert torch.equal(mapped["tensor"], state_at(2)["tensor"])


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse what would make a file larger, as a full disk does: in the middle of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_system_cuts_short_is_logged_once_and_leaves_the_last_good_one(
    newest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = checkpoints_in(newest.parent)
    kept.load()
    with files_of_at_most(100_000):
        for _ in range(2):
            kept.save(state_at(3, 10**6), 0.0)
    assert caplog.messages == [f"No checkpoint was written to {newest.parent}: File too large."]
    assert [path.name for path in newest.parent.iterdir()] == [newest.name]
    assert furthest(newest.parent) == 2
    kept.save(state_at(4), 0.0)
    assert furthest(newest.parent) == 4


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_memory_that_runs_out_is_logged_and_leaves_the_last_good_one(
    error: Exception, newest: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise error

    kept = checkpoints_in(newest.parent)
    kept.load()
    monkeypatch.setattr(torch, "save", fail)
    kept.save(state_at(3), 0.0)
    assert caplog.messages == [f"No checkpoint was written to {newest.parent}: memory ran out."]
    assert furthest(newest.parent) == 2


def test_an_error_of_another_kind_is_not_taken_for_a_full_disk(newest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        checkpoints_in(newest.parent).save(state_at(3), 0.0)


def test_nothing_is_written_past_the_budget(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of 0.01 GiB, about 10.7 MB, another trial's weights take 5 MB: one checkpoint of 4 MB fits, not two."""
    (tmp_path / "trial-0007").mkdir()
    (tmp_path / "trial-0007" / "weights.safetensors").write_bytes(bytes(5 * 10**6))
    folder = tmp_path / "trial-0000"
    kept = checkpoints_in(folder, disk_gib=0.01)
    for seen in (1, 2, 3):
        kept.save(state_at(seen, 10**6), 0.0)
    assert caplog.messages == [
        f"No checkpoint was written to {folder}: 0.00 GiB are needed, and of store.disk_gib, 0.01 GiB, 0.00 GiB are "
        f"left in {tmp_path}."
    ]
    assert checkpoints_in(folder).load()["seen"] == 1
    shutil.rmtree(tmp_path / "trial-0007")
    for seen in (4, 5, 6):
        kept.save(state_at(seen, 10**6), 0.0)
    assert {torch.load(path)["seen"] for path in folder.iterdir()} == {5, 6}


def test_a_disk_is_not_filled_to_its_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = disk.RESERVE_BYTES + disk.MOST_BESIDE_TENSORS + 100
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    kept = checkpoints_in(tmp_path / "trial-0000")
    kept.save(state_at(1, 25), 0.0)
    assert furthest_of(kept) == 1
    kept.save(state_at(2, 26), 0.0)
    assert furthest_of(kept) == 1
    assert f"0.00 GiB are needed, and the disk of {tmp_path} has 0.25 GiB free, of which 0.25 GiB" in caplog.text


def furthest_of(kept: Checkpoints) -> int:
    state = kept.load()
    assert state is not None
    return int(state["seen"])


def test_after_one_that_could_not_be_written_it_is_tried_again_a_minute_later(
    newest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = checkpoints_in(newest.parent)
    with files_of_at_most(10):
        kept.save(state_at(3), 50.0)
    assert not kept.is_due(109.0, 0)
    assert kept.is_due(110.0, 0)


def test_they_are_as_far_apart_as_they_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A write of 3 seconds may come once in a hundred seconds of training; before the first, the size says."""
    kept = checkpoints_in(tmp_path / "trial-0000")
    a_second_of_writing = int(checkpoints.ASSUMED_BYTES_PER_SECOND)
    assert not kept.is_due(10.0, a_second_of_writing)
    assert not kept.is_due(43.0, a_second_of_writing)
    assert kept.is_due(43.4, a_second_of_writing)
    clock = iter((0.0, 3.0))
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: next(clock))
    kept.save(state_at(1), 50.0)
    assert not kept.is_due(149.9, a_second_of_writing)
    assert kept.is_due(150.1, a_second_of_writing)


def test_what_killed_processes_left_goes_with_them(newest: Path) -> None:
    (newest.parent / "checkpoint-a.pt.17.part").write_bytes(b"half")
    assert furthest(newest.parent) == 2
    assert {path.name for path in newest.parent.iterdir()} == set(FILES)
    (newest.parent / "checkpoint-a.pt.17.part").write_bytes(b"half")
    checkpoints_in(newest.parent).remove()
    assert not newest.parent.exists()
    checkpoints_in(newest.parent).remove()
