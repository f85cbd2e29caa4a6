"""A study's files at a URL: the twin of its local folder, in which every file is written before it is sent.

S3's protocol was tried against moto's server, and so was `file://`; `gs://`, `abfs://` and `hdfs://` were not: pyarrow
reads and writes all of them alike. An object store puts a file whole or not at all; elsewhere it is written under
another name, and moved. While trials train, a URL that fails costs no more than what could not be sent: that is told
once, the files stay in the folder, and the URL is left alone for a minute, as each asking takes seconds.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from hpo.config.study_file import StudyConfig
from hpo.errors import StoreError
from hpo.files.disk import refuse_full, replacing
from hpo.files.urls import OBJECT_STORES, file_system, pyarrow, why_failed

ADDRESS = "files-at.json"
"""In a study's local folder: where the others are, so that they can be deleted with it."""
SECONDS_LEFT_ALONE = 60.0
"""How long a URL that failed is not asked again."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Mirror:
    """That of a folder which has none: what is asked of it costs nothing."""

    def send(self, _path: Path, /) -> bool:
        """Put a file of the folder in the place of its twin, whole or not at all; return whether nothing is left to do.

        Where it cannot be, that is told, and training goes on.
        """
        return True

    def release(self, _path: Path, /) -> None:
        """Remove a file from the folder if this process has sent it as it is."""

    def fetch(self, _path: Path, _to: Path, /) -> bool:
        """Write the twin of a path to the local file `to`, whole or not at all; return whether that was done."""
        return False

    def look(self, _path: Path, _look: Callable[[IO[bytes]], T], otherwise: T, /) -> T:
        """Return what `look` finds in the twin of a path, open for reading; `otherwise` where there is none."""
        return otherwise

    def folders(self, _folder: Path, /) -> Set[Path]:
        """Return the folders, directly below this one, that have a twin with something in it."""
        return frozenset()

    def files(self, _folder: Path, /) -> Set[Path]:
        """Return the files directly in this folder that have a twin."""
        return frozenset()

    def remove(self, _folder: Path, _goes: Callable[[str], bool], /) -> None:
        """Remove files, by their names, from a folder's twin, and what is left of files half sent; and it, if nothing
        stays.
        """

    def leave_address(self) -> None:
        """Write into the folder where its twin is, for `twin_of`."""

    def shown(self, path: Path, /) -> str:
        """Return where the twin of a path is, for people."""
        return str(path)


NO_MIRROR = Mirror()


class UrlMirror(Mirror):
    """That of a study's folder at a URL."""

    def __init__(self, url: str, study: str, folder: Path) -> None:
        """Find the file system; nothing is read or written, but a region of S3's may be asked for.

        Raises:
            ConfigurationError: there is no such file system, the URL holds a secret, or pyarrow is missing.
            StoreError: it cannot be reached.
        """
        self.folder, self.place, self._url = folder, shown_url(url, study), url
        self._files, root = file_system(url)
        self._arrow = pyarrow()
        self._root = f"{root.rstrip('/')}/{study}"
        self._local = self._arrow.fs.LocalFileSystem()
        self._failures = (OSError, self._arrow.ArrowException)
        self._sent: set[Path] = set()
        self._asked_again_at = 0.0
        self._has_told = False

    def refuse_unusable(self) -> None:
        """Write, read and remove a few bytes.

        Raises:
            StoreError: one of the three cannot be done.
        """
        twin = f"{self._root}/.hpo-{uuid.uuid4().hex}"
        try:
            self._make_room(self._root)
            with self._files.open_output_stream(twin) as file:
                file.write(b"hpo")
            with self._files.open_input_file(twin) as file:
                file.read()
            self._files.delete_file(twin)
        except self._failures as error:
            raise StoreError(
                f"Checkpoints and weights cannot be written to {self.place}: {why_failed(error)}; see "
                "that the bucket or folder is there and that this machine may read, write and delete in it (of s3, by "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile), or name another place by store.files."
            ) from None

    def send(self, path: Path, /) -> bool:
        """Put a file in the place of its twin."""

        def put() -> bool:
            self._put(path, self._twin(path))
            self._sent.add(path)
            return True

        self._sent.discard(path)
        return self._asked(put, False)

    def release(self, path: Path, /) -> None:
        """Remove a file that was sent, and its folder if nothing else is in it."""
        if path in self._sent:
            # Where it cannot be removed only room is lost, and no trial is to end of that.
            with suppress(OSError):
                path.unlink(missing_ok=True)
                path.parent.rmdir()

    def fetch(self, path: Path, to: Path, /) -> bool:
        """Write a file's twin to `to`."""

        def fetched() -> bool:
            twin = self._twin(path)
            size = self._files.get_file_info(twin).size
            if size is None:
                return False
            to.parent.mkdir(parents=True, exist_ok=True)
            refuse_full(to.parent, size, None)
            with replacing(to) as part:
                self._copy(twin, str(part), self._files, self._local)
            return True

        return self._asked(fetched, False)

    def look(self, path: Path, look: Callable[[IO[bytes]], T], otherwise: T, /) -> T:
        """Return what `look` finds in a file's twin."""

        def looked() -> T:
            with self._files.open_input_file(self._twin(path)) as file:
                return look(file)

        return self._asked(looked, otherwise)

    def folders(self, folder: Path, /) -> Set[Path]:
        """Return the folders that have a twin, at the price of one listing."""
        return self._twins(folder, self._arrow.fs.FileType.Directory)

    def files(self, folder: Path, /) -> Set[Path]:
        """Return the files that have a twin, at the price of one listing."""
        return self._twins(folder, self._arrow.fs.FileType.File)

    def _twins(self, folder: Path, kind: Any) -> Set[Path]:
        def listed() -> Set[Path]:
            found = self._listed(self._twin(folder))
            return frozenset(folder / one.base_name for one in found if one.type == kind)

        return self._asked(listed, frozenset())

    def remove(self, folder: Path, goes: Callable[[str], bool], /) -> None:
        """Remove files from a folder's twin, at the price of one listing where there are none."""

        def removed() -> None:
            twin = self._twin(folder)
            found = self._listed(twin)
            going = [file for file in found if goes(file.base_name) or file.base_name.endswith(".part")]
            if found and len(going) == len(found):
                # Not file by file: object stores would be left with an empty object that stands for the folder.
                self._files.delete_dir(twin)
                return
            for file in going:
                self._files.delete_file(file.path)

        self._asked(removed, None)

    def delete(self) -> None:
        """Delete all that the study has there.

        Raises:
            StoreError: it cannot be deleted.
        """
        try:
            self._files.delete_dir(self._root)
        except FileNotFoundError:
            return
        except self._failures as error:
            raise StoreError(f"{self.place} could not be deleted: {why_failed(error)}; delete it.") from None

    def leave_address(self) -> None:
        """Write into the folder where its twin is.

        Raises:
            StoreError: nothing can be written to it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ADDRESS).write_text(json.dumps(self._url), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"Nothing can be written to {self.folder}: {error.strerror}; make room there.") from None

    def shown(self, path: Path, /) -> str:
        """Return the URL of a file's twin."""
        return f"{self.place}/{path.relative_to(self.folder).as_posix()}"

    def _asked(self, ask: Callable[[], T], otherwise: T) -> T:
        """Return what `ask` does; `otherwise` where there is nothing, or the URL fails or has failed a moment ago."""
        if time.monotonic() < self._asked_again_at:
            return otherwise
        try:
            answer = ask()
        except FileNotFoundError:
            answer = otherwise
        except self._failures as error:
            self._asked_again_at = time.monotonic() + SECONDS_LEFT_ALONE
            self._tell(error)
            return otherwise
        self._has_told = False
        return answer

    def _tell(self, error: BaseException) -> None:
        if not self._has_told:
            logger.warning(
                "Files could not be exchanged with %s: %s. Training goes on with what lies in %s, and it is tried "
                "again.",
                self.place,
                why_failed(error),
                self.folder,
            )
        self._has_told = True

    def _put(self, path: Path, twin: str) -> None:
        if self._files.type_name in OBJECT_STORES:
            self._copy(str(path), twin, self._local, self._files)
            return
        part = f"{twin}.{uuid.uuid4().hex}.part"
        self._make_room(twin.rpartition("/")[0])
        try:
            self._copy(str(path), part, self._local, self._files)
            self._files.move(part, twin)
        except BaseException:
            with suppress(*self._failures):
                self._files.delete_file(part)
            raise

    def _make_room(self, folder: str) -> None:
        """Make a folder where there are any: an object store has but names."""
        if self._files.type_name not in OBJECT_STORES:
            self._files.create_dir(folder, recursive=True)

    def _copy(self, source: str, target: str, source_files: Any, target_files: Any) -> None:
        self._arrow.fs.copy_files(source, target, source_filesystem=source_files, destination_filesystem=target_files)

    def _listed(self, folder: str) -> Any:
        return self._files.get_file_info(self._arrow.fs.FileSelector(folder, allow_not_found=True))

    def _twin(self, path: Path) -> str:
        below = path.relative_to(self.folder).as_posix()
        return self._root if below == "." else f"{self._root}/{below}"


def open_mirror(config: StudyConfig, folder: Path) -> Mirror:
    """Return the mirror of a study's local folder, which was found to be usable; none where `store.files` is no URL.

    Raises:
        ConfigurationError: there is no such file system, the URL holds a secret, or pyarrow is missing.
        StoreError: it cannot be reached, read or written.
    """
    if not isinstance(config.store.files, str):
        return NO_MIRROR
    mirror = UrlMirror(config.store.files, config.study, folder)
    mirror.refuse_unusable()
    return mirror


def twin_of(folder: Path) -> str | None:
    """Return the URL, of all studies' files, at which the study with this local folder has its own; None without."""
    try:
        url = json.loads((folder / ADDRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return url if isinstance(url, str) else None


def shown_url(url: str, study: str) -> str:
    """Return where a study's files are, for people: without the options of the URL."""
    return f"{url.partition('?')[0].rstrip('/')}/{study}"
