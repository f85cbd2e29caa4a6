"""Tasks: what is learned, and how a model, its targets, its loss, its predictions and its scores are made of that.

To add a task: a file with a class shaped like `protocol.Task`, its line in `TASKS` of `registry.py`, how it takes the
label column in `hpo/data/labels.py`, and its name in `TaskConfig`.
"""
