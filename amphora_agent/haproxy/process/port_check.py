"""Whether haproxy will be able to listen, found out before it is asked to.

Its own check does not try. And a reload that meets a busy port harms what runs: to help the new
worker, the master has the old one stop listening, at all its ports, for the two seconds in which
the new one tries again, and every client is refused meanwhile (2.6 to 3.0).
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.config.queries import ListenAddress
from amphora_agent.namespace import Namespace

#: Seconds that an address is given to become free, as haproxy itself gives it, and the pause
#: between two tries.
_PATIENCE, _PAUSE = 2.0, 0.05


def require(
    namespace: Namespace,
    wanted: Iterable[ListenAddress],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Return once every address can be bound in the namespace.

    Nothing listens there in the meantime, so nobody's connections come our way.

    Raises:
        OperationFailed: one cannot; the details say it as haproxy would.
    """
    left = sorted(wanted)
    if left:
        namespace.run(lambda: _await_all(left, clock))


def _await_all(left: list[ListenAddress], clock: Callable[[], float]) -> None:
    deadline = clock() + _PATIENCE
    while busy := [(address, number) for address in left if (number := _try(address))]:
        if clock() > deadline:
            raise OperationFailed(
                "Cannot listen",
                "\n".join(
                    f"cannot bind socket ({os.strerror(number)}) for [{host}:{port}]"
                    for (host, port), number in busy
                ),
            )
        left = [address for address, _ in busy]
        time.sleep(_PAUSE)


def _try(address: ListenAddress) -> int:
    """0, or the number of the error that haproxy would meet; what is not about the address (our
    own rights, our own limits) says nothing about haproxy."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # As haproxy does it: its own sockets at this address are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            return error.errno
    return 0
