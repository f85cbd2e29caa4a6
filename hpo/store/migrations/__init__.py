"""Migrations: versions of our tables, by Alembic; Optuna migrates its own.

To add one: a file in `versions/` with the next number, whose `down_revision` is the newest one's `revision`, and the
same change in `hpo/store/tables.py`, of which a new store is made.
"""
