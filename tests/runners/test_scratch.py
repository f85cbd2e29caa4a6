"""Scratch folder on a machine of a cluster: private, shared by the workers of a search, and left behind by none."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hpo.errors import StoreError
from hpo.runners.ray.setup import set_up_ray

pytest.importorskip("ray", reason="Ray is not installed: pip install 'llm-hpo[ray]'")
set_up_ray()

from hpo.runners.ray.scratch import new_name, remove_unused, scratch  # noqa: E402


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_under_a_name_of_its_own_and_for_its_user_alone(temporary: Path) -> None:
    one, other = new_name(), new_name()
    assert one != other
    with scratch(one) as folder, scratch(other):
        assert folder == temporary / one
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(list(temporary.iterdir())) == 2
    assert list(temporary.iterdir()) == []


def test_the_last_lane_of_a_machine_removes_it() -> None:
    name = new_name()
    with scratch(name) as folder:
        with scratch(name) as same:
            assert same == folder
            (same / "checkpoint").touch()
        assert (folder / "checkpoint").exists()
    assert not folder.exists()


def of_all(folder: Path, _other: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)


def a_link(folder: Path, other: Path) -> None:
    other.mkdir(mode=0o700)
    folder.symlink_to(other)


def a_file(folder: Path, _other: Path) -> None:
    folder.touch(mode=0o700)


@pytest.mark.parametrize("made", [of_all, a_link, a_file])
def test_one_that_somebody_else_has_made_is_refused_and_left_alone(temporary: Path, made) -> None:
    name = new_name()
    made(temporary / name, temporary / "other")
    with pytest.raises(StoreError, match=f"The folder .*{name} for files in use"), scratch(name):
        raise AssertionError
    remove_unused()
    assert (temporary / name).exists()


def test_one_of_another_user_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = new_name()
    (temporary / name).mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    with pytest.raises(StoreError, match="is open to other users; remove it"), scratch(name):
        raise AssertionError


def test_what_a_killed_lane_leaves_is_removed_by_the_next_one_and_what_is_used_is_not(temporary: Path) -> None:
    left, used = temporary / new_name(), new_name()
    left.mkdir(mode=0o700)
    locked = (
        "import fcntl, os, sys, time; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_SH); print(1); time.sleep(60)"
    )
    command = [sys.executable, "-u", "-c", locked, str(left)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        with scratch(used) as folder:
            assert left.exists()
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            with scratch(new_name()):
                assert not left.exists()
                assert folder.exists()
