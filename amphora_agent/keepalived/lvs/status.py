"""From what IPVS says to what the heartbeat tells of a UDP or SCTP listener.

IPVS knows addresses; the ids are the configuration's. A member that keepalived's check has found
dead is not in IPVS at all, nor is one that keepalived has not put there yet.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from amphora_agent.keepalived.config.lvs import Endpoint, Listener, Member
from amphora_agent.model.status import Counters, ListenerReading, PoolReading, WorkerReading

#: IPVS is one for all that keepalived does: its counters go on when keepalived is replaced, and
#: begin anew when it takes a listener out and puts it in again.
WORKER = "ipvs"


class Destination(NamedTuple):
    """A member in IPVS. Of UDP, which has no ends of connections, all flows are `inactive`."""

    endpoint: Endpoint
    weight: int
    active: int
    inactive: int


class Service(NamedTuple):
    """A virtual server in IPVS, and what it has counted."""

    protocol: str
    endpoint: Endpoint
    counters: Counters
    destinations: tuple[Destination, ...]


def reading(
    listener_id: str, listener: Listener, services: Iterable[Service], *, unsettled: bool
) -> WorkerReading:
    """What a listener that is enabled tells. `unsettled`: keepalived is yet to take up the
    configuration, or to come back; a member that is missing may be on its way.
    """
    known = {(each.protocol, each.endpoint): each for each in services}
    own = [
        known[virtual.protocol, endpoint]
        for virtual in listener.virtuals
        for endpoint in virtual.endpoints
        if (virtual.protocol, endpoint) in known
    ]
    counters = Counters(0, 0, 0, 0)
    for service in own:
        counters = counters.plus(service.counters)
    conns = sum(_connections(service) for service in own)
    pools: Mapping[str, PoolReading] = {}
    if listener.pool is not None:
        pools = {f"{listener.pool}:{listener_id}": _pool(listener, own, unsettled=unsettled)}
    return WorkerReading(
        WORKER, {listener_id: ListenerReading("OPEN", conns, counters)}, pools, restarts=True
    )


def _pool(listener: Listener, services: Iterable[Service], *, unsettled: bool) -> PoolReading:
    weights = {
        destination.endpoint: destination.weight
        for service in services
        for destination in service.destinations
    }
    members = {
        member.id: _member(member, weights, unsettled=unsettled) for member in listener.members
    }
    enabled = [member for member in listener.members if member.endpoint is not None]
    dead = bool(enabled) and all(members[member.id] == "DOWN" for member in enabled)
    return PoolReading("DOWN" if dead else "UP", members)


def _member(member: Member, weights: Mapping[Endpoint, int], *, unsettled: bool) -> str:
    if member.endpoint is None:
        return "MAINT"
    weight = weights.get(member.endpoint)
    if weight is None:
        # The controller takes the first for "as it was before".
        return "RESTARTING" if unsettled else "DOWN"
    if weight == 0:
        return "DRAIN"
    return "UP" if member.checked else "no check"


def _connections(service: Service) -> int:
    """Flows that are not over: of UDP, those that have not been forgotten yet."""
    if service.protocol == "UDP":
        return sum(each.active + each.inactive for each in service.destinations)
    return sum(each.active for each in service.destinations)
