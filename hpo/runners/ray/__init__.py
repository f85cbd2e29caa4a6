"""Runner `ray_tune`: Ray Tune places workers on the machines of a cluster, and the dispatch keeps them busy.

A trial of Tune's is a *cluster worker*: a warm worker that trains one of our trials after another. So Ray decides
where there is room, also for the ranks of a trial, and notices what dies; the coordinator alone decides what is
trained, pruned and stored, and between two trials nothing waits for Tune. Tune's own retries, loggers, checkpoints and
restoring are off: the study's store is the truth.

Nothing else imports Ray; `hpo.runners.ray.setup` sets it up.
"""
