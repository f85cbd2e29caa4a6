"""A configuration as the script `train_script.py`, which needs no hpo, and the JSON file that it reads beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.data.readers.locations import is_missing
from hpo.data.splits import _read
from hpo.data.targets import TARGETS
from hpo.errors import ConfigurationError
from hpo.export import train_script
from hpo.export.exported import Exported
from hpo.export.expressible import refuse_inexpressible

MARK = '"""Trains one configuration that a search by hpo found'
"""How the script begins."""
NEEDED = ("torch", "transformers", "scikit-learn", "numpy")


def script() -> str:
    """Return the script, the same for every configuration."""
    return Path(train_script.__file__).read_text(encoding="utf-8")


def content_of_script(content: Mapping[str, Any], exported: Exported) -> dict[str, Any]:
    """Return what the script reads of a configuration: all of it, the columns named that the search detected.

    Raises:
        ConfigurationError: the script cannot do all of it, which names what; or the texts are not here that tell the
            columns.
        DataError: the texts cannot be read.
    """
    refuse_inexpressible("The script", {}, exported, train_script.refusals(content))
    return {**content, "data": {**content["data"], **_columns(exported)}}


def needed(exported: Exported) -> str:
    """Return the packages that a script needs, as they were in the search."""
    return ", ".join(f"{name} {number}" for name, number in exported.versions.items() if name in NEEDED)


def _columns(exported: Exported) -> dict[str, str | None]:
    data = exported.data
    if data.text_column and data.label_column:
        return {}
    if is_missing(data.train):
        raise ConfigurationError(
            f"Which columns hold text and label is told by the texts, and there is nothing at {data.train} here; say "
            "data.train=FILE, or name both columns: data.text_column=NAME data.label_column=NAME."
        )
    found = _read(data, data.train, "train", None, TARGETS[exported.task.name]).columns
    return {"text_column": found.text, "text_pair_column": found.pair, "label_column": found.label}
