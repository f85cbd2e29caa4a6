"""Tables of real learning curves for `curves.py`: read, looked up by nearest neighbour, replayed as a source of curves.

Known are those of nicholaslourie/opda, folder `data/` (Lourie, Cho and He, "Show Your Work with Confidence",
arXiv 2311.09480, licence CC BY-SA 4.0), plain or gzipped. Hyperparameters are compared on the table's own axes: DeBERTa
was warmed up for a share of the *first epoch*, ImageNet for a share of the trial. `warmup_ratio` is that share, and
a trial's curve says what it is of the whole trial.
"""

import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.space.search_space import SearchSpace
from hpo.space.space_file import space_of

Values = Mapping[str, Any]
EPOCH_SECONDS = 3600.0
"""What an epoch takes where the table has no seconds: examples stand for them."""
LOG = "log_uniform_values"

DEBERTA: Mapping[str, Any] = {
    "epochs": {"min": 1, "max": 4, "default": 3},
    "batch_size": {"min": 16, "max": 64, "default": 32},
    "learning_rate": {"distribution": LOG, "min": 1e-6, "max": 1e-3, "default": 2e-5},
    "warmup_ratio": {"min": 0.0, "max": 0.6, "default": 0.1},
    "dropout": {"min": 0.0, "max": 0.3, "default": 0.1},
}
IMAGENET: Mapping[str, Any] = {
    "optimizer": {"value": "momentum"},
    "epochs": {"min": 20, "max": 100, "default": 60},
    "batch_size": {"values": [128, 256, 512, 1024], "default": 512},
    "learning_rate": {"distribution": LOG, "min": 5e-3, "max": 50.0, "default": 0.5},
    "warmup_ratio": {"min": 0.0, "max": 0.8, "default": 0.1},
    "momentum": {"min": 0.7, "max": 0.9999, "default": 0.9},
    "l2_strength": {"distribution": LOG, "min": 1e-6, "max": 1e-3, "default": 5e-5},
    "label_smoothing": {"min": 0.0, "max": 0.5, "default": 0.1},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration that was trained; arrays of one length, rising in share, the first being 0."""

    values: Values
    """Its hyperparameters by our names, on the table's own axes."""
    shares: Sequence[float]
    """Of the trial that were trained at each evaluation, 0 to 1."""
    searched: Sequence[float]
    """The score that searches see."""
    judged: Sequence[float]
    """The score that they are judged by."""
    seconds: float
    """Of the whole trial, or until it diverged."""
    diverged: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table and its space."""

    name: str
    space: Mapping[str, Any]
    train_rows: int
    warmup_of_first_epoch: bool
    rows: Sequence[Row]
    two_scores: bool

    @property
    def average_seconds(self) -> float:
        """What a trial of the table took, in the mean."""
        return float(np.mean([row.seconds for row in self.rows]))

    def search_space(self, times: float = 1.0) -> SearchSpace:
        """Return the space of a search, whose default is the usual configuration at so many times its rate."""
        rate = self.space["learning_rate"]
        return space_of({**self.space, "learning_rate": {**rate, "default": times * rate["default"]}})

    def places(self, configurations: Sequence[Values]) -> NDArray[np.float64]:
        """Return where configurations lie, shape (configurations, axes): 0 to 1 over each range."""
        axes = {name: _axis(domain) for name, domain in self.space.items() if "value" not in domain}
        return np.array([[axis(float(values[name])) for name, axis in axes.items()] for values in configurations])


def read_table(path: Path) -> Table:
    """Read a table; what it is of is told by what its lines have."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    if "learning_curves" in records[0]:
        rows = [_deberta_row(record) for record in records]
        return Table(name, DEBERTA, DEBERTA_ROWS, warmup_of_first_epoch=True, rows=rows, two_scores=True)
    epochs = [point["time"] / (at + 1) for record in records for at, point in enumerate(record["learning_curve"])]
    rows = [_imagenet_row(record, float(np.mean(epochs))) for record in records]
    return Table(name, IMAGENET, IMAGENET_ROWS, warmup_of_first_epoch=False, rows=rows, two_scores=False)


DEBERTA_ROWS, IMAGENET_ROWS = 392_702, 1_281_167
DEBERTA_CHANCE, IMAGENET_CHANCE = 1 / 3, 1 / 1000


def _deberta_row(record: Mapping[str, Any]) -> Row:
    matched, mismatched = (record["learning_curves"][name] for name in ("matched", "mismatched"))
    values = {
        "epochs": record["num_train_epochs"],
        "batch_size": record["train_batch_size"],
        "learning_rate": record["learning_rate"],
        "warmup_ratio": record["warmup_steps"] / math.ceil(DEBERTA_ROWS / record["train_batch_size"]),
        "dropout": record["cls_drop_out"],
    }
    return Row(
        values=values,
        shares=[0.0, *(step / matched[-1][0] for step, _ in matched)],
        searched=[DEBERTA_CHANCE, *(score for _, score in matched)],
        judged=[DEBERTA_CHANCE, *(score for _, score in mismatched)],
        seconds=record["num_train_epochs"] * EPOCH_SECONDS,
    )


def _imagenet_row(record: Mapping[str, Any], epoch_seconds: float) -> Row:
    epochs, curve = record["epochs"], record["learning_curve"]
    values = {
        "epochs": epochs,
        "batch_size": record["batch_size"],
        "learning_rate": record["lr"],
        "warmup_ratio": record["lr_peak_epoch"] / epochs,
        "momentum": record["momentum"],
        "l2_strength": record["weight_decay"],
        "label_smoothing": record["label_smoothing"],
    }
    scores = [IMAGENET_CHANCE, *(point["top_1"] for point in curve)]
    shares = [number / epochs for number in range(len(scores))]
    seconds = curve[-1]["time"] if curve else 0.0
    if diverged := record["nan_train_loss"]:
        # It was the epoch after the last evaluation that made it NaN.
        shares, scores = [*shares, len(scores) / epochs], [*scores, scores[-1]]
        seconds += seconds / len(curve) if curve else epoch_seconds
    return Row(values=values, shares=shares, searched=scores, judged=scores, seconds=seconds, diverged=bool(diverged))


def _axis(domain: Mapping[str, Any]) -> Callable[[float], float]:
    """Return the place of a value in its range, 0 to 1."""
    on_log_scale = domain.get("distribution") == LOG or "values" in domain
    scaled: Callable[[float], float] = math.log if on_log_scale else float
    low, high = (scaled(float(end(domain["values"]) if "values" in domain else domain[name])) for name, end in ENDS)
    return lambda value: (scaled(value) - low) / (high - low)


ENDS: tuple[tuple[str, Callable[[Sequence[float]], float]], ...] = (("min", min), ("max", max))
