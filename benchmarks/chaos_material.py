"""Material for fault injection: a real small model, texts, a study, and workers whose trials take no work."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from hpo import messages  # noqa: E402
from hpo.config.loading import load_config  # noqa: E402
from hpo.config.study_file import StudyConfig  # noqa: E402
from hpo.data.splits import Splits  # noqa: E402
from hpo.messages import (  # noqa: E402
    Action,
    Assignment,
    Decision,
    Demands,
    Dimensions,
    Ending,
    Measurement,
    Outcome,
    Probe,
    Report,
    Scores,
)
from hpo.metrics.metric import SelectionMetric  # noqa: E402
from tests.models import save_tiny_bert, save_tiny_llama, write_texts  # noqa: E402

SPACE: Mapping[str, Any] = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-1, "default": 1e-2},
    "optimizer": {"value": "adamw"},
    "schedule": {"value": "linear"},
    "warmup_ratio": {"value": 0.1},
    "dropout": {"value": 0.2},
    "l2_strength": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1, "default": 1e-2},
    "batch_size": {"value": 8},
    "epochs": {"min": 1, "max": 2, "default": 2},
    "max_length": {"value": 16},
}
OF_LORA: Mapping[str, Any] = {
    **{name: spec for name, spec in SPACE.items() if name != "dropout"},
    "method": {"value": "lora"},
    "lora_rank": {"values": [2, 4]},
    "lora_dropout": {"value": 0.2},
    # At higher rates training is chaotic: a rounding difference of a shared step grows to over 1% of the loss.
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-3, "default": 3e-4},
}
"""For a decoder, whose own layers have no dropout."""
TIMED = "timed.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured thing, against what it should be."""

    name: str
    measured: str
    good: bool


def study_in(
    folder: Path, *, url: str | None = None, rows: int = 300, decoder: bool = False, **sections: Mapping[str, Any]
) -> StudyConfig:
    """Return a study of random search over a real tiny model, with dropout, AdamW and a schedule, in `folder`.

    Args:
        folder: of model, texts and store; the model and the texts are made once.
        url: of the store; None for SQLite in `folder`.
        rows: texts.
        decoder: whether it is LoRA of a decoder, its weights in bf16, and no full fine-tune of an encoder.
        sections: values over those of the study's sections.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, texts = folder / "model", folder / f"texts-{rows}.csv"
    if not model.exists():
        (save_tiny_llama if decoder else save_tiny_bert)(model)
    if not texts.exists():
        write_texts(texts, rows=rows)
    values: dict[str, Any] = {
        "study": "chaos",
        "model": {"name": str(model)},
        "data": {"train": str(texts), "text_column": "text", "label_column": "label"},
        "space": dict(OF_LORA if decoder else SPACE),
        "search": {"sampler": "random", "pruner": "none"},
        "evaluation": {"rung_rows": 30, "rungs": 4},
        "compute": {"device": "cpu", "precision": "fp32", "threads": 1, "runner": "processes", "workers": 2},
        "confirmation": {"finalists": 0, "audit": 0},
        "budget": {"trials": 12},
        "store": {"url": url or f"sqlite:///{folder / 'hpo.db'}", "files": str(folder / "files")},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | dict(section)
    return load_config(values=values)


class Timed:
    """A worker whose trials take a fixed time: it reports at every milestone, and trains nothing."""

    def __init__(self, files: Path) -> None:
        self._seconds: float = json.loads((files / TIMED).read_text())["seconds"]
        self._assignment: Assignment | None = None
        self._began = 0.0
        self._reported = 0
        self._asked = Action.CONTINUE
        self._best: Report | None = None

    @property
    def metric(self) -> SelectionMetric:
        """What all of these are scored by."""
        return SelectionMetric(name="macro_f1", positive=None, note="The metric is macro_f1.")

    @property
    def free_slots(self) -> int:
        """One at a time."""
        return int(self._assignment is None)

    def facts(self) -> dict[str, str]:
        """Return nothing of note."""
        return {"device": "cpu"}

    def refuse_unfit(self, demands: Demands) -> None:
        """Refuse nothing."""

    def notes(self, demands: Demands) -> tuple[str, ...]:
        """Have nothing to say."""
        return ()

    def cut_share(self, max_length: int) -> float:
        """Cut nothing."""
        return 0.0

    def dimensions(self, max_length: int) -> Dimensions:
        """Return that a trial has sixty steps of eight texts, of a token each."""
        return Dimensions(train_rows=480, layers=12)

    def measure(self, hyperparameters: object, most_seconds: float) -> Measurement:
        """Choose fp32."""
        return Measurement(fp32_seconds=1.0, bf16_seconds=1.0, difference=0.0, precision="fp32")

    def use(self, precision: str, slots: int | None = None) -> None:
        """Compute in anything."""

    def probe(self, hyperparameters: object, steps: int, most_seconds: float) -> Probe:
        """Promise what a trial takes, in one step for each of its own."""
        seconds = self._seconds / 60
        return Probe(
            feasible=True, micro_batch_size=None, seconds_per_step=seconds, seconds_per_scored_row=0.0,
            timed=(messages.Timed(trained_tokens=8, updates=1, seconds=seconds),),
            peak_memory_bytes=0, checkpoint_bytes=0, weights_bytes=0, first_loss=0.69,
        )  # fmt: skip

    def has_weights(self, report: Report) -> bool:
        """Keep none."""
        return False

    def admit(self, assignment: Assignment) -> None:
        """Begin the clock."""
        self._assignment, self._began, self._reported = assignment, time.monotonic(), 0
        self._asked, self._best = Action.CONTINUE, None

    def apply(self, decision: Decision) -> None:
        """Remember what is asked."""
        if self._assignment is not None and decision.trial == self._assignment.trial:
            self._asked = decision.action if decision.action is not Action.CONTINUE else self._asked

    def advance(self) -> list[Report | Outcome]:
        """Sleep until the next milestone, and report it; at the last one end."""
        assignment = self._assignment
        assert assignment is not None
        if self._asked is not Action.CONTINUE:
            return [self._ended(Ending.PAUSED if self._asked is Action.PAUSE else Ending.PRUNED)]
        milestone = assignment.milestones[self._reported]
        due = self._began + self._seconds * milestone.rung / assignment.milestones[-1].rung
        time.sleep(max(0.0, due - time.monotonic()))
        self._reported += 1
        report = self._report(assignment)
        last = self._reported == len(assignment.milestones)
        return [report, self._ended(Ending.COMPLETED)] if last else [report]

    def drop(self, trial: int) -> None:
        """Forget it."""
        self._assignment = None

    def close(self) -> None:
        """Release no rank: there is one."""

    def _report(self, assignment: Assignment) -> Report:
        milestone = assignment.milestones[self._reported - 1]
        score = 0.5 + milestone.rung / 4000 + assignment.seed % 1000 / 10000
        report = Report(
            trial=assignment.trial, attempt=assignment.attempt, rung=milestone.rung, full=milestone.full, decides=True,
            step=milestone.rung, epoch=1.0, examples_seen=milestone.rung, learning_rate=1e-3, train_loss=0.5,
            validation=Scores(metric="macro_f1", values={"macro_f1": score, "loss": 0.5}, rows=10),
            seconds=time.monotonic() - self._began, peak_memory_bytes=0,
        )  # fmt: skip
        self._best = report if milestone.full else self._best
        return report

    def _ended(self, ending: Ending) -> Outcome:
        assignment, self._assignment = self._assignment, None
        assert assignment is not None
        return Outcome(
            trial=assignment.trial, attempt=assignment.attempt, ending=ending, best=self._best,
            seconds=time.monotonic() - self._began, peak_memory_bytes=0,
        )  # fmt: skip


def open_timed(config: StudyConfig, splits: Splits, files: Path, **_: Any) -> Timed:
    """Open a worker whose trials take as long as the file `timed.json` in `files` says."""
    return Timed(files)
