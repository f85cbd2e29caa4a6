"""What is learned: how a task loads its model, its targets, its loss, its predictions and its scores.

To add a task: a file with a class shaped like `protocol.Task`, its line in `TASKS` of `registry.py`, how it takes the
label column in `hpo/data/targets.py`, and its name in `TaskConfig`.
"""
