"""Wait for haproxy: for the ports at which it is to listen, and for its worker to serve.

haproxy's own check does not try ports. And a reload that meets a busy one harms what runs: to help
the new worker, the master has the old one stop listening, at all its ports, for the two seconds in
which the new one tries again, and every client is refused meanwhile (2.6 to 3.0).
"""

import errno
import os
import socket
import time
from collections.abc import Iterable

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.config.queries import ListenAddress
from amphora_agent.haproxy.replies import Workers
from amphora_agent.haproxy.runtime.socket import MasterSocket, NoAnswer, NotListening, master_of
from amphora_agent.namespace import Namespace
from amphora_agent.paths import InstanceLayout
from amphora_agent.supervisor.contract import ProcessState, Supervisor

#: Seconds for a start or a reload to come up; the controller waits 60 for its answer.
_PATIENCE = 40.0
#: Seconds for one answer of a socket.
ANSWER = 5.0
#: Seconds between two looks at something that is coming up.
PAUSE = 0.002
#: Seconds that an address is given to become free, as haproxy itself gives it, and the pause
#: between two tries.
_PORT_PATIENCE, _PORT_PAUSE = 2.0, 0.05


def require_ports(namespace: Namespace, wanted: Iterable[ListenAddress]) -> None:
    """Return once every address can be bound in the namespace.

    Nothing listens there in the meantime, so nobody's connections come our way.

    Raises:
        OperationFailed: one cannot; the details say it as haproxy would.
    """
    left = sorted(wanted)
    if left:
        namespace.run(lambda: _await_all(left))


def _await_all(left: list[ListenAddress]) -> None:
    deadline = time.monotonic() + _PORT_PATIENCE
    while busy := [(address, number) for address in left if (number := _try(address))]:
        if time.monotonic() > deadline:
            raise OperationFailed(
                "Cannot listen",
                "\n".join(
                    f"cannot bind socket ({os.strerror(number)}) for [{host}:{port}]"
                    for (host, port), number in busy
                ),
            )
        left = [address for address, _ in busy]
        time.sleep(_PORT_PAUSE)


def _try(address: ListenAddress) -> int:
    """Return the number of the error that haproxy would meet; 0 for none. An error that is not
    about the address (our own rights, our own limits) says nothing about haproxy."""
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


def await_master(master: MasterSocket) -> Workers:
    """Return what the master says of its workers. One of 2.6 that comes up just now, by itself
    after a crash, hangs up first to execute itself anew.

    Raises:
        OperationFailed: it does not answer.
    """
    deadline = time.monotonic() + ANSWER
    while True:
        try:
            return replies.read_workers(master.command("show proc", timeout=ANSWER))
        except (NotListening, NoAnswer):
            if time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)


def await_worker(
    instance: InstanceLayout,
    supervisor: Supervisor,
    after: Workers | None = None,
    *,
    is_asked: bool = True,
) -> Workers:
    """Wait until a worker serves that was not there `after`. `is_asked`: the master is known to
    have been asked for it.

    Raises:
        OperationFailed: haproxy said that it failed, ended, or took too long.
    """
    master = master_of(instance)
    ask_deadline = time.monotonic() + ANSWER
    deadline = time.monotonic() + _PATIENCE
    next_look = 0.0
    while time.monotonic() < deadline:
        try:
            now = replies.read_workers(master.command("show proc", timeout=ANSWER))
            if after is not None and now.failed and now.reloads > after.reloads:
                raise OperationFailed("haproxy could not load the configuration")
            is_asked = is_asked or after is None or now.reloads > after.reloads
            if not is_asked and time.monotonic() > ask_deadline:
                raise OperationFailed("haproxy was not reached")
            if now.current is not None and (after is None or now.current != after.current):
                # A worker answers from the loop that accepts connections.
                master.command(f"@!{now.current} show version", timeout=ANSWER)
                return now
        except (NotListening, NoAnswer):
            # Not yet, or a master of 2.6 that executes itself anew. Or it is dead.
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 0.1
                if supervisor.state(instance.process) is not ProcessState.RUNNING:
                    raise OperationFailed("haproxy ended") from None
        time.sleep(PAUSE)
    raise OperationFailed("haproxy did not come up", f"no new worker in {_PATIENCE:g} s")
