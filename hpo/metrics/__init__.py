"""What a model scored: pure functions from true and predicted classes to numbers in 0..1.

To add a score of classification: its name and definition in `METRICS` of `classification.py`, its formula in
`classification_scores` and in `docs/metrics.md`, and its independent reference in the tests.
"""
