"""Translate UDP and SCTP listeners to keepalived's terms: flat values for its template.

The text that comes out is of the shape that the controllers', too, have (keepalived/config/lvs.py).
A listener that is administratively down, or whose load balancer is, has none.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from amphora_agent.model.addressing import Address, prefix_length
from amphora_agent.model.loadbalancer import Algorithm
from amphora_agent.model.resolved import (
    HealthCheck,
    ResolvedListener,
    ResolvedLoadBalancer,
    ResolvedMember,
    ResolvedPool,
)

#: What the controllers say where nobody else does: seconds, and how much of a client's address is
#: one client.
_PERSISTENCE = 360
_WHOLE_ADDRESS = {4: "255.255.255.255", 6: "128"}

_ALGORITHM = {
    Algorithm.LEAST_CONNECTIONS: "lc",
    Algorithm.ROUND_ROBIN: "wrr",
    Algorithm.SOURCE_IP: "sh",
    Algorithm.SOURCE_IP_PORT: "sh",
}


class RealServer(NamedTuple):
    """A member, and where it is checked."""

    id: str
    disabled: bool
    endpoint: str
    weight: int
    check_address: str
    check_port: int


class Group(NamedTuple):
    """The addresses of one IP version, and the members of the same."""

    name: str
    endpoints: tuple[str, ...]
    granularity: str
    servers: tuple[RealServer, ...]


class VirtualServer(NamedTuple):
    """A listener. `persistence_timeout` is 0 for none, `connection_limit` also."""

    id: str
    loadbalancer_id: str
    protocol: str
    algorithm: str
    hashes_ports: bool
    persistence_timeout: int
    connection_limit: int
    pool_id: str
    pool_is_up: bool
    monitor_id: str
    check: HealthCheck | None
    groups: tuple[Group, ...]


def translate_virtual_server(
    balancer: ResolvedLoadBalancer, listener: ResolvedListener
) -> VirtualServer:
    """Return the virtual server of a UDP or SCTP listener that is up."""
    pool = listener.default_pool
    persistence = pool.session_persistence if pool else None
    monitor = pool.healthmonitor if pool else None
    return VirtualServer(
        id=listener.listener_id,
        loadbalancer_id=balancer.id,
        protocol=str(listener.protocol),
        algorithm=_ALGORITHM[pool.lb_algorithm] if pool else "",
        hashes_ports=pool is not None and pool.lb_algorithm is Algorithm.SOURCE_IP_PORT,
        persistence_timeout=(persistence.persistence_timeout or _PERSISTENCE) if persistence else 0,
        connection_limit=listener.connection_limit,
        pool_id=pool.pool_id if pool else "",
        pool_is_up=pool is not None and pool.admin_state_up,
        monitor_id=monitor.healthmonitor_id if monitor else "",
        check=pool.check if pool else None,
        groups=tuple(_translate_groups(balancer.vips, listener.protocol_port, pool))
        if pool
        else (),
    )


def _translate_groups(vips: Iterable[Address], port: int, pool: ResolvedPool) -> Iterator[Group]:
    members = pool.members if pool.admin_state_up else ()
    for version in (4, 6):
        addresses = [vip for vip in vips if vip.version == version]
        if addresses:
            yield Group(
                name=f"ipv{version}-group",
                endpoints=tuple(f"{address} {port}" for address in addresses),
                granularity=_choose_granularity(pool, version),
                servers=tuple(
                    _translate_member(member)
                    for member in members
                    if member.address.version == version
                ),
            )


def _choose_granularity(pool: ResolvedPool, version: int) -> str:
    """Return how much of an address is one client: a mask, for IPv6 the length of a prefix."""
    mask = pool.session_persistence and pool.session_persistence.persistence_granularity
    if not mask or mask.version != version:
        return _WHOLE_ADDRESS[version]
    return str(prefix_length(mask)) if version == 6 else str(mask)


def _translate_member(member: ResolvedMember) -> RealServer:
    checked: Address = member.monitor_address or member.address
    return RealServer(
        id=member.member_id,
        disabled=not member.admin_state_up,
        endpoint=f"{member.address} {member.protocol_port}",
        weight=member.weight,
        check_address=str(checked),
        check_port=member.monitor_port or member.protocol_port,
    )
