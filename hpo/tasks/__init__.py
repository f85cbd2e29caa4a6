"""What is learned: how a task loads its model, its loss, its probabilities and its scores.

To add a task: a file with a class shaped like `Classification`, its line in `TASKS`, and its name in `TaskConfig`.
"""

from hpo.tasks.classification import Classification

Task = Classification
"""Any of the tasks."""

TASKS: dict[str, type[Task]] = {"classification": Classification}
