"""What a model scored: pure functions from true classes and predicted probabilities to numbers, more being better.

To add a score of classification: its entry in `METRICS` of `classification.py`, what it is computed from in `tally.py`
where that is not there yet, its formula in `docs/metrics.md`, and its known answer in the tests.
"""
