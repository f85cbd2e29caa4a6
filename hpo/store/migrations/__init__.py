"""Versions of our tables, as Alembic migrations; Optuna migrates its own.

To add one: a file in `versions/` with the next number, whose `down_revision` is the newest one's `revision`.
"""
