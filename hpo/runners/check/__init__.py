"""What is known before the first trial: a few steps at the ends of the space, what they promise, what looks wrong.

To add a doubt: a function in `doubts.py`, and its call in `check.py` above.
"""
