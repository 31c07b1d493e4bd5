"""What a scrape of a load balancer's metrics costs the agent and its haproxy.

The agent's own code in this process, with a real haproxy: "asking" is the time until haproxy has
answered and the answer is read, "writing" is the time to write the text of the metrics; a second
scrape within a second costs the writing alone. Beside it haproxy's own exporter, asked for the
same over HTTP and not translated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amphora_agent.haproxy.runtime.poller import Poller
from amphora_agent.metrics.endpoint import Collector
from amphora_agent.metrics.translate.octavia import Machine
from amphora_agent.model.status import Scope
from benchmarks.report import Column, Section, median, milliseconds
from benchmarks.scale import Scale
from benchmarks.testbed import Balancer, Testbed, make_testbed, running, touch

_COLUMNS = (
    Column("listeners", "listeners"),
    Column("members", "members each"),
    Column("scope", "scope"),
    Column("ask_ms", "asking, ms", 1),
    Column("write_ms", "writing, ms", 1),
    Column("cpu_ms", "CPU, ms", 1),
    Column("bytes", "bytes"),
    Column("exporter_ms", "haproxy's exporter, ms", 1),
)

#: Which scopes are scraped together, and the words for the same to haproxy's exporter.
_SCRAPES = {
    "listener": (frozenset({Scope.LISTENER}), "scope=frontend"),
    "listener, pool": (frozenset({Scope.LISTENER, Scope.POOL}), "scope=frontend&scope=backend"),
    "all": (frozenset(Scope), ""),
}

_EXPORTER_PORT = 9101
_EXPORTER = f"""
frontend prometheus-exporter-internal-endpoint
    bind 127.0.0.1:{_EXPORTER_PORT}
    mode http
    timeout client 60s
    http-request use-service prometheus-exporter
"""


def measure(haproxy: Path, scale: Scale) -> Section:
    rows: list[dict[str, Any]] = []
    with make_testbed(haproxy, started=False) as bed:
        for listeners in scale.metrics_sizes:
            balancer = Balancer.of(listeners, scale.change_members, monitored=True)
            with running(bed, balancer, _EXPORTER) as (layout, _):
                touch(bed.namespace, balancer.listeners)
                for row in _scrapes(bed, Poller(layout), scale):
                    rows.append({"listeners": listeners, "members": scale.change_members} | row)
    return Section(
        "metrics",
        "A scrape of a load balancer (medians)",
        _COLUMNS,
        tuple(rows),
        notes=(
            "asking: haproxy's time too; a second scrape within a second does not ask",
            "CPU: of the agent's code, for both",
        ),
    )


def _scrapes(bed: Testbed, poller: Poller, scale: Scale) -> Iterator[dict[str, Any]]:
    for name, (scopes, query) in _SCRAPES.items():
        samples: dict[str, list[float]] = {"ask": [], "write": [], "cpu": [], "exporter": []}
        size = 0
        for _ in range(scale.metrics_runs):
            collector = Collector(poller, lambda: Machine(0.0, 0.0))
            begun, begun_cpu = time.perf_counter(), time.process_time()
            metrics = collector.collect(scopes)
            asked = time.perf_counter()
            size = sum(len(family.encode()) for family in metrics)
            samples["cpu"].append(time.process_time() - begun_cpu)
            samples["write"].append(time.perf_counter() - asked)
            samples["ask"].append(asked - begun)
            samples["exporter"].append(_exporter(bed, query))
        yield {
            "scope": name,
            "bytes": size,
            **{f"{kind}_ms": milliseconds(median(times)) for kind, times in samples.items()},
        }


def _exporter(bed: Testbed, query: str) -> float:
    """Seconds until haproxy's own exporter has answered."""
    begun = time.perf_counter()
    with bed.namespace.connect("127.0.0.1", _EXPORTER_PORT) as connection:
        connection.sendall(f"GET /metrics?{query} HTTP/1.0\r\n\r\n".encode())
        while connection.recv(1 << 20):
            pass
    return time.perf_counter() - begun
