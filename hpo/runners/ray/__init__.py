"""Runner `ray_tune`: Ray Tune places workers on the machines of a cluster, and the dispatch keeps them busy.

A Tune trial is a *cluster worker*: it stays open and trains trials of the study one after another. Ray places workers,
also the ranks of a trial, and notices processes that die. The coordinator alone decides which trials are trained,
pruned and stored, and no trial waits for Tune. Tune's retries, loggers, checkpoints and restoring are off, because the
study's store holds the state of the search.

No other package imports Ray; `hpo.runners.ray.setup` sets it up.
"""
