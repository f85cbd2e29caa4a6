"""Where a Ray cluster is said to be: looked at before Ray is, which would try for most of a minute."""

import socket

from hpo.errors import ConfigurationError

MOST_PORT = 65535


def refuse_unusable_address(address: str | None) -> None:
    """Refuse at once what Ray would try for long, with warnings in between.

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
    """Return the error of an address at which there is none."""
    return ConfigurationError(
        f"There is no Ray cluster at {address or 'this machine'}: {reason.rstrip('.')}. Give compute.ray_address as "
        "auto or HOST:PORT of its head, such as 10.0.0.1:6379, or leave it out to start Ray on this machine."
    )
