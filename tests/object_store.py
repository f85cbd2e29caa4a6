"""A real object store for tests: moto's server, which speaks S3's protocol, in this process; and what is in it."""

import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "bucket"
NUMBERS = itertools.count()
"""Of folders: what is in moto's buckets is one for all servers of a process."""
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class ObjectStore:
    """A server with one bucket, which keeps what it has while it is stopped."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of the libraries that moto is made of.
            from moto.server import ThreadedMotoServer
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        _, port = self._server.get_host_and_port()
        self._server._port = port
        self.options = f"endpoint_override=127.0.0.1:{port}&scheme=http"
        from pyarrow.fs import S3FileSystem

        self.files: Any = S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        self.files.create_dir(BUCKET)

    def url(self, folder: str) -> str:
        return f"s3://{BUCKET}/{folder}?{self.options}"

    def fresh_url(self) -> str:
        """Return the URL of a folder in which nothing is."""
        return self.url(f"files-{next(NUMBERS)}")

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()


@contextmanager
def running_object_store() -> Iterator[ObjectStore]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in CREDENTIALS.items():
            patched.setenv(name, value)
        store = ObjectStore()
        try:
            yield store
        finally:
            store.stop()


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with running_object_store() as running:
        yield running


def names_at(url: str) -> list[str]:
    """Return the paths of all files below a URL, relative to it."""
    from pyarrow.fs import FileSelector, FileSystem, FileType

    files, path = FileSystem.from_uri(url)
    found = files.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return sorted(one.path.removeprefix(f"{path}/") for one in found if one.type == FileType.File)
