"""A worker process from both sides: its parent's handle on it, what they say to each other, and what it does.

`processes.py` above keeps several of them. To add something that they say: a message in `conversation.py`, which
`child.py` (the parent) or `service.py` (the process) takes in.
"""
