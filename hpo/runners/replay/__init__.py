"""Simulated searches on a virtual clock: learning curves, workers that replay them, and the comparison of settings.

To add a source of curves: a class with the two methods of `curves.CurveSource`, and its name in `hpo simulate --curves`
(`hpo/cli/simulate.py`).
"""
