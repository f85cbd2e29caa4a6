"""Connection to a Ray cluster: a running one, or one that is started for a search."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray.exceptions import RayError

from hpo.errors import ConfigurationError
from hpo.runners.ray.setup import Machine, no_cluster, refuse_unusable_address
from hpo.store.secrets import secret_names

LEAST_VERSION = (2, 52)
"""Oldest allowed Ray: before it, a web page in a browser could run code on the cluster (CVE-2025-62593)."""

SECONDS_TO_ANSWER = 5.0
"""Seconds to wait for a machine that is asked whether it is alive."""


def machines_of_cluster() -> list[Machine]:
    """Return the total resources of each machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def is_alive(machine: str) -> bool:
    """Return true if the machine with this id answers; Ray itself reports a lost machine only many seconds later."""
    node = next((node for node in ray.nodes() if node["NodeID"] == machine and node["Alive"]), None)
    if node is None:
        return False
    with suppress(OSError):
        address = node["NodeManagerAddress"], node["NodeManagerPort"]
        socket.create_connection(address, timeout=SECONDS_TO_ANSWER).close()
        return True
    return False


@contextmanager
def joined_cluster(address: str | None, store: str = "") -> Iterator[None]:
    """Connect to the Ray cluster at `address`, or start one on this machine that ends with the block.

    Args:
        address: `auto` for the cluster that this machine is part of, HOST:PORT of a cluster's head, or None.
        store: URL of the store, whose password is hidden from the processes of a cluster that is started here.

    Raises:
        ConfigurationError: there is no cluster at the address, this process is part of another one, or the installed
            Ray is not safe.
    """
    refuse_unusable_address(address)
    _refuse_unsafe()
    if ray.is_initialized():
        _refuse_other_cluster(address)
        # The caller, such as a notebook, has connected and keeps the connection.
        yield
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _without_password(store):
            local = {} if address else {"include_dashboard": False}
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        reason = "none runs here" if address == "auto" else str(error).strip().partition("\n")[0]
        raise no_cluster(address, reason) from None
    if threading.current_thread() is threading.main_thread():
        # Ray has replaced the handler of the command line.
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_other_cluster(address: str | None) -> None:
    """Raise ConfigurationError if this process is connected to another cluster than the requested one."""
    here = ray.get_runtime_context().gcs_address
    if address is None or address in ("auto", here):
        return
    host, _, port = address.rpartition(":")
    with suppress(OSError):
        if here == f"{socket.gethostbyname(host)}:{port}":
            return
    raise ConfigurationError(
        f"compute.ray_address is {address}, but this process is already part of the cluster at {here}; leave "
        "compute.ray_address out, or call ray.shutdown() first."
    )


def _refuse_unsafe() -> None:
    if tuple(map(int, ray.__version__.split(".")[:2])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise ConfigurationError(
            f"Ray {ray.__version__} is installed, but before {least} a web page in a browser could run code on the "
            f"cluster (CVE-2025-62593); pip install 'ray[tune]>={least}' on all its machines."
        )


@contextmanager
def _without_password(store: str) -> Iterator[None]:
    """Remove the store's password from the environment that started processes inherit."""
    hidden = {name: os.environ[name] for name in secret_names(os.environ, store)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ |= hidden
