"""The study store: Optuna's tables and ours in one SQL database, written in one transaction.

`engine.py` opens a database, `tables.py` and `migrations/` define our tables, `studies.py` writes them during a search
and `results.py` reads them after it. To add a column: a migration in `migrations/versions`, the column in `tables.py`,
its use in those two.
"""
