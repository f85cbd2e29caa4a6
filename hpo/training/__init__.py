"""From an assignment to reports: models, methods, optimizers, schedules, regularisation, loop, pack and worker.

To add an optimizer, a schedule or a method: its name in `hpo.config.hyperparameters`, one function and one line in the
literal dict of `optimizers.py`, `schedules.py` or `methods.py`, and its known answer in a test.
"""
