"""Ray set-up: environment variables, the cluster's address and installation are checked before Ray is imported."""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError
from hpo.runners.ray.resources import Machine
from hpo.runners.worker_pool import WorkerPool

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # A thread of Tune's that is late at the end must not start a Ray of its own.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # The output of raylets goes to Ray's own logs, not between our lines: of a machine that dies that is a page.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Many workers may start at once, and what Tune would restore from need not be written.
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
}
"""Ray reads some of these when it is imported. What the user has set stays."""
MOST_PORT = 65535


def machines_at(address: str | None) -> Sequence[Machine]:
    """Return what the machines of a cluster offer: see `hpo.runners.ray.connection`.

    Raises:
        ConfigurationError: Ray is not installed, or there is no cluster.
    """
    set_up_ray()
    from hpo.runners.ray.connection import joined_cluster, machines_of_cluster

    with joined_cluster(address):
        return machines_of_cluster()


def open_ray_tune(
    config: StudyConfig, splits: Splits, files: Path, is_ending: Callable[[], bool]
) -> AbstractContextManager[WorkerPool]:
    """Set Ray up, and open a worker pool on its cluster: see `hpo.runners.ray.tune_launcher`.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    set_up_ray()
    from hpo.runners.ray.tune_launcher import open_ray_tune as opened

    return opened(config, splits, files, is_ending)


def refuse_unusable(compute: ComputeConfig) -> None:
    """Refuse, before anything else is read or loaded, a cluster that cannot be used.

    Raises:
        ConfigurationError: Ray is not installed, or nothing answers at the cluster's address.
    """
    if compute.runner == "ray_tune":
        set_up_ray()
        refuse_unusable_address(compute.ray_address)


def set_up_ray() -> None:
    """Set Ray's environment variables, before it is imported.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if any(find_spec(name) is None for name in ("ray", "pyarrow", "pandas")):
        raise ConfigurationError(
            "compute.runner is ray_tune, which needs Ray; pip install 'llm-hpo[ray]' on all machines of the cluster."
        )


def refuse_unusable_address(address: str | None) -> None:
    """Refuse at once an address that Ray would try for most of a minute, with warnings in between.

    Raises:
        ConfigurationError: it is no address of a cluster, or nothing answers there.
    """
    if address is None or address == "auto":
        return
    if "://" in address:
        raise ConfigurationError(
            f"compute.ray_address is {address}, which goes through Ray Client; start the search on a machine of the "
            "cluster, with auto or HOST:PORT of its head."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MOST_PORT:
        raise no_cluster(address, "it is not HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise no_cluster(address, error.strerror or str(error)) from None


def no_cluster(address: str | None, reason: str) -> ConfigurationError:
    """Return the error of an address without a cluster."""
    return ConfigurationError(
        f"There is no Ray cluster at {address or 'this machine'}: {reason.rstrip('.')}. Give compute.ray_address as "
        "auto or HOST:PORT of its head, such as 10.0.0.1:6379, or leave it out to start Ray on this machine."
    )
