"""Runner `processes`: a carrier of worker processes, their protocol, and the process itself.

`carrier.py` keeps several workers; `child.py` is the parent's side of one, `service.py` the process. To add a message:
a class in `protocol.py`, which `remote_workforce.py` or `service.py` handles.
"""
