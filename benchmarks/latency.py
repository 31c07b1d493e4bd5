"""How long `GET /1.0/info` and `GET /1.0/details` take, in milliseconds of wall time.

Asked one after the other by one client, in one TLS session and with a new one each. What a TLS
connection costs without any request stands beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.report import Column, Section, median, milliseconds, percentile
from benchmarks.scale import Scale
from benchmarks.testbed import Balancer, Testbed, deploy, make_testbed
from lab.http import Client
from lab.network import Namespace

_COLUMNS = (
    Column("what", "what"),
    Column("session", "session"),
    Column("runs", "runs"),
    Column("p50_ms", "p50, ms", 2),
    Column("p99_ms", "p99, ms", 2),
)

_PATHS = ("/1.0/info", "/1.0/details")


def measure(haproxy: Path, scale: Scale) -> Section:
    rows = []
    with make_testbed(haproxy) as bed:
        balancer = Balancer.of(scale.asked_listeners, scale.change_members, monitored=False)
        deploy(bed, balancer)
        with _client(bed, keep_alive=True) as kept, _client(bed, keep_alive=False) as fresh:
            for path in _PATHS:
                kept.get(path)  # what is looked up only once
                rows.append(_row(path, "one", scale.requests, partial(_ask, kept, path)))
                rows.append(_row(path, "new each", scale.sessions, partial(_ask, fresh, path)))
        rows.append(_row("TLS handshake", "new each", scale.sessions, _handshake(bed)))
    return Section(
        "latency",
        "Answers (wall time)",
        _COLUMNS,
        tuple(rows),
        notes=(f"one load balancer of {scale.asked_listeners} listeners is configured and runs",),
    )


def _row(what: str, session: str, runs: int, action: Callable[[], None]) -> dict[str, object]:
    samples = []
    for _ in range(runs):
        begun = time.perf_counter()
        action()
        samples.append(milliseconds(time.perf_counter() - begun))
    return {
        "what": what,
        "session": session,
        "runs": runs,
        "p50_ms": median(samples),
        "p99_ms": percentile(samples, 99),
        "samples_ms": samples,
    }


def _client(bed: Testbed, *, keep_alive: bool) -> Client:
    agent = bed.agent
    return Client(
        Namespace(None),
        "127.0.0.1",
        agent.port,
        tls=agent.tls,
        host=agent.amphora_id,
        keep_alive=keep_alive,
    )


def _ask(client: Client, path: str) -> None:
    response = client.get(path)
    if response.status != 200:
        raise RuntimeError(f"{path} answers {response.status}: {response.text}")


def _handshake(bed: Testbed) -> Callable[[], None]:
    context = bed.agent.tls.context()

    def connect() -> None:
        raw = Namespace(None).connect("127.0.0.1", bed.agent.port)
        with context.wrap_socket(raw, server_hostname=bed.agent.amphora_id):
            pass

    return connect
