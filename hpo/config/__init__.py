"""Typed configuration, torch-free: the study file and one trial's hyperparameters.

To add a hyperparameter: a field with its docstring in `hyperparameters.py`, its use in `hpo.training`, its known
answer in a test, and a line in a shipped space.
"""
