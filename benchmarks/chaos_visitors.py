"""Other users of a store during a search: they read all of it like Optuna's dashboard, or enqueue trials by Optuna.

Run: python benchmarks/chaos_visitors.py read|enqueue URL STUDY FILE    (until FILE is there)
"""

import sys
import time
from pathlib import Path

import optuna

PAUSES = {"read": 0.05, "enqueue": 1.0}
"""Seconds between two visits."""


def main() -> None:
    """Visit over and over; say how often."""
    task, url, study, enough = sys.argv[1:]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(url)
    visits = 0
    while not Path(enough).exists():
        if task == "read":
            read(storage)
        else:
            enqueue(storage, study)
        visits += 1
        time.sleep(PAUSES[task])
    print(visits)


def read(storage: optuna.storages.RDBStorage) -> None:
    """Read every study and every trial."""
    for study in storage.get_all_studies():
        storage.get_all_trials(study._study_id)


def enqueue(storage: optuna.storages.RDBStorage, study: str) -> None:
    """Have the newest trial's parameters tried once more."""
    opened = optuna.load_study(study_name=study, storage=storage)
    newest = [trial for trial in opened.trials if trial.params]
    if newest:
        opened.enqueue_trial(newest[-1].params)


if __name__ == "__main__":
    main()
