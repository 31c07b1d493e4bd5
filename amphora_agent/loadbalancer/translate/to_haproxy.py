"""A load balancer in haproxy's terms: which frontends and backends it is, and what each says.

Octavia's objects are turned into flat values; the templates only write them down. What is
administratively down is not there, except members, which haproxy knows as disabled.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from amphora_agent.loadbalancer.translate import backends, frontends
from amphora_agent.loadbalancer.translate.backends import Backend, Use
from amphora_agent.loadbalancer.translate.frontends import MOST_CONNECTIONS, Frontend
from amphora_agent.model.loadbalancer import accessors
from amphora_agent.model.loadbalancer.accessors import is_up
from amphora_agent.model.loadbalancer.types import (
    Listener,
    ListenerProtocol,
    LoadBalancer,
    MonitorType,
    Pool,
)


class Process(NamedTuple):
    """Everything that one haproxy has."""

    id: str
    frontends: tuple[Frontend, ...]
    backends: tuple[Backend, ...]
    connection_limit: int
    #: What makes room for descriptors at a reload (haproxy/config/preflight.py); None where
    #: nothing does.
    spare_pipes: int | None
    pings: bool
    serves_metrics: bool


def whole(balancer: LoadBalancer) -> Process:
    """One process for all listeners."""
    listeners = balancer.listeners or () if is_up(balancer) else ()
    return _process(balancer, balancer.loadbalancer_id, listeners)


def each(balancer: LoadBalancer) -> Iterator[Process]:
    """One process for each listener, with pools of its own."""
    for listener in balancer.listeners or () if is_up(balancer) else ():
        if not accessors.is_layer4(listener):
            yield _process(balancer, listener.listener_id, (listener,))


def _process(balancer: LoadBalancer, name: str, listeners: tuple[Listener, ...]) -> Process:
    pools = {key: pool for key, pool in accessors.pools(balancer).items() if is_up(pool)}
    listeners = tuple(each for each in listeners if is_up(each) and not accessors.is_layer4(each))
    uses: dict[str, list[Use]] = {}
    names: dict[tuple[str, Use], str] = {}
    for listener in listeners:
        for pool_id in frontends.pools_used(listener):
            if pool_id not in pools:
                continue
            use = backends.use(listener, pools[pool_id])
            if use not in uses.setdefault(pool_id, []):
                names[pool_id, use] = (
                    f"{pool_id}:{listener.listener_id}" if uses[pool_id] else pool_id
                )
                uses[pool_id].append(use)

    def name_of(listener: Listener, pool: Pool) -> str:
        return names[pool.pool_id, backends.use(listener, pool)]

    vips = accessors.vips(balancer)
    made = tuple(
        frontends.frontend(listener, vips, pools, partial(name_of, listener))
        for listener in listeners
    )
    used = tuple(
        backends.backend(pools[pool_id], names[pool_id, use], use, first=number == 0)
        for pool_id in uses
        for number, use in enumerate(uses[pool_id])
    )
    return Process(
        id=name,
        frontends=made,
        backends=used,
        connection_limit=min(sum(each.connection_limit for each in made), MOST_CONNECTIONS),
        spare_pipes=None,
        pings=any(each.check and each.check.type is MonitorType.PING for each in used),
        serves_metrics=any(each.protocol is ListenerProtocol.PROMETHEUS for each in listeners),
    )
