"""Verdict: whether the winner of a search is better than others, and with what confidence. Trains and writes nothing.

To add a finding, write a pure function over `hpo.store.results.StudyResults` in its own file, and call it from
`judgement.py` or `advice.py`.
"""
