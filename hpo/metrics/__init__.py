"""Metrics: pure functions from true targets and predictions to scores; higher is better.

To add a metric of classification: its entry in `METRICS` of `classification.py`, any new counts in `confusion.py`, its
formula in `docs/metrics.md`, and its known answer in the tests.
"""
