"""Nights on a virtual clock: the curves they follow, what goes wrong in them, and how settings compare over them.

`replay.py` above is the workforce. To add a kind of curves: a class with `curve` and `true_score`, as `curves.Source`
says, and its word in `hpo simulate --curves`.
"""
