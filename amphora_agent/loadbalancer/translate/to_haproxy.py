"""Translate listeners and the pools that they use to a process of haproxy.

Octavia's objects are turned into flat values; the templates only write them down. What is
administratively down is not there, except members, which haproxy knows as disabled.
"""

from functools import partial
from typing import NamedTuple

from amphora_agent.loadbalancer.translate import backends, frontends
from amphora_agent.loadbalancer.translate.backends import Backend, Use
from amphora_agent.loadbalancer.translate.frontends import MOST_CONNECTIONS, Frontend
from amphora_agent.model.addressing import Address
from amphora_agent.model.loadbalancer import ListenerProtocol, MonitorType
from amphora_agent.model.resolved import ResolvedListener, ResolvedPool


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


def translate_process(
    name: str, vips: tuple[Address, ...], listeners: tuple[ResolvedListener, ...]
) -> Process:
    """Return one haproxy that serves these listeners, which are up, at all VIPs."""
    uses: dict[str, list[Use]] = {}
    names: dict[tuple[str, Use], str] = {}
    pools: dict[str, ResolvedPool] = {}
    for listener in listeners:
        for pool in listener.used_pools:
            if not pool.admin_state_up:
                continue
            pools[pool.pool_id] = pool
            use = backends.find_use(listener, pool)
            of_pool = uses.setdefault(pool.pool_id, [])
            if use not in of_pool:
                other = f"{pool.pool_id}:{listener.listener_id}"
                names[pool.pool_id, use] = other if of_pool else pool.pool_id
                of_pool.append(use)

    def name_backend(listener: ResolvedListener, pool: ResolvedPool) -> str:
        return names[pool.pool_id, backends.find_use(listener, pool)]

    made = tuple(
        frontends.translate_listener(listener, vips, partial(name_backend, listener))
        for listener in listeners
    )
    used = tuple(
        backends.translate_pool(pools[pool_id], names[pool_id, use], use, first=number == 0)
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
