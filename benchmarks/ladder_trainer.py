"""Fine-tuning by transformers' Trainer, for `ladder.py`: as tutorials show it, and done well.

As tutorials show it: fp32, texts padded to one length, and a model that each trial loads again. Done well: padding to
the longest text of a batch, bf16 if a measurement finds it faster, and a model that is loaded once. Both train the same
network, head, optimizer, schedule and values as hpo.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ladder_data
import numpy as np
import torch
from sklearn.metrics import f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from hpo.data.demo import demo_model_folder

LENGTH = 64
"""Tokens to which tutorials pad, above which texts are cut."""
STEPS_TIMED = 8

Heard = Callable[[int, float], bool]
"""Callback with the number of an evaluation, from 1, and its score; returns true to prune the trial."""


@dataclass(slots=True)
class TrainerLoop:
    """Training of a model on a data set by the Trainer."""

    paths: Mapping[str, Path]
    """`train` and `validation`."""
    well: bool
    """True if done well, false if as in tutorials."""
    evaluations: int = 1
    """Evaluations of an epoch, 1 or 2."""
    bf16: bool | None = None
    """True for bf16; None to measure whether it is faster, if done well."""
    model: Path = field(default_factory=demo_model_folder)
    device: str = "cpu"
    _tokenizer: Any = None
    _network: Any = None
    _rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def open(self) -> None:
        """Tokenize the texts and, if done well, load the model."""
        self._tokenizer = AutoTokenizer.from_pretrained(self.model)
        labels = sorted({label for _, label in ladder_data.read(self.paths["train"])})
        padding = {} if self.well else {"padding": "max_length"}
        for part, path in self.paths.items():
            self._rows[part] = [
                {**self._tokenizer(text, truncation=True, max_length=LENGTH, **padding), "labels": labels.index(label)}
                for text, label in ladder_data.read(path)
            ]
        if self.well:
            self._network = self._read(len(labels))
            if self.bf16 is None:
                self.bf16 = self._seconds(bf16=True) < self._seconds(bf16=False)

    def train(self, values: Mapping[str, Any], seed: int, heard: Heard = lambda *_: False) -> float:
        """Fine-tune with `values` and return the best macro F1 on validation; as in tutorials, the last."""
        set_seed(seed)
        network = copy.deepcopy(self._network) if self.well else self._read(self._classes)
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = values["dropout"]
        batches = -(-len(self._rows["train"]) // values["batch_size"])
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=values["batch_size"],
                per_device_eval_batch_size=32,
                num_train_epochs=values["epochs"],
                learning_rate=values["learning_rate"],
                weight_decay=values["l2_strength"],
                warmup_steps=round(values["warmup_ratio"] * batches * values["epochs"]),
                label_smoothing_factor=values["label_smoothing"],
                seed=seed,
                bf16=bool(self.bf16),
                use_cpu=self.device == "cpu",
                eval_strategy="steps",
                eval_steps=max(1, batches // self.evaluations),
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            callback = _Evaluated(heard)
            trainer = Trainer(
                network, arguments, train_dataset=self._rows["train"], eval_dataset=self._rows["validation"],
                data_collator=DataCollatorWithPadding(self._tokenizer), compute_metrics=_macro_f1,
                callbacks=[callback],
            )  # fmt: skip
            # The Trainer prints each evaluation, whatever is asked of it.
            trainer.pop_callback(PrinterCallback)
            trainer.train()
        return max(callback.scores) if self.well else callback.scores[-1]

    @property
    def _classes(self) -> int:
        return len({row["labels"] for row in self._rows["train"]})

    def _read(self, classes: int) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(self.model, num_labels=classes).to(self.device)

    def _seconds(self, *, bf16: bool) -> float:
        """Return the seconds of the fastest of a few steps over the first rows."""
        network = copy.deepcopy(self._network)
        rows = [dict(row) for row in self._rows["train"][:16]]
        batch = self._tokenizer.pad(rows, return_tensors="pt").to(self.device)
        taken = []
        for _ in range(STEPS_TIMED):
            began = time.perf_counter()
            with torch.autocast(self.device, torch.bfloat16, enabled=bf16):
                loss = network(**batch).loss
            loss.backward()
            if self.device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
        return min(taken)


def _macro_f1(predicted: Any) -> dict[str, float]:
    answers = np.argmax(predicted.predictions, axis=-1)
    return {"macro_f1": float(f1_score(predicted.label_ids, answers, average="macro"))}


class _Evaluated(TrainerCallback):  # type: ignore[misc]
    """Callback that keeps the score of each evaluation, and stops a pruned trial."""

    def __init__(self, heard: Heard) -> None:
        self.scores: list[float] = []
        self._heard = heard

    def on_evaluate(self, _arguments: Any, _state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Add a score."""
        self.scores.append(metrics["eval_macro_f1"])
        control.should_training_stop |= self._heard(len(self.scores), self.scores[-1])
