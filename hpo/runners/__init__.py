"""Runners, which carry assignments to workers and their messages back to the coordinator; they decide nothing.

To add one: a class that is a `worker_pool.WorkerPool`, a context manager that opens it, its name in
`ComputeConfig.runner` and in `run.OPENERS`.
"""
