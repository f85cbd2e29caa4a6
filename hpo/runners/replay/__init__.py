"""Nights on a virtual clock: the curves they follow, what goes wrong in them, and how settings compare over them.

`workforce.py` replays them. To add a kind of curves: a class with `curve` and `true_score`, as `curves.CurveSource`
says, and its word in `hpo simulate --curves`.
"""
