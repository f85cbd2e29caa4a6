"""Verdict: whether the winner of a search is better than others, and how sure that is. Trains and writes nothing.

To add a figure, write a pure function over `hpo.store.results.StudyResults` in a file of its own, and have
`judgement.py` or `advice.py` say it.
"""
