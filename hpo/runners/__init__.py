"""Runners: they pass assignments to workers and messages back to the coordinator, and make no decisions.

To add one: a `worker_pool.WorkerPool`, a context manager that opens it, its name in `ComputeConfig.runner` and in
`run.OPENERS`.
"""
