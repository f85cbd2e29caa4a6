"""Task configuration and task facts, torch-free: properties of tasks for study files, spaces and reports."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hpo.config.parsing import Typed


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """Properties of a task: settings without an effect, output columns, metric of slices, expected first loss."""

    key: str = "task.name"
    """Key of a study file that selects the task."""
    without: str = ""
    """Concept that the task lacks, such as `classes`; settings about it have no effect."""
    unused: tuple[str, ...] = ()
    """Dotted keys of a study file without an effect."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameter without an effect -> the value that it keeps."""
    method: str = ""
    """Value of the hyperparameter `method` that the task does not support; empty if it supports all."""
    predicted: tuple[str, ...] = ("prediction", "probability")
    """Names of the columns with predictions."""
    slices: tuple[str, ...] = ("f1", "macro_f1")
    """Metrics for slices of the rows; the first that a study has is used."""
    first_loss: Callable[[int], float | None] = lambda _: None
    """Function from the number of labels to the expected loss of an untrained head; None if it is unknown."""


LABEL_SET_KEYS = ("data.label_columns", "data.label_separator", "task.thresholds")
"""Keys of a study file for tasks with sets of labels."""
TASK_FACTS: Mapping[str, TaskFacts] = {
    "classification": TaskFacts(
        without="sets of labels",
        unused=LABEL_SET_KEYS,
        first_loss=math.log,
    ),
    "label_words": TaskFacts(
        key="task.head",
        without="weights drawn anew",
        fixed={"head_rate": 1.0, "head_scale": None},
        method="head",
        # No first loss, because the pretrained model's answers are unknown.
    ),
    "regression": TaskFacts(
        without="classes",
        unused=("data.rare_labels", "task.beta", "task.positive_label", *LABEL_SET_KEYS),
        fixed={"label_smoothing": 0.0, "class_weights": "equal"},
        predicted=("prediction",),
        slices=("neg_rmse",),
        # No first loss, because that of a few rows varies widely.
    ),
    "multi_label": TaskFacts(
        without="positive class",
        unused=("task.beta", "task.positive_label"),
        slices=("micro_f1",),
        first_loss=lambda labels: labels * math.log(2),
    ),
}
"""Name of a task -> its facts."""


def facts_of(configuration: Mapping[str, Any]) -> TaskFacts:
    """Return the facts of the task in a stored study's configuration."""
    task = configuration.get("task", {})
    head = task.get("head")
    return TASK_FACTS[head if head in TASK_FACTS else task.get("name", "classification")]


def unused_hyperparameters(task: str, values: Mapping[str, Any]) -> list[str]:
    """Return the names among `values` (hyperparameter -> value) that have no effect under a task."""
    fixed, method = TASK_FACTS[task].fixed, TASK_FACTS[task].method
    return [
        name
        for name, value in values.items()
        if (name in fixed and value != fixed[name]) or (name == "method" and value == method)
    ]


def unused_sentence(task: str, names: Iterable[str]) -> str:
    """Return a sentence that settings with these names have no effect under a task, with the remedy."""
    facts = TASK_FACTS[task]
    settings = [f"method {facts.method}" if name == "method" else name for name in names]
    return f"{facts.key} is {task}, which has no {facts.without}: leave out {', '.join(settings)}."


def _text_of_scalar(value: Any) -> Any:
    # YAML reads labels such as 1 and true as numbers and truth values.
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value


def _with_texts(words: Any) -> Any:
    if not isinstance(words, dict):
        return words
    return {_text_of_scalar(label): _text_of_scalar(word) for label, word in words.items()}


PLACEHOLDERS = {"{text}", "{pair}", "{labels}"}


def _prompt(prompt: str) -> str:
    # Other braces, as of JSON, are text.
    counts = Counter(re.findall(r"\{\w+\}", prompt))
    wrong = counts["{text}"] != 1 or max(counts.values()) > 1 or not counts.keys() <= PLACEHOLDERS
    if wrong or prompt.rstrip().endswith(("{text}", "{pair}")):
        raise ValueError(
            f"'task.prompt' is {prompt!r}, but it holds {{text}} once, {{pair}} and {{labels}} at most once, nothing "
            "else like these, and ends with words that ask for the label, as in 'Text: {text} Topic:'."
        )
    return prompt


class TaskConfig(Typed):
    """Task and metric."""

    name: Literal["classification", "regression", "multi_label"] = "classification"
    """What is predicted for each text: one label, a number, or any number of labels."""
    head: Literal["classifier", "label_words"] = "classifier"
    """`classification`: what computes the probability of each label. `classifier` is a newly initialised layer on the
    pretrained model. `label_words` is the language-model head of a decoder or masked model: it scores the word of each
    label as the continuation of a prompt, so no weights are newly initialised."""
    prompt: Annotated[str, AfterValidator(_prompt)] | None = None
    """`label_words`: the plain-text prompt made from each row; the word of a label follows it, after a space. `{text}`
    is the text, `{pair}` the second text if there is one, `{labels}` a list of the labels. It may contain special
    tokens, such as those of a chat template. Null for `Text: {text}`, a line break and `Category:`, preceded by a list
    of the labels if these are answered by letters. Of an example that is too long, the text is cut, never the
    prompt."""
    label_words: Annotated[dict[str, str], BeforeValidator(_with_texts)] = Field(default_factory=dict)
    """`label_words`: the word or words of each label, which follow the prompt. By default they are the labels
    themselves, with spaces for `_`. They are letters instead (A, B, C; numbers if there are more than 26 labels) if
    there are more than 8 labels or a label has more than 4 tokens, unless `prompt` is given without `{labels}`. In a
    masked model each word must be one token, in place of the mask token; if a label has more, all are letters."""
    metric: str = "auto"
    """The metric that is maximised. `auto` is F1 of the positive class for two classes, macro F1 for more, `pearson`
    for a regression, micro F1 for `multi_label`. `module:function` calls your own function with the true and the
    predicted labels or numbers (not for `multi_label`)."""
    beta: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Weight of recall relative to precision in `fbeta` and its averages over classes."""
    positive_label: Annotated[str, BeforeValidator(_text_of_scalar)] | None = None
    """The positive label of two. Null for the larger of two numbers, or true, yes, positive, pos or spam, or otherwise
    the label that is rarer in training."""
    thresholds: Literal["one", "per_label"] = "one"
    """`multi_label`: the probability above which a label is predicted, fitted on validation (on training rows if
    winners are judged on validation): `one` for all labels by pooled F1, or `per_label` by the F1 of each."""

    @property
    def kind(self) -> str:
        """Key of the task in `TASK_FACTS`: `label_words` for that head, otherwise `name`."""
        return self.name if self.head == "classifier" else self.head

    @model_validator(mode="after")
    def _head_fits(self) -> Self:
        if self.head == "label_words" and self.name != "classification":
            raise ValueError(
                f"task.head is label_words, which gives each text one of some labels, but task.name is {self.name}; "
                "leave one of the two out."
            )
        if self.head == "classifier" and (self.prompt is not None or self.label_words):
            raise ValueError("task.prompt and task.label_words are for task.head label_words; give that, or neither.")
        return self
