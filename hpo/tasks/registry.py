"""Registry of tasks."""

from collections.abc import Mapping
from typing import Any

from hpo.config.study_file import TaskConfig
from hpo.data.splits import Splits
from hpo.tasks.classification import Classification
from hpo.tasks.multi_label import MultiLabel
from hpo.tasks.protocol import Task
from hpo.tasks.regression import Regression

TASKS: Mapping[str, type[Task[Any]]] = {
    "classification": Classification,
    "regression": Regression,
    "multi_label": MultiLabel,
}


def task_of(config: TaskConfig, splits: Splits) -> Task[Any]:
    """Return the task of a study for its data; raises what `Task.of` does."""
    return TASKS[config.name].of(config, splits.train.labels)
