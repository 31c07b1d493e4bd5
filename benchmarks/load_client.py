"""Requests to many listeners from one process of its own, and how long their answers took.

Run inside a network namespace as `python -m benchmarks.load_client`: an `Order` as JSON comes by
standard input, a `Result` goes to standard output. All connections are made first, and kept.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.report import percentile
from lab.http import Tls
from lab.network import Namespace

_REQUEST = b"GET / HTTP/1.1\r\nHost: site\r\n\r\n"
_PATIENCE = 30.0


@dataclass(frozen=True)
class Order:
    """`ports` are visited by turns, those in `encrypted` over TLS. Without a `rate` (requests a
    second, of all connections together) each connection asks again as soon as it has its answer."""

    address: str
    ports: Sequence[int]
    encrypted: Sequence[int]
    connections: int
    seconds: float
    rate: float | None = None


@dataclass(frozen=True)
class Result:
    """`own_cpu`: what the client itself took of one processor, 0 to 1. Latencies in ms."""

    answers: int
    seconds: float
    own_cpu: float
    p50: float
    p90: float
    p99: float


def visit(namespace: Namespace, order: Order, *, python: str = sys.executable) -> Result:
    """Carry out an order in a namespace, in a process of its own."""
    done = namespace.run(
        [python, "-m", "benchmarks.load_client"],
        timeout=order.seconds + 2 * _PATIENCE,
        stdin=json.dumps(asdict(order)),
    )
    return Result(**json.loads(done.stdout))


class _Connection:
    """One kept connection; answers have a Content-Length."""

    def __init__(self, address: str, port: int, context: ssl.SSLContext | None) -> None:
        connection = socket.create_connection((address, port), timeout=_PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(connection) if context else connection
        self.socket.setblocking(False)
        self.asked_at = 0.0
        self._received = b""

    def ask(self) -> None:
        self.asked_at = time.perf_counter()
        self.socket.send(_REQUEST)

    def answered(self) -> bool:
        """Whether what there is to read completes the answer. Raises ConnectionError."""
        try:
            data = self.socket.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):  # of TLS alone, such as a session ticket
            return False
        if not data:
            raise ConnectionError("closed before the answer was complete")
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return False
        status, _, headers = head.lower().partition(b"\r\n")
        if not status.startswith(b"http/1.1 200"):
            raise ConnectionError(f"answered {status!r}")
        length = int(headers.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return False
        self._received = b""
        return True


def carry_out(order: Order) -> Result:
    """Raises OSError when anything but a complete answer of status 200 comes."""
    context = Tls().context()
    connections = [
        _Connection(order.address, port, context if port in order.encrypted else None)
        for port in (order.ports[n % len(order.ports)] for n in range(order.connections))
    ]
    latencies: list[float] = []
    poll = select.epoll()
    by_descriptor = {each.socket.fileno(): each for each in connections}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    idle = deque(connections)
    cpu, begun = time.process_time(), time.perf_counter()
    asked = 0
    while (now := time.perf_counter()) < begun + order.seconds:
        due = len(idle) if order.rate is None else int((now - begun) * order.rate) - asked
        for _ in range(min(due, len(idle))):
            idle.popleft().ask()
            asked += 1
        for descriptor, _ in poll.poll(0.001 if order.rate else 1):
            connection = by_descriptor[descriptor]
            if connection.answered():
                latencies.append(time.perf_counter() - connection.asked_at)
                idle.append(connection)
    seconds = time.perf_counter() - begun
    own_cpu = (time.process_time() - cpu) / seconds
    for connection in connections:
        connection.socket.close()
    in_ms = [latency * 1000 for latency in latencies] or [0.0]
    percentiles = (percentile(in_ms, percent) for percent in (50, 90, 99))
    return Result(len(latencies), seconds, own_cpu, *percentiles)


if __name__ == "__main__":
    print(json.dumps(asdict(carry_out(Order(**json.load(sys.stdin))))))
