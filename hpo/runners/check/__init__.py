"""Checks before the first trial: a few steps at the extremes of the space, forecasts from them, and warnings.

To add a warning: a function in `warnings.py`, and its line in `check.py`.
"""
