"""Prediction: a model of `hpo train` over the rows of a file, as CSV."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.config.loading import apply_override
from hpo.config.parsing import Typed, read_model
from hpo.config.study_file import ComputeConfig, DataConfig, ModelConfig
from hpo.config.tasks import TASK_FACTS
from hpo.data.readers.table import as_unicode
from hpo.data.sources import UnlabelledExamples, read_texts
from hpo.data.splits import Splits
from hpo.data.tokenization import TokenizedSplit, tokenize
from hpo.errors import ConfigurationError, DataError, ModelError
from hpo.export.adapter import load_adapter
from hpo.export.exported_file import Exported
from hpo.messages import Precision
from hpo.model.backbone import Backbone
from hpo.model.pretrained import load_model
from hpo.tasks.protocol import Task
from hpo.tasks.registry import TASKS
from hpo.training.device import choose_device
from hpo.training.evaluation import outputs

CONFIG_KEY = "hpo"
"""Key of the `TrainedModel` in the config.json of a whole model."""
ADAPTER_FACTS = "hpo.json"
"""File with the `TrainedModel` of an adapter; with a config.json, the folder would look like a whole model."""
OVERRIDABLE = (
    "model.trust_remote_code", "data.text_column", "data.text_pair_column", "data.delimiter", "data.strict",
)  # fmt: skip
"""Keys that overrides may change when a model is used."""


class TrainedModel(Typed):
    """Settings besides weights and tokenizer that predictions depend on, as stored in config.json."""

    task: Literal["classification", "label_words", "regression", "multi_label"]
    learned: dict[str, Any]
    """Result of `Task.learned`: labels in order, or mean and standard deviation of numbers."""
    text_column: str
    """Column of the text in training."""
    text_pair_column: str | None
    max_length: int
    """Tokens to which texts are truncated."""
    precision: Precision
    """Precision of the forward pass."""
    base: ModelConfig | None = None
    """The pretrained model of an adapter; None for a whole model."""
    base_fingerprint: str | None = None
    """`Backbone.fingerprint` of the pretrained model; None if it is not checked."""


def trained_model(exported: Exported, splits: Splits, task: Any, fitted: NDArray[np.float64] | None) -> dict[str, Any]:
    """Return the fields of a `TrainedModel`; `fitted` has the values that its task has fitted, None without."""
    assert splits.columns is not None, "they were read from a source"
    learned = task.learned()
    if fitted is not None:
        learned |= {"thresholds": fitted.tolist(), "separator": exported.data.label_separator}
    return {
        "task": exported.task.name,
        "learned": learned,
        "text_column": splits.columns.text,
        "text_pair_column": splits.columns.pair,
        "max_length": exported.hyperparameters.max_length,
        "precision": exported.precision,
    }


def folder_model(folder: Path) -> ModelConfig:
    """Return the model configuration for a folder with a whole model, in the number format of its weights.

    Raises:
        ConfigurationError: its config.json cannot be read.
    """
    is_bf16 = _read_json(folder / "config.json").get("dtype") == "bfloat16"
    return ModelConfig(name=str(folder), dtype="bf16" if is_bf16 else "fp32")


class _InputConfig(Typed):
    """The model, and the source of the rows."""

    model: ModelConfig
    data: DataConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionInput:
    """A model and the rows to predict."""

    trained: TrainedModel
    folder: Path
    """Folder of the trained model."""
    model: ModelConfig
    """The trained model, or the pretrained model of an adapter."""
    rows: UnlabelledExamples

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the columns that are added to those of the file."""
        return TASK_FACTS[self.trained.task].predicted

    @property
    def header(self) -> str:
        """Header of the CSV output."""
        return _lines([[as_unicode(name) for name in (*self.rows.table.names, *self.added)]])

    @property
    def begins(self) -> re.Pattern[str]:
        """Start of the predictions of this task for any file: a header that ends with the added columns."""
        return re.compile(f"{re.escape(self.header)}|[^\n]+,{','.join(self.added)}\n")


def prediction_input(folder: Path, source: str, overrides: Sequence[str] = ()) -> PredictionInput:
    """Read the configuration in a model's folder, and the rows of a source.

    Args:
        folder: one that `hpo train` wrote.
        source: source of the rows, as for `read_source`.
        overrides: `dotted.path=value` with keys of `OVERRIDABLE`; for an adapter also `model.name`, its base model.

    Raises:
        ConfigurationError: `hpo train` wrote no such folder, or an override is invalid.
        DataError: the rows cannot be read, have no text, or have a column with the name of an added one.
    """
    trained = _read_trained_model(folder)
    content = {
        "model": (trained.base or folder_model(folder)).model_dump(),
        "data": {"train": source} | trained.model_dump(include={"text_column", "text_pair_column"}),
    }
    for override in overrides:
        apply_override(content, override, (*OVERRIDABLE, *(("model.name",) if trained.base else ())))
    given = read_model(_InputConfig, content, "the command")
    rows = read_texts(given.data.train, "test", given.data)
    asked = PredictionInput(trained=trained, folder=folder, model=given.model, rows=rows)
    if taken := [repr(name) for name in asked.added if name in rows.table.names]:
        has = f"{rows.table.source} has a column {' and a column '.join(taken)} already"
        raise DataError(f"{has}; rename it, or leave it out.")
    return asked


def _read_trained_model(folder: Path) -> TrainedModel:
    if not folder.is_dir():
        raise ConfigurationError(f"There is no folder {folder}; name one that hpo train --output wrote.")
    if (beside := folder / ADAPTER_FACTS).is_file():
        return read_model(TrainedModel, _read_json(beside), str(beside))
    file = folder / "config.json"
    content = _read_json(file) if file.exists() else {}
    if not isinstance(content.get(CONFIG_KEY), dict):
        raise ConfigurationError(
            f"{folder} is not a model of hpo train, which says in config.json, or of an adapter in {ADAPTER_FACTS}, by "
            "which column, length and precision its texts are read; name a folder that hpo train --output wrote."
        )
    return read_model(TrainedModel, content[CONFIG_KEY], str(file))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Cannot read {file}: {error}.") from None
    return content if isinstance(content, dict) else {}


def predictions_csv(asked: PredictionInput, compute: ComputeConfig) -> str:
    """Predict every row that has a text, as an evaluation of hpo does; return all rows as CSV.

    Raises:
        ModelError, ConfigurationError: the model or the device cannot be used.
        TrainingError: memory does not suffice for one row at a time.
    """
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    rows, written = asked.rows, asked.rows.written
    task = _restored(asked)
    model = _opened(asked, task, choose_device(compute))
    model.refuse_length(asked.trained.max_length)
    pairs = None if rows.pairs is None else [rows.pairs[row] for row in written]
    texts = [rows.texts[row] for row in written]
    tokens = tokenize(texts, pairs, model.tokenizer, asked.trained.max_length, model.head.prompt)
    split = TokenizedSplit(tokens=tokens, targets=np.zeros(len(written), dtype=np.int64))
    precision = asked.trained.precision if compute.precision == "auto" else compute.precision
    found = outputs(model, split, np.arange(len(written)), lambda batch: model.logits(batch, precision))
    predictions = task.predictions(found)
    if not np.isfinite(predictions).all():
        raise ModelError(
            f"The model in {asked.folder} predicts what is no finite number: its weights are damaged, or {precision} "
            "is too narrow for them; train it again, or give --precision fp32."
        )
    return _csv(asked, task.columns(predictions))


def _restored(asked: PredictionInput) -> Task[Any]:
    trained = asked.trained
    try:
        return TASKS[trained.task].restored(trained.learned)
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(
            f"{asked.folder} lacks what its task, {trained.task}, has learned of the training rows: the file was "
            "changed, or another version of hpo wrote it; train it again."
        ) from None


def _opened(asked: PredictionInput, task: Task[Any], device: torch.device) -> Backbone:
    """Return the network of a trained model; for an adapter, the pretrained one with the adapter mounted."""
    trained = asked.trained
    backbone = load_model(asked.model, task, device, trained=trained.base is None)
    if trained.base is None:
        return backbone
    if trained.base_fingerprint not in (None, backbone.fingerprint):
        raise ModelError(
            f"The weights of {asked.model.name} are not those over which the adapter in {asked.folder} was trained; "
            "say model.name=PATH where these are, or train it again."
        )
    return load_adapter(backbone, task, asked.folder).backbone


def _csv(asked: PredictionInput, added: Mapping[str, Sequence[str]]) -> str:
    """Return the rows as CSV with a header; added cells are empty in rows without a text."""
    table, place = asked.rows.table, {row: number for number, row in enumerate(asked.rows.written)}
    own = [table.column(name) for name in table.names]
    lines = (
        [
            *(_cell(cells[row]) for cells in own),
            *(added[name][place[row]] if row in place else "" for name in asked.added),
        ]
        for row in range(table.rows)
    )
    return asked.header + _lines(lines)


def _lines(rows: Iterable[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return as_unicode(value)
        case bool() | list() | dict():
            return as_unicode(json.dumps(value, ensure_ascii=False, default=str))
        case _:
            return str(value)
