"""Runners carry assignments to workers and their messages back to the coordinator; they decide nothing.

To add one: a file with `run(coordinator, worker, watcher, stop)`, its name in `ComputeConfig.runner` and
in `run.RUNNERS`.
"""
