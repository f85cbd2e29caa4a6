"""Optuna's own storage suite on what `open_database` hands to Optuna: outside our transactions it is plain Optuna."""

import gc
from collections.abc import Iterator

import pytest
from optuna.storages import RDBStorage
from optuna.testing.pytest_storages import StorageTestCase

from hpo.store.database import open_database


class TestSQLite(StorageTestCase):
    @pytest.fixture
    def storage(self, sqlite_url: str) -> Iterator[RDBStorage]:
        database = open_database(sqlite_url)
        yield database.storage
        database.close()


# The suite leaves a copy that it has unpickled unclosed, which psycopg warns of when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class OnPostgreSQL:
    @pytest.fixture
    def storage(self, postgresql_url: str) -> Iterator[RDBStorage]:
        database = open_database(postgresql_url)
        yield database.storage
        database.close()
        gc.collect()


@pytest.mark.slow
class TestPostgreSQL(OnPostgreSQL, StorageTestCase):
    """All of the suite."""


class TestPostgreSQLBriefly(OnPostgreSQL):
    """What the coordinator uses."""

    test_create_new_study_with_name = StorageTestCase.test_create_new_study_with_name
    test_create_new_trial = StorageTestCase.test_create_new_trial
    test_set_trial_param = StorageTestCase.test_set_trial_param
    test_set_trial_user_attr = StorageTestCase.test_set_trial_user_attr
    test_pickle_storage = StorageTestCase.test_pickle_storage
