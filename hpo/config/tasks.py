"""Task facts, torch-free: what the study file, the space and a report must know of each task."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What has no meaning for a task, and what is expected of it."""

    key: str = "task.name"
    """The key of a study file that chooses it."""
    without: str = ""
    """What it has none of, so that keys and hyperparameters that are about it mean nothing."""
    unused: tuple[str, ...] = ()
    """Such keys of a study file, dotted."""
    fixed: Mapping[str, Any]
    """Such hyperparameters -> the value that each keeps."""
    method: str = ""
    """Such a value of the hyperparameter `method`."""
    predicted: tuple[str, ...]
    """Columns in which predictions are written."""
    slices: tuple[str, ...]
    """What rows that have something in common are scored by: the first of these metrics that a study has."""
    first_loss: Callable[[int], float | None]
    """The loss of a head that knows nothing yet, of so many labels; None where it is not known."""


LABEL_SET_KEYS = ("data.label_columns", "data.label_separator", "task.thresholds")
"""Keys about sets of labels."""
TASK_FACTS: Mapping[str, TaskFacts] = {
    "classification": TaskFacts(
        without="sets of labels",
        unused=LABEL_SET_KEYS,
        fixed={},
        predicted=("prediction", "probability"),
        slices=("f1", "macro_f1"),
        first_loss=math.log,
    ),
    "label_words": TaskFacts(
        key="task.head",
        without="weights drawn anew",
        fixed={"head_rate": 1.0, "head_scale": None},
        method="head",
        predicted=("prediction", "probability"),
        slices=("f1", "macro_f1"),
        # What the pretrained model says of the labels may be anything.
        first_loss=lambda _: None,
    ),
    "regression": TaskFacts(
        without="classes",
        unused=("data.rare_labels", "task.beta", "task.positive_label", *LABEL_SET_KEYS),
        fixed={"label_smoothing": 0.0, "class_weights": "equal"},
        predicted=("prediction",),
        slices=("neg_rmse",),
        # That of the first rows: theirs may lie anywhere.
        first_loss=lambda _: None,
    ),
    "multi_label": TaskFacts(
        without="positive class",
        unused=("task.beta", "task.positive_label"),
        fixed={},
        predicted=("prediction", "probability"),
        slices=("micro_f1",),
        first_loss=lambda labels: labels * math.log(2),
    ),
}
"""Name of a task -> its facts."""


def facts_of(configuration: Mapping[str, Any]) -> TaskFacts:
    """Return the facts of the task of a stored study."""
    task = configuration.get("task", {})
    head = task.get("head")
    return TASK_FACTS[head if head in TASK_FACTS else task.get("name", "classification")]


def unused_hyperparameters(task: str, values: Mapping[str, Any]) -> list[str]:
    """Return which of these hyperparameters have another value than the one that they keep under a task."""
    fixed, method = TASK_FACTS[task].fixed, TASK_FACTS[task].method
    return [
        name
        for name, value in values.items()
        if (name in fixed and value != fixed[name]) or (name == "method" and value == method)
    ]


def unused_sentence(task: str, names: Iterable[str]) -> str:
    """Say that what has these names means nothing to a task, and what to do."""
    facts = TASK_FACTS[task]
    said = [f"method {facts.method}" if name == "method" else name for name in names]
    return f"{facts.key} is {task}, which has no {facts.without}: leave out {', '.join(said)}."
