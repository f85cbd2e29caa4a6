"""Remote files: the copy of a study's local folder at a URL, to which every file is uploaded when it is complete.

Tested with S3's protocol on moto's server, and with `file://`. `gs://`, `abfs://` and `hdfs://` were not tested;
pyarrow handles all of them alike. An object store writes a file completely or not at all; elsewhere it is written under
another name, and renamed. While trials train, a failing URL delays only uploads: the failure is logged once, the files
stay in the folder, and the URL is not used for a minute, because each call takes seconds.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Set
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError, StoreError, nearest
from hpo.files.disk import refuse_full, replacing, why_not_written

ADDRESS = "files-at.json"
"""File in a study's local folder with the URL of its remote files, so that they can be deleted with it."""
SECONDS_LEFT_ALONE = 60.0
"""Seconds for which a URL that failed is not used."""
OBJECT_STORES = ("s3", "gcs", "abfs")
"""Kinds of file systems, by pyarrow's names, that write a file completely or not at all."""
SCHEMES = ("s3", "gs", "abfs", "abfss", "hdfs", "file")
SECRET = re.compile("key|secret|token|password|sig", re.IGNORECASE)
"""Part of the name of a secret option of a URL."""
GS_RETRIES = "retry_limit_seconds=10"
"""Otherwise, a call to an unreachable `gs://` is retried for a quarter of an hour."""
DETAILS = re.compile(r" \(Request ID.*|; Details: .*|\. Detail: .*| error_info=.*")

T = TypeVar("T")

logger = logging.getLogger(__name__)


class RemoteFiles:
    """The remote copy of a study's folder; without a URL, every call does nothing."""

    def __init__(self, url: str | None = None, study: str = "", folder: Path = Path()) -> None:
        """Find the file system; nothing is read or written, except that S3 may be asked for a bucket's region.

        Args:
            url: of the files of all studies; None for no remote copy.
            study: name of the study.
            folder: the study's local folder.

        Raises:
            ConfigurationError: the file system does not exist, the URL contains a secret, or pyarrow is missing.
            StoreError: it cannot be reached.
        """
        self.folder, self._url = folder, url
        self.place = "" if url is None else f"{url.partition('?')[0].rstrip('/')}/{study}"
        """Place of the copy, for messages: the URL without its options."""
        self._sent: set[Path] = set()
        self._paused_until = 0.0
        self._has_warned = False
        if url is not None:
            self._files, root = file_system(url)
            self._arrow = pyarrow()
            self._root = f"{root.rstrip('/')}/{study}"
            self._local = self._arrow.fs.LocalFileSystem()
            self._failures = (OSError, self._arrow.ArrowException)

    def refuse_unusable(self) -> None:
        """Write, read and remove a few bytes.

        Raises:
            StoreError: one of the three cannot be done.
        """
        path = f"{self._root}/.hpo-{uuid.uuid4().hex}"
        try:
            self._create_folder(self._root)
            with self._files.open_output_stream(path) as file:
                file.write(b"hpo")
            with self._files.open_input_file(path) as file:
                file.read()
            self._files.delete_file(path)
        except self._failures as error:
            raise StoreError(
                f"Checkpoints and weights cannot be written to {self.place}: {why_failed(error)}; see "
                "that the bucket or folder is there and that this machine may read, write and delete in it (of s3, by "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile), or name another place by store.files."
            ) from None

    def send(self, path: Path) -> bool:
        """Replace the remote copy of a file, completely or not at all; return true if nothing is left to do.

        If it cannot be uploaded, that is logged, and training continues.
        """
        self._sent.discard(path)
        return self._unless_it_fails(partial(self._send, path), self._url is None)

    def release(self, path: Path) -> None:
        """Remove a file from the folder if this process uploaded it unchanged, and the folder when it is empty."""
        if path in self._sent:
            # A file that cannot be removed costs only disk space, and must not end a trial.
            with suppress(OSError):
                path.unlink(missing_ok=True)
                path.parent.rmdir()

    def fetch(self, path: Path, to: Path) -> bool:
        """Download the remote copy of `path` to the local file `to`, completely or not at all; return true if done."""
        return self._unless_it_fails(partial(self._fetch, path, to), False)

    def read(self, path: Path, read: Callable[[IO[bytes]], T], default: T) -> T:
        """Return the result of `read` for the remote copy of a path, open for reading; `default` if there is none."""

        def opened() -> T:
            with self._files.open_input_file(self._remote(path)) as file:
                return read(file)

        return self._unless_it_fails(opened, default)

    def entries(self, folder: Path) -> Set[Path]:
        """Return the files and folders, directly below this one, that have a remote copy, by one listing."""
        return self._unless_it_fails(lambda: {folder / one.base_name for one in self._listed(folder)}, set())

    def remove(self, folder: Path, is_removed: Callable[[str], object]) -> None:
        """Remove remote files of a folder by name, also partial uploads, and the folder if empty; by one listing."""

        def removed() -> None:
            found = self._listed(folder)
            chosen = [file for file in found if is_removed(file.base_name) or file.base_name.endswith(".part")]
            if found and len(chosen) == len(found):
                # Not file by file, which would leave an empty object for the folder in an object store.
                self._files.delete_dir(self._remote(folder))
                return
            for file in chosen:
                self._files.delete_file(file.path)

        self._unless_it_fails(removed, None)

    def delete(self) -> None:
        """Delete all files of the study at the URL.

        Raises:
            StoreError: they cannot be deleted.
        """
        try:
            self._files.delete_dir(self._root)
        except FileNotFoundError:
            return
        except self._failures as error:
            raise StoreError(f"{self.place} could not be deleted: {why_failed(error)}; delete it.") from None

    def write_address(self) -> None:
        """Write the URL of the remote copy into the folder, for `remote_url_of`.

        Raises:
            StoreError: nothing can be written to it.
        """
        if self._url is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ADDRESS).write_text(json.dumps(self._url), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"Nothing can be written to {self.folder}: {error.strerror}; make room there.") from None

    def shown(self, path: Path) -> str:
        """Return the URL of a file's remote copy, for messages."""
        return f"{self.place}/{path.relative_to(self.folder).as_posix()}"

    def _unless_it_fails(self, call: Callable[[], T], default: T) -> T:
        """Return the result of `call`; `default` without a URL, or if the URL fails or has failed recently."""
        if self._url is None or time.monotonic() < self._paused_until:
            return default
        try:
            result = call()
        except FileNotFoundError:
            result = default
        except self._failures as error:
            self._paused_until = time.monotonic() + SECONDS_LEFT_ALONE
            if not self._has_warned:
                message = (
                    f"Files could not be exchanged with {self.place}: {why_failed(error)}. Training continues with the "
                    f"files in {self.folder}, and the exchange is tried again."
                )
                logger.warning("%s", message)
            self._has_warned = True
            return default
        self._has_warned = False
        return result

    def _send(self, path: Path) -> bool:
        remote = self._remote(path)
        if self._files.type_name in OBJECT_STORES:
            self._copy(str(path), remote, self._local, self._files)
        else:
            part = f"{remote}.{uuid.uuid4().hex}.part"
            self._create_folder(remote.rpartition("/")[0])
            try:
                self._copy(str(path), part, self._local, self._files)
                self._files.move(part, remote)
            except BaseException:
                with suppress(*self._failures):
                    self._files.delete_file(part)
                raise
        self._sent.add(path)
        return True

    def _fetch(self, path: Path, to: Path) -> bool:
        remote = self._remote(path)
        size = self._files.get_file_info(remote).size
        if size is None:
            return False
        to.parent.mkdir(parents=True, exist_ok=True)
        refuse_full(to.parent, size, None)
        with replacing(to) as part:
            self._copy(remote, str(part), self._files, self._local)
        return True

    def _create_folder(self, folder: str) -> None:
        """Create a folder if the file system has folders; an object store has only names."""
        if self._files.type_name not in OBJECT_STORES:
            self._files.create_dir(folder, recursive=True)

    def _copy(self, source: str, target: str, source_files: Any, target_files: Any) -> None:
        self._arrow.fs.copy_files(source, target, source_filesystem=source_files, destination_filesystem=target_files)

    def _listed(self, folder: Path) -> Any:
        return self._files.get_file_info(self._arrow.fs.FileSelector(self._remote(folder), allow_not_found=True))

    def _remote(self, path: Path) -> str:
        below = path.relative_to(self.folder).as_posix()
        return self._root if below == "." else f"{self._root}/{below}"


NO_REMOTE = RemoteFiles()


def open_remote_files(config: StudyConfig, folder: Path) -> RemoteFiles:
    """Return the remote copy of a study's local folder, after a test of it; no copy if `store.files` is no URL.

    Raises:
        ConfigurationError: the file system does not exist, the URL contains a secret, or pyarrow is missing.
        StoreError: it cannot be reached, read or written.
    """
    if not isinstance(config.store.files, str):
        return NO_REMOTE
    remote = RemoteFiles(config.store.files, config.study, folder)
    remote.refuse_unusable()
    return remote


def remote_url_of(folder: Path) -> str | None:
    """Return the URL of all studies' files under which the study of this local folder has its own; None without one."""
    try:
        url = json.loads((folder / ADDRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return url if isinstance(url, str) else None


def pyarrow() -> Any:
    """Return pyarrow with its file systems, whose import takes long.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import_module("pyarrow.fs")
        return import_module("pyarrow")
    except ImportError:
        raise ConfigurationError("A URL as store.files needs pyarrow: pip install 'llm-hpo[remote]'.") from None


def file_system(url: str) -> tuple[Any, str]:
    """Return the `pyarrow.fs.FileSystem` for `url`, and the path in it.

    Nothing is read or written, except that S3 may be asked for a bucket's region.

    Raises:
        ConfigurationError: the file system does not exist, the URL contains a secret, or pyarrow is missing.
        StoreError: it cannot be reached.
    """
    _refuse_secret(url)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise ConfigurationError(f"store.files cannot be at {scheme}://. {nearest(scheme, SCHEMES)}")
    arrow = pyarrow()
    try:
        files, path = arrow.fs.FileSystem.from_uri(_not_for_long(url))
    except ValueError as error:
        raise ConfigurationError(f"store.files cannot be {url}: {why_failed(error)}.") from None
    except (OSError, arrow.ArrowException) as error:
        raise StoreError(
            f"The file system of {url.partition('?')[0]} cannot be reached: {why_failed(error)}; name another place by "
            "store.files."
        ) from None
    return _sparing(arrow, files), path


def why_failed(error: BaseException) -> str:
    """Return the reason that a file system failed, as the end of a sentence, without request ids and details."""
    reason = why_not_written(error).partition("\n")[0]
    of_aws = re.search(r"AWS Error .*", reason)
    return DETAILS.sub("", of_aws[0] if of_aws else reason).rstrip(".")


def _refuse_secret(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"store.files is no URL: {error}.") from None
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if parts.password is not None or any(map(SECRET.search, names)):
        raise ConfigurationError(
            "The URL of store.files holds a password or a key, which others would come to see; leave it out, and give "
            "it to the environment of each machine (of s3, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a "
            "profile)."
        )


def _not_for_long(url: str) -> str:
    """Return a URL whose calls fail within seconds if it is unreachable, unless its options say otherwise."""
    if not url.startswith("gs://") or "retry_limit_seconds=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}{GS_RETRIES}"


def _sparing(arrow: Any, files: Any) -> Any:
    """Return an S3 file system that uploads in parts, any other unchanged.

    As pyarrow opens it, it reads a whole file into memory before uploading it: 400 MB of 400 were measured, and a
    checkpoint may be larger than the machine's memory.
    """
    if files.type_name != "s3":
        return files
    # Arguments from which a pickle of it is restored.
    _, (settings,) = files.__reduce__()
    return arrow.fs.S3FileSystem(**{**settings, "background_writes": False})
