"""The search: who leads a study, what is tried next, what is given up, and what is recorded of it.

`coordinator.py` is the heart: three verbs over the store. To add a sampler or a pruner: one entry in `samplers.py` or
`pruners.py`, its name in `SearchConfig`, a test of what it proposes or gives up.
"""
