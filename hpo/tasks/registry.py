"""Registry of tasks."""

from collections.abc import Mapping
from typing import Any

from hpo.config.tasks import TaskConfig
from hpo.data.splits import Splits
from hpo.tasks.classification import Classification
from hpo.tasks.label_words import LabelWords, with_prompt
from hpo.tasks.multi_label import MultiLabel
from hpo.tasks.protocol import Task
from hpo.tasks.regression import Regression

TASKS: Mapping[str, type[Task[Any]]] = {
    "classification": Classification,
    "regression": Regression,
    "multi_label": MultiLabel,
    "label_words": LabelWords,
}
"""Name of a task -> its class."""


def task_of(config: TaskConfig, splits: Splits) -> Task[Any]:
    """Return the task of a study for its data; raises as `Task.of` does."""
    if config.kind == "label_words":
        config = with_prompt(config, pairs=splits.train.pairs is not None)
    return TASKS[config.kind].of(config, splits.train.labels)
