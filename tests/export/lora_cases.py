"""Configurations of LoRA of tiny models, trained into folders, and what `hpo predict` says of those."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GPT2Config, GPT2Model, set_seed

from hpo.config.study_file import ComputeConfig
from hpo.data.splits import Splits
from hpo.export.exported_file import Exported
from hpo.export.model_folder import train_into
from hpo.export.prediction import prediction_input, predictions_csv
from hpo.export.retraining import compute_of, open_trainer, retrain, study_and_splits
from tests.models import save_tiny_bert, save_tiny_llama

LORA = {"method": "lora", "lora_rank": 4, "learning_rate": 5e-3, "batch_size": 8, "epochs": 3, "max_length": 16}


def save_tiny_gpt2(folder: Path) -> Path:
    """Save a random GPT-2, whose layers are `Conv1D`, and the tokenizer of the Llama."""
    save_tiny_llama(folder)
    set_seed(0)
    shape = {"vocab_size": 40, "n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 32}
    GPT2Model(GPT2Config(**shape, eos_token_id=0, bos_token_id=0)).save_pretrained(folder)
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {"bert": save_tiny_bert, "llama": save_tiny_llama, "gpt2": save_tiny_gpt2}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A configuration of LoRA."""

    exported: Exported
    folder: Path

    @cached_property
    def splits(self) -> Splits:
        """Its data."""
        return study_and_splits(self.exported, compute_of(self.exported))[1]

    def trained(self, name: str, **options: Any) -> tuple[Path, list[str]]:
        """Train it into a folder; return that and what was said."""
        said: list[str] = []
        train_into(self.folder / name, self.exported, compute_of(self.exported), "train", said.append, **options)
        return self.folder / name, said

    def probabilities(self) -> np.ndarray[Any, Any]:
        """Return those of each label for each row of validation, by a model that is trained as for its folder."""
        config, splits = study_and_splits(self.exported, compute_of(self.exported))
        worker = open_trainer(self.exported, config, splits, self.folder)
        retrain(worker, self.exported.assignment(), lambda _: None)
        worker.trained(self.exported.assignment())
        context = worker._context
        tokens = context.tokenized(self.exported.hyperparameters.max_length)
        found: np.ndarray[Any, Any] = context.predict(tokens["validation"]).probabilities
        return found


def predicted(folder: Path, texts: tuple[str, ...], *overrides: str) -> list[tuple[str, float]]:
    """Return what `hpo predict` says of texts, and how probable that is."""
    return [(row["prediction"], float(row["probability"])) for row in asked_of(folder, texts, *overrides)]


def asked_of(folder: Path, texts: tuple[str, ...], *overrides: str) -> list[dict[str, str]]:
    """Return the rows that `hpo predict` writes for texts."""
    source = folder.parent / "in.csv"
    with source.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in texts)])
    asked = prediction_input(folder, str(source), overrides)
    return [*csv.DictReader(io.StringIO(predictions_csv(asked, ComputeConfig(device="cpu", threads=1))))]
