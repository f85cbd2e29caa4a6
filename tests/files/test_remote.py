"""Remote files: they are sent whole or not at all, and a URL that fails costs only what was not sent."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError, StoreError
from hpo.files import remote as remote_module
from hpo.files.remote import ADDRESS, NO_REMOTE, RemoteFiles, open_remote_files, remote_url_of
from tests.object_store import BUCKET, ObjectStore, names_at

NAME = "trial-0001/checkpoint-a.pt"


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, store: ObjectStore, tmp_path: Path) -> str:
    return store.fresh_url() if request.param == "s3" else f"file://{tmp_path}/far%20away"


@pytest.fixture
def here(tmp_path: Path, url: str) -> RemoteFiles:
    return RemoteFiles(url, "tiny", tmp_path / "near" / "tiny")


def written(remote: RemoteFiles, content: bytes, name: str = NAME) -> Path:
    path = remote.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def content_of(remote: RemoteFiles, name: str = NAME) -> bytes | None:
    return remote.read(remote.folder / name, lambda file: file.read(), None)


def test_what_is_sent_is_fetched_elsewhere(here: RemoteFiles, url: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 100_000  # Of S3 three parts.
    path = written(here, content)
    assert here.send(path)
    assert names_at(url) == [f"tiny/{NAME}"]
    there = RemoteFiles(url, "tiny", tmp_path / "elsewhere")
    to = tmp_path / "elsewhere" / "trial-0001" / "fetched"
    assert there.fetch(there.folder / NAME, to)
    assert to.read_bytes() == content
    assert [one.name for one in to.parent.iterdir()] == ["fetched"]
    assert there.read(there.folder / NAME, lambda file: file.read(3), b"") == b"\x00\x01\x02"
    assert there.shown(there.folder / NAME) == f"{url.partition('?')[0]}/tiny/{NAME}"


def test_what_is_not_there_is_told_from_what_fails(here: RemoteFiles, caplog: pytest.LogCaptureFixture) -> None:
    path = here.folder / NAME
    assert not here.fetch(path, path)
    assert content_of(here) is None
    assert here.entries(here.folder) == set()
    here.remove(path.parent, path.name.__eq__)
    here.delete()
    assert not caplog.messages
    assert not here.folder.exists()


def test_only_what_was_sent_as_it_is_leaves_the_folder(here: RemoteFiles) -> None:
    unsent = written(here, b"1")
    here.release(unsent)
    assert unsent.exists()
    assert here.send(unsent)
    here.release(unsent)
    assert not unsent.parent.exists()
    assert content_of(here) == b"1"


def test_what_cannot_leave_the_folder_stays_and_ends_no_trial(
    here: RemoteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = written(here, b"1")
    assert here.send(sent)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", read_only)
        here.release(sent)
    assert sent.exists()


def test_files_are_removed_by_name_and_a_folder_with_the_last(here: RemoteFiles, url: str) -> None:
    for name in (NAME, "trial-0001/weights.safetensors", "trial-0001/note.txt", "trial-0001/x.5f.part", "trial-0002/x"):
        assert here.send(written(here, b"1", name))
    folder = here.folder / "trial-0001"
    assert here.entries(here.folder) == {folder, here.folder / "trial-0002"}
    here.remove(folder, {"checkpoint-a.pt", "checkpoint-b.pt"}.__contains__)
    assert names_at(url) == ["tiny/trial-0001/note.txt", "tiny/trial-0001/weights.safetensors", "tiny/trial-0002/x"]
    here.remove(folder, {"note.txt", "weights.safetensors"}.__contains__)
    assert here.entries(here.folder) == {here.folder / "trial-0002"}
    other = RemoteFiles(url, "other", here.folder)
    assert other.send(written(other, b"1"))
    here.delete()
    assert names_at(url) == [f"other/{NAME}"]


def test_a_file_of_which_half_was_sent_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = RemoteFiles(f"file://{tmp_path}/far", "tiny", tmp_path / "near")
    path = written(here, b"old")
    assert here.send(path)

    def half(_: RemoteFiles, source: str, target: str, *_files: Any) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:1])
        raise OSError("the line is cut")

    written(here, b"new")
    with monkeypatch.context() as patched:
        patched.setattr(RemoteFiles, "_copy", half)
        assert not here.send(path)
    assert "the line is cut" in caplog.text
    assert content_of(RemoteFiles(f"file://{tmp_path}/far", "tiny", here.folder)) == b"old"
    assert names_at(f"file://{tmp_path}/far") == [f"tiny/{NAME}"]
    here.release(path)
    assert path.read_bytes() == b"new"


KILLED = """
import os, signal, sys
from hpo.files.remote import file_system
files, path = file_system(sys.argv[1])
stream = files.open_output_stream(f"{path}/tiny/trial-0001/checkpoint-a.pt")
stream.write(bytes(25_000_000))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_while_it_sends_leaves_what_was_there(store: ObjectStore, tmp_path: Path) -> None:
    """Two parts of the new object have arrived by then."""
    url = store.url("killed")
    here = RemoteFiles(url, "tiny", tmp_path)
    assert here.send(written(here, b"old"))
    assert subprocess.run([sys.executable, "-c", KILLED, url], check=False).returncode == -9
    assert content_of(here) == b"old"


def test_a_file_that_is_sent_to_s3_is_not_taken_into_memory(store: ObjectStore) -> None:
    files, _ = remote_module.file_system(store.url("x"))
    assert files.__reduce__()[1][0]["background_writes"] is False


def test_a_server_that_goes_is_logged_once_and_left_alone_and_found_again(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = RemoteFiles(store.url("outage"), "tiny", tmp_path)
    path = written(here, b"1")
    assert here.send(path)
    store.stop()
    try:
        assert not here.send(path)
        asked: list[int] = []
        assert here.read(path, lambda file: asked.append(1), None) is None
        assert not here.fetch(path, path)
        monkeypatch.setattr(remote_module, "SECONDS_LEFT_ALONE", 0.0)
        here._paused_until = 0.0
        assert not here.send(path)
    finally:
        store.start()
    [message] = caplog.messages
    assert message == (
        f"Files could not be exchanged with s3://{BUCKET}/outage/tiny: AWS Error NETWORK_CONNECTION during "
        "CreateMultipartUpload operation: curlCode: 7, Could not connect to server. Training continues with the files "
        f"in {tmp_path}, and the exchange is tried again."
    )
    here.release(path)
    assert path.exists()
    assert here.send(path)
    store.files.delete_dir_contents(BUCKET)
    assert not here._has_warned, "the next outage is told again"


def study_at(study: StudyConfig, files: str | Path | None) -> StudyConfig:
    return study.model_copy(update={"store": study.store.model_copy(update={"files": files})})


def test_a_folder_has_no_remote_copy_and_pyarrow_is_not_imported_for_it(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_module, "import_module", lambda name: pytest.fail(f"{name} is imported"))
    assert open_remote_files(study_at(study, None), tmp_path) is NO_REMOTE
    assert open_remote_files(study_at(study, tmp_path), tmp_path) is NO_REMOTE
    NO_REMOTE.write_address()
    assert not list(tmp_path.iterdir())


def test_a_usable_url_is_left_as_it_was(study: StudyConfig, url: str, tmp_path: Path) -> None:
    opened = open_remote_files(study_at(study, url), tmp_path / "near")
    assert names_at(url) == []
    assert not (tmp_path / "near").exists()
    assert remote_url_of(tmp_path / "near") is None
    opened.write_address()
    assert remote_url_of(tmp_path / "near") == url
    assert opened.place == f"{url.partition('?')[0]}/tiny"
    (tmp_path / "near" / ADDRESS).write_text(json.dumps(["torn"])[:-1])
    assert remote_url_of(tmp_path / "near") is None


@pytest.mark.parametrize(
    "secret",
    [
        "s3://AKIA:hidden@bucket/x",
        "s3://bucket/x?secret_key=hidden",
        "abfs://box@account.dfs.core.windows.net/x?sig=hidden",
        "gs://bucket/x?access_token=hidden",
        "nonsense://u:hidden@x/y",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_shown(secret: str, study: StudyConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds a password or a key") as refused:
        open_remote_files(study_at(study, secret), tmp_path)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("bad", "error", "sentence"),
    [
        ("S3x://b/x", ConfigurationError, r"cannot be at S3x://\. Did you mean 's3'\? Known: abfs, abfss, file, gs"),
        ("s3:///x", ConfigurationError, "cannot be s3:///x: Missing bucket name in S3 URI"),
        ("s3://[x/y", ConfigurationError, "is no URL: Invalid IPv6 URL"),
        ("file://host/x", ConfigurationError, "Unsupported hostname"),
        ("file:///proc/hpo", StoreError, "cannot be written to file:///proc/hpo/tiny: .*name another place by"),
        (
            "s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:9",
            StoreError,
            "Could not connect to server; see that",
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_in_a_sentence(
    bad: str, error: type[Exception], sentence: str, study: StudyConfig, tmp_path: Path, store: ObjectStore
) -> None:
    with pytest.raises(error, match=sentence) as refused:
        open_remote_files(study_at(study, bad), tmp_path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")


def test_a_bucket_that_is_not_there_is_refused(study: StudyConfig, tmp_path: Path, store: ObjectStore) -> None:
    with pytest.raises(
        StoreError, match=r"nobucket/x/tiny: .*The specified bucket does not exist; see that the bucket"
    ):
        open_remote_files(study_at(study, f"s3://nobucket/x?{store.options}"), tmp_path)


def test_credentials_that_the_store_does_not_know_are_refused(
    study: StudyConfig, tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    with pytest.raises(StoreError, match="by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile") as refused:
        open_remote_files(study_at(study, store.url("x")), tmp_path)
    assert "testing" not in str(refused.value)


def test_without_pyarrow_the_extra_is_named(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(remote_module, "import_module", missing)
    with pytest.raises(ConfigurationError, match=r"needs pyarrow: pip install 'llm-hpo\[remote\]'"):
        open_remote_files(study_at(study, "s3://bucket/x"), tmp_path)


def test_a_call_to_a_gs_url_that_is_away_ends_within_seconds_unless_the_url_says_otherwise() -> None:
    """By itself it is tried again for a quarter of an hour."""
    assert remote_module._not_for_long("gs://b/x") == "gs://b/x?retry_limit_seconds=10"
    assert remote_module._not_for_long("gs://b/x?scheme=http") == "gs://b/x?scheme=http&retry_limit_seconds=10"
    for untouched in ("gs://b/x?retry_limit_seconds=60", "s3://b/x"):
        assert remote_module._not_for_long(untouched) == untouched
