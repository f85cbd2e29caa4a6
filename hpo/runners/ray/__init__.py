"""Trials on a Ray cluster: Ray Tune places workers on its machines, and the dispatch keeps them busy.

A trial of Tune's is a *lane*: a warm worker that trains one of ours after another. So Ray decides where there is room,
also for gangs, and notices what dies; what is trained, given up and stored our coordinator alone decides, and between
two trials nothing waits for Tune. Tune's own retries, loggers, checkpoints and restoring are off: the study's store is
the truth.

Nothing else imports Ray; `hpo.runners.ray.setup` sets it up.
"""
