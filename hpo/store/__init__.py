"""Store of studies: Optuna's tables and ours in one SQL database, written in one transaction.

`database.py` opens a database, `tables.py` and `migrations/` define our tables. `study_store.py` with `leases.py` and
`trials.py` writes them during a search; `results.py` and `status.py` read them. To add a column: a migration in
`migrations/versions`, the column in `tables.py`, its use in those.
"""
