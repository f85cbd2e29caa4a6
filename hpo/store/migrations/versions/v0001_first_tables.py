"""First tables. A new store is made at the newest version; see `upgrade.py`."""

revision = "0001"
down_revision = None
