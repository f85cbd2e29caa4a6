"""Runner `processes`: a launcher of worker processes, their protocol, and the process itself.

`launcher.py` is the parent's side, `worker_process.py` the process. To add a message: a class in `protocol.py`, which
`remote_worker_pool.py` or `worker_process.py` handles.
"""
