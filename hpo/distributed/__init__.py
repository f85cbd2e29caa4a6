"""Distributed training of one trial: the ranks of its process group."""
