"""Read the state of UDP and SCTP listeners for heartbeats and metrics.

IPVS knows addresses; the ids come from the listener's configuration. IPVS has neither a member that
keepalived's check found dead, nor one that keepalived has not added yet.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.keepalived.config import lvs
from amphora_agent.keepalived.config.language import ConfigError
from amphora_agent.keepalived.config.lvs import Endpoint, ParsedListener, ParsedMember
from amphora_agent.keepalived.program import is_running
from amphora_agent.model.status import (
    Counters,
    InstanceReading,
    ListenerReading,
    PoolReading,
    WorkerReading,
)
from amphora_agent.paths import Layout, LvsLayout, ObjectId

logger = logging.getLogger(__name__)

#: All keepaliveds share one IPVS: its counters go on when keepalived is replaced, and begin anew
#: when it removes a listener and adds it again.
WORKER = "ipvs"


class Destination(NamedTuple):
    """A member in IPVS. UDP has no end of a connection: all its flows are `inactive`."""

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


class ConfigCache:
    """The listeners that configurations describe, read again only when their files change."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, ParsedListener | None]] = {}

    def describe(self, listener: LvsLayout) -> ParsedListener | None:
        """Return the listener; None if it has no configuration, or an invalid one."""
        signature = files.signature(listener.configuration)
        known = self._known.get(listener.id)
        if known is None or known[0] != signature:
            try:
                known = signature, lvs.describe(listener.configuration.read_bytes())
            except FileNotFoundError:
                self._known.pop(listener.id, None)
                return None
            except ConfigError as error:
                logger.error("%s: %s", listener.configuration, error)
                known = signature, None
            self._known[listener.id] = known
        return known[1]


class LvsPoller:
    """Reads all UDP and SCTP listeners of a layout. `services` returns those that IPVS has now."""

    def __init__(
        self,
        layout: Layout,
        services: Callable[[], Sequence[Service]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._services = services
        self._configs = ConfigCache()
        self._clock = clock
        #: The last reading of each listener, and its time.
        self._last: dict[str, tuple[float, WorkerReading]] = {}
        #: Listeners whose keepalived did not run at the last reading.
        self._absent: set[ObjectId] = set()

    def read(self) -> dict[str, InstanceReading]:
        """Return a reading of each listener, by its id."""
        listeners = self._layout.lvs_listeners()
        if not listeners:
            return {}
        try:
            services = self._services()
        except (OSError, OperationFailed) as error:
            logger.warning("cannot read IPVS: %s", error)
            services = None
        absent = {listener.id for listener in listeners if not is_running(listener)}
        readings: dict[str, InstanceReading] = {
            listener.id: self._read_listener(listener, services, absent) for listener in listeners
        }
        self._absent = absent
        return readings

    def _read_listener(
        self, files_: LvsLayout, services: Sequence[Service] | None, absent: set[ObjectId]
    ) -> InstanceReading:
        listener_id = files_.id
        listener = self._configs.describe(files_)
        now = self._clock()
        at, last = self._last.pop(listener_id, (0.0, None))
        if listener is None:
            return InstanceReading((listener_id,), None, (), last, at=at)
        if not listener.enabled:
            # The controller expects no report of it.
            return InstanceReading((), WorkerReading(WORKER, {}, {}), (), at=now)
        if services is None:
            members = tuple(member.id for member in listener.members)
            pools = {f"{listener.pool}:{listener_id}": members} if listener.pool else {}
            return InstanceReading((listener_id,), None, (), last, pools, at)
        # One absence is forgiven: the supervisor starts keepalived again.
        is_absent, was_absent = listener_id in absent, listener_id in self._absent
        unsettled = not was_absent if is_absent else is_pending(files_)
        current = build_reading(listener_id, listener, services, unsettled=unsettled)
        self._last[listener_id] = now, current
        return InstanceReading((listener_id,), current, (), at=now)


def is_pending(listener: LvsLayout) -> bool:
    """Return whether keepalived has yet to be told of the committed configuration."""
    try:
        committed = listener.configuration.read_bytes()
        return not lvs.is_made_of(listener.given.read_bytes(), committed)
    except FileNotFoundError:
        return True


# From IPVS to readings


def build_reading(
    listener_id: str, listener: ParsedListener, services: Iterable[Service], *, unsettled: bool
) -> WorkerReading:
    """Return the reading of an enabled listener.

    Args:
        unsettled: keepalived has yet to read the configuration, or to start again: a member that
            IPVS lacks may be about to come.
    """
    services_by_address = {(service.protocol, service.endpoint): service for service in services}
    own_services = [
        services_by_address[address]
        for address in listener.addresses
        if address in services_by_address
    ]
    counters = Counters(0, 0, 0, 0)
    for service in own_services:
        counters = counters.plus(service.counters)
    connections = sum(_count_connections(service) for service in own_services)
    pools: Mapping[str, PoolReading] = {}
    if listener.pool is not None:
        pool = _read_pool(listener, own_services, unsettled=unsettled)
        pools = {f"{listener.pool}:{listener_id}": pool}
    return WorkerReading(
        WORKER,
        {listener_id: ListenerReading("OPEN", connections, counters)},
        pools,
        restarts=True,
    )


def _count_connections(service: Service) -> int:
    """Count the flows that have not ended; of UDP, those that have not timed out."""
    if service.protocol == "UDP":
        return sum(member.active + member.inactive for member in service.destinations)
    return sum(member.active for member in service.destinations)


def _read_pool(
    listener: ParsedListener, services: Iterable[Service], *, unsettled: bool
) -> PoolReading:
    weights = {
        destination.endpoint: destination.weight
        for service in services
        for destination in service.destinations
    }
    members = {
        member.id: _read_member(member, weights, unsettled=unsettled) for member in listener.members
    }
    enabled = [member for member in listener.members if member.endpoint is not None]
    dead = bool(enabled) and all(members[member.id] == "DOWN" for member in enabled)
    return PoolReading("DOWN" if dead else "UP", members)


def _read_member(member: ParsedMember, weights: Mapping[Endpoint, int], *, unsettled: bool) -> str:
    if member.endpoint is None:
        return "MAINT"
    weight = weights.get(member.endpoint)
    if weight is None:
        # The controller takes RESTARTING for "as it was before".
        return "RESTARTING" if unsettled else "DOWN"
    if weight == 0:
        return "DRAIN"
    return "UP" if member.checked else "no check"
