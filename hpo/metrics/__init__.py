"""Metrics: pure functions from true targets and predictions to scores, of which more is better.

To add a metric of classification: its entry in `METRICS` of `classification.py`, what it is computed from in
`confusion.py` where that is not there yet, its formula in `docs/metrics.md`, and its known answer in the tests.
"""
