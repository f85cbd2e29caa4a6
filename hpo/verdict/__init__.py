"""What a search has shown: whether its winner is really better, and than what. It trains nothing and writes nothing.

To add a figure of it, write a pure function over `hpo.store.results.StudyResults` in a file of its own, and have
`judgement.py` or `advice.py` say it.
"""
