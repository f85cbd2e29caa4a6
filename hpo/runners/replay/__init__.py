"""Simulated searches on a virtual clock: learning curves, workers that replay them, and the comparison of settings.

To add a kind of curves: a class with `curve` and `true_score`, as `curves.CurveSource` says, and its word in
`hpo simulate --curves`.
"""
