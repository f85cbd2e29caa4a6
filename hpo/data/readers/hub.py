"""Hub data sets, and folders written by `save_to_disk`, loaded by `datasets`."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from hpo.data.readers.arrow import arrow_table, import_optional
from hpo.data.readers.table import Table
from hpo.errors import DataError, nearest

SplitName = Literal["train", "validation", "test"]

HUB = "hf://"
KEYS = ("configuration", "split", "revision")
NO_REASON = "An error occurred while generating the dataset"


def parse_address(source: str) -> tuple[str, dict[str, str]]:
    """Parse `hf://NAME?configuration=NAME&split=NAME&revision=REV` into the name and its values of `KEYS`.

    The name is `OWNER/NAME` on the hub, or a folder with the layout of a hub repository.

    Raises:
        DataError: no name, or a key that is unknown, empty or given twice.
    """
    try:
        parts = urlsplit(source, allow_fragments=False)
        given = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise DataError(f"{source} cannot be read as hf://OWNER/NAME?configuration=NAME&split=NAME.") from None
    name = unquote(parts.netloc + parts.path).rstrip("/")
    if not name:
        raise DataError(f"{source} names no data set; write hf://OWNER/NAME.")
    for key, values in given.items():
        if key not in KEYS:
            raise DataError(f"{source} has an unknown key {key!r}. {nearest(key, KEYS)}")
        if len(values) > 1 or not values[0]:
            raise DataError(f"{source} gives {key!r} {'no value' if len(values) == 1 else 'twice'}; give it one.")
    return name, {key: values[0] for key, values in given.items()}


def read_hub(source: str, role: SplitName) -> Table:
    """Load a data set from the hub; if `source` names no split, the one named like `role`.

    Raises:
        DataError: `datasets` is not installed, or the data set, configuration or split does not exist.
    """
    name, given = parse_address(source)
    datasets = import_optional("datasets", source)
    split, revision = given.get("split", role), given.get("revision")
    with _quiet(), _clear_errors(source):
        loaded = datasets.load_dataset(name, given.get("configuration"), split=split, revision=revision)
    return _table(source, loaded)


def read_saved(folder: str, role: SplitName) -> Table:
    """Read a folder that `save_to_disk` wrote; of several splits, the one named like `role`.

    Raises:
        DataError: `datasets` is not installed, or no split for `role`.
    """
    datasets = import_optional("datasets", folder)
    with _quiet(), _clear_errors(folder):
        loaded = datasets.load_from_disk(folder)
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {role: loaded}
    chosen = role if len(splits) > 1 else next(iter(splits))
    if chosen not in splits:
        raise DataError(
            f"{folder} holds several splits but none that is called {role!r}. {nearest(role, splits)} Name the folder "
            "of one of them."
        )
    table = _table(folder, splits[chosen])
    if len(splits) == 1:
        return table
    others = ", ".join(name for name in splits if name != role)
    note = f"{folder}: the split {role!r} is read; its others ({others}) only where named, as {folder}/NAME."
    return replace(table, notes=(*table.notes, note))


def refuse_other_folder(folder: str) -> None:
    """Refuse a folder that `save_to_disk` did not write.

    Raises:
        DataError: says what to name instead.
    """
    if not any(Path(folder, name).is_file() for name in ("state.json", "dataset_dict.json")):
        address = HUB + (folder if folder.startswith("/") else f"./{folder}")
        raise DataError(
            f"{folder} is a folder, but not one that `save_to_disk` of datasets wrote; name a file in it, a pattern "
            f"such as {Path(folder, '*.csv')}, or {address} where it is laid out like a data set of the hub."
        )


def _table(source: str, dataset: Any) -> Table:
    return arrow_table(
        source,
        dataset.column_names,
        dataset.num_rows,
        # Through the data set, because only it knows which stored rows belong to it.
        lambda name: dataset.select_columns([name]).with_format("arrow")[:].column(name),
        dataset.features,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn off the libraries' progress bars, logs and warnings on the screen, and their usage statistics."""
    datasets, hub = import_module("datasets"), import_module("huggingface_hub")
    # The libraries read this at each request, so it works even if they were imported earlier.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    with warnings.catch_warnings(action="ignore"), ExitStack() as restoring:
        for library in (datasets.utils, hub.utils):
            restoring.callback(library.logging.set_verbosity, library.logging.get_verbosity())
            library.logging.set_verbosity(logging.CRITICAL)
            if not library.are_progress_bars_disabled():
                restoring.callback(library.enable_progress_bars)
                library.disable_progress_bars()
        yield


@contextmanager
def _clear_errors(source: str) -> Iterator[None]:
    """Explain in one sentence why a data set cannot be loaded."""
    try:
        yield
    except Exception as error:  # file formats and the network raise various errors
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines()]
        reason = next((line for line in lines if line and line != NO_REASON), type(error).__name__)
        raise DataError(f"{source} cannot be loaded: {reason.rstrip('.:')}.") from error
