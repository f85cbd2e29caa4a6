"""Training, from an assignment to reports: optimizers, schedules, regularisation, training loop and worker.

To add an optimizer, a schedule or a method: its name in `hpo.config.hyperparameters`, one function and one line in the
literal dict of `optimizers.py`, `schedules.py` or `hpo/model/methods.py`, and its known answer in a test.
"""
