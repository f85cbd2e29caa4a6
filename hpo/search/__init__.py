"""Search: the leader of a study, its proposals, pruning, budget and records.

`coordinator.py` is the heart: three verbs over the store. To add a sampler or a pruner: one entry in `samplers.py` or
`pruners.py`, its name in `SearchConfig`, a test of what it proposes or prunes.
"""
