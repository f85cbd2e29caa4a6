"""Versions of our tables, one numbered file each."""
