"""What a declared load balancer (API 2.0) costs, beside the same pushed as text.

Nothing changes, one member gets another weight, one listener is added: by one PUT of the whole load
balancer in Octavia's model, and by the controller's two, of a text and of the reload. Both take
turns, on load balancers of their own with the same listeners. The times have what the clients do
with a model or a text, not how either is made. HAProxy's Data Plane API would be the other thing to
compare with; no registry of packages has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from amphora_agent.client.v2 import DeclarativeClient
from benchmarks.report import Column, Section, median, milliseconds
from benchmarks.scale import Scale
from benchmarks.testbed import VIP, Balancer, Testbed, make_testbed
from lab.listeners import Listener, http_listener, loadbalancer
from tests.builders import bodies

_COLUMNS = (
    Column("what", "what"),
    Column("listeners", "listeners"),
    Column("runs", "runs"),
    Column("declared_ms", "PUT, ms", 1),
    Column("step", "done by"),
    Column("text_ms", "text, PUT + PUT, ms", 1),
    Column("ratio", "PUT / text", 2),
)

#: Between the ports of the two load balancers.
_APART = 20_000
_WEIGHTS = 200


def measure(haproxy: Path, scale: Scale) -> Section:
    rows = []
    with make_testbed(haproxy) as bed:
        agent, pki = bed.agent, bed.agent.pki
        client = DeclarativeClient(agent.url, agent.amphora_id, pki.controller_pem, pki.server_ca)
        try:
            for listeners, runs in scale.declared_runs.items():
                balancer = Balancer.of(listeners, scale.declared_members, monitored=True)
                rows += _compare(bed, client, balancer, runs)
        finally:
            client.close()
    return Section(
        "declared",
        "A declared load balancer, beside its text (medians of wall time)",
        _COLUMNS,
        tuple(rows),
    )


def _compare(
    bed: Testbed, client: DeclarativeClient, balancer: Balancer, runs: int
) -> list[dict[str, Any]]:
    text_id, declared_id = balancer.id, Balancer.of(1, 1, monitored=False).id

    def text_of(listeners: tuple[Listener, ...]) -> str:
        moved = [replace(each, port=each.port + _APART) for each in listeners]
        base = str(bed.agent.base_path)
        return loadbalancer(text_id, vip=VIP, listeners=moved, base_path=base)

    def push(text: str) -> None:
        bed.controller.upload_haproxy(text_id, text)
        bed.controller.reload(text_id)

    rows = []
    push(text_of(balancer.listeners))
    client.put(_model(declared_id, balancer.listeners))
    for what, change in _CHANGES.items():
        declared: list[float] = []
        pushed: list[float] = []
        steps: set[str] = set()
        for run in range(runs):
            listeners = change(balancer.listeners, run)
            model, text = _model(declared_id, listeners), text_of(listeners)
            begun = perf_counter()
            answer = client.put(model)
            declared.append(perf_counter() - begun)
            begun = perf_counter()
            push(text)
            pushed.append(perf_counter() - begun)
            steps.add(str(answer["step"]))
            if what == "listener added":  # and taken away again, unmeasured
                client.put(_model(declared_id, balancer.listeners))
                push(text_of(balancer.listeners))
        rows.append(
            {
                "what": what,
                "listeners": len(balancer.listeners),
                "runs": runs,
                "declared_ms": milliseconds(median(declared)),
                "step": ", ".join(sorted(steps)),
                "text_ms": milliseconds(median(pushed)),
                "ratio": median(declared) / median(pushed),
            }
        )
    client.delete(declared_id)
    bed.controller.delete(text_id)
    return rows


def _unchanged(listeners: tuple[Listener, ...], run: int) -> tuple[Listener, ...]:
    return listeners


def _reweighted(listeners: tuple[Listener, ...], run: int) -> tuple[Listener, ...]:
    *others, last = listeners
    assert last.pool is not None
    first, *members = last.pool.members
    pool = replace(last.pool, members=(replace(first, weight=2 + run % _WEIGHTS), *members))
    return (*others, replace(last, pool=pool))


def _added(listeners: tuple[Listener, ...], run: int) -> tuple[Listener, ...]:
    last = listeners[-1]
    assert last.pool is not None
    members = [(member.address, member.port) for member in last.pool.members]
    new = http_listener(
        f"added {run}",
        port=last.port + 1,
        members=members,
        monitor=last.pool.monitor,
        connection_limit=last.connection_limit,
    )
    return (*listeners, new)


_CHANGES: Mapping[str, Callable[[tuple[Listener, ...], int], tuple[Listener, ...]]] = {
    "unchanged": _unchanged,
    "member re-weighted": _reweighted,
    "listener added": _added,
}


def _model(lb_id: str, listeners: tuple[Listener, ...]) -> dict[str, Any]:
    """These listeners in Octavia's model."""
    return bodies.balancer(
        *(
            bodies.listener(
                name=listener.id,
                protocol_port=listener.port,
                connection_limit=listener.connection_limit,
                default_pool_id=listener.pool.id if listener.pool else None,
            )
            for listener in listeners
        ),
        pools=tuple(_pool(listener) for listener in listeners),
        loadbalancer_id=lb_id,
        vip_address=VIP,
    )


def _pool(listener: Listener) -> bodies.Body:
    assert listener.pool is not None
    monitor = listener.pool.monitor
    assert monitor is not None
    return bodies.pool(
        name=listener.pool.id,
        members=[
            bodies.member(
                member.id, address=member.address, protocol_port=member.port, weight=member.weight
            )
            for member in listener.pool.members
        ],
        healthmonitor=bodies.monitor(
            healthmonitor_id=f"{listener.pool.id}-m",
            delay=monitor.delay,
            timeout=monitor.timeout,
            max_retries=monitor.rise,
            max_retries_down=monitor.fall,
            url_path=monitor.path,
        ),
    )
