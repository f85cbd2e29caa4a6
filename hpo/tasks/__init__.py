"""Tasks: the targets, loss, predictions and scores of each kind of task, and the head of its model.

To add a task: a file with a class that implements `protocol.Task`, its entry in `TASKS` of `registry.py`, its target
type in `hpo/data/labels.py`, and its name in `TaskConfig`.
"""
