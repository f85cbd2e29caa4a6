"""The file system behind a URL, by pyarrow, which is imported only here and only where there is such a URL."""

import re
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from hpo.errors import ConfigurationError, StoreError, nearest
from hpo.files.disk import why_not_written

OBJECT_STORES = ("s3", "gcs", "abfs")
"""Kinds of file systems, as pyarrow names them, that put a file whole or not at all."""
SCHEMES = ("s3", "gs", "abfs", "abfss", "hdfs", "file")
SECRET = re.compile("key|secret|token|password|sig", re.IGNORECASE)
"""In the name of a URL's option."""
GS_RETRIES = "retry_limit_seconds=10"
"""Else one call to a `gs://` that is away is tried again for a quarter of an hour."""
DETAILS = re.compile(r" \(Request ID.*|; Details: .*|\. Detail: .*| error_info=.*")


def pyarrow() -> Any:
    """Return pyarrow with its file systems; the import takes long.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import_module("pyarrow.fs")
        return import_module("pyarrow")
    except ImportError:
        raise ConfigurationError("A URL as store.files needs pyarrow: pip install 'llm-hpo[remote]'.") from None


def file_system(url: str) -> tuple[Any, str]:
    """Return the `pyarrow.fs.FileSystem` that reads and writes at `url`, and the path in it.

    Nothing is read or written, but the region of an S3 bucket may be asked for.

    Raises:
        ConfigurationError: there is no such file system, the URL holds a secret, or pyarrow is missing.
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
    """Return why a file system failed, as the end of a sentence, without requests' numbers and lists of details."""
    said = why_not_written(error).partition("\n")[0]
    of_aws = re.search(r"AWS Error .*", said)
    return DETAILS.sub("", of_aws[0] if of_aws else said).rstrip(".")


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
    """Return a URL whose calls fail within seconds where it is away, unless it says otherwise."""
    if not url.startswith("gs://") or "retry_limit_seconds=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}{GS_RETRIES}"


def _sparing(arrow: Any, files: Any) -> Any:
    """Return a file system of S3's that sends part after part, any other as it is.

    As pyarrow opens it, it takes all of a file into memory and sends it from there: 400 MB of 400 were measured, and a
    checkpoint may be larger than the machine's memory.
    """
    if files.type_name != "s3":
        return files
    # What a pickle of it is made anew of.
    _, (settings,) = files.__reduce__()
    return arrow.fs.S3FileSystem(**{**settings, "background_writes": False})
