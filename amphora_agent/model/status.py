"""What instances report about themselves, and what is known of heartbeats to controllers."""

import ipaddress
import operator
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from amphora_agent.model.addressing import split_endpoint
from amphora_agent.model.events import Alarm


class Scope(Enum):
    """What figures are about, by Octavia's names."""

    LOADBALANCER = "loadbalancer"
    MEMORY_POOL = "memory_pool"
    LISTENER = "listener"
    POOL = "pool"
    MEMBER = "member"


class Figures(NamedTuple):
    """The figures of one instance at one moment.

    `process` is by haproxy's name (`CurrConns`). `columns` are haproxy's names of what each row
    holds (`scur`), in their order; the rows of each scope begin with the names of the proxy and
    of the server. A figure that does not apply is empty.
    """

    process: dict[str, str]
    columns: tuple[str, ...]
    rows: dict[Scope, list[Sequence[str]]]


class Conntrack(NamedTuple):
    """Connections that the kernel tracks in the namespace, and how many it can."""

    used: int
    limit: int


class Counters(NamedTuple):
    """What a listener has counted since its worker began. Octavia's names for haproxy's fields:
    bytes sent to clients (bout), bytes received (bin), connections (stot), request errors (ereq).
    """

    tx: int
    rx: int
    totconns: int
    ereq: int

    def plus(self, other: "Counters") -> "Counters":
        return Counters(*map(operator.add, self, other))

    def since(self, earlier: "Counters") -> "Counters":
        """Return the increase; counters of one worker never run backwards, so none is negative."""
        return Counters(*(max(0, now - then) for now, then in zip(self, earlier, strict=True)))

    def at_least(self, other: "Counters") -> "Counters":
        """Return the higher of each: the later of two readings of one worker."""
        return Counters(*map(max, self, other))


NO_COUNTERS = Counters(0, 0, 0, 0)


class ListenerReading(NamedTuple):
    """One listener in one worker. `status` is haproxy's: OPEN, FULL, STOP…"""

    status: str
    conns: int
    counters: Counters


class PoolReading(NamedTuple):
    """A pool as one listener sees it: haproxy's status, and that of each member by id."""

    status: str
    members: Mapping[str, str]


class WorkerReading(NamedTuple):
    """What one worker process said. `worker` tells it from every other, also from a later one
    with the same pid. Keys of `pools` are `<pool id>:<listener id>`. Of one that is there and did
    not answer, both are empty. `restarts`: the counters of a listener may begin anew under the same
    name."""

    worker: str
    listeners: Mapping[str, ListenerReading]
    pools: Mapping[str, PoolReading]
    restarts: bool = False


class InstanceReading(NamedTuple):
    """One instance, as it was read last.

    `listeners` are the ids that haproxy has loaded, whether it answers or not. `current` is None
    when it is down or did not answer this time; then `last` is what it said before, if it did, and
    `pools` the members of each pool that it has loaded. `leaving` are workers that a reload has
    replaced: still counting, or gone and known by their last reading.

    `at` is when `current` or `last` was said, on the monotonic clock. `complete` tells whether all
    workers are known, with the last words of those that are gone: only then is a worker that is
    missing here gone for certain. `silence` is of a haproxy that is there and does not answer,
    `master_silence` of one whose master does not, `hung` are leaving workers that do not.
    """

    listeners: tuple[str, ...]
    current: WorkerReading | None
    leaving: tuple[WorkerReading, ...]
    last: WorkerReading | None = None
    pools: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    at: float = 0.0
    complete: bool = True
    silence: "Silence | None" = None
    master_silence: "Silence | None" = None
    hung: "tuple[HungWorker, ...]" = ()

    def told(self, oldest: float) -> WorkerReading | None:
        """Return the newest answer, unless it is from before `oldest`."""
        return (self.current or self.last) if self.at >= oldest else None


class Silence(NamedTuple):
    """A haproxy that is there and does not answer: since when (seconds since 1970), and the
    reason in words."""

    since: float
    reason: str


class HungWorker(NamedTuple):
    """A worker that was replaced and does not answer: `name` tells it from every other, `since`
    when it was first seen leaving (seconds since 1970)."""

    pid: int
    name: str
    since: float


class ListenerRow(NamedTuple):
    """A row of `GET /1.0/listeners`: ACTIVE, OFFLINE or ERROR."""

    status: str
    uuid: str
    type: str


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process of haproxy: `reloads` that it has lived through, seconds of `uptime`."""

    pid: int
    reloads: int
    uptime: int


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is ACTIVE, OFFLINE (stopped), ERROR (died) or NOT_ANSWERING: then `reason` says why,
    and `since` since when, in seconds since 1970. `generation` is the newest that came up,
    `pending` whether something else is committed and waits for a reload or a start. `alarms` are
    the lasting conditions that an operator must know of, the oldest first."""

    id: str
    state: str
    generation: int | None
    pending: bool
    alarms: tuple[Alarm, ...] = ()
    reason: str | None = None
    since: float | None = None


class InstanceDetails(InstanceStatus, frozen=True, kw_only=True):
    """With the generations that can be gone back to, oldest first, and haproxy's workers: none
    is `current` when it does not run or does not answer."""

    generations: tuple[int, ...]
    current: Worker | None
    leaving: tuple[Worker, ...]


class InstanceList(msgspec.Struct, frozen=True):
    """All instances, and the `alarms` of what is none of them: of the agent, its files, and UDP and
    SCTP listeners."""

    instances: tuple[InstanceStatus, ...]
    alarms: tuple[Alarm, ...] = ()


class ControllerEndpoint(NamedTuple):
    """An address and port of a health manager."""

    host: str
    port: int
    ipv6: bool


def parse_endpoint(entry: str) -> ControllerEndpoint:
    """Read `192.0.2.1:5555` or `[2001:db8::1]:5555` (also without brackets: the last colon
    counts).

    Raises:
        ValueError: it is neither. The text does not quote it: it may be a secret that was written
            in the wrong place.
    """
    host, port = split_endpoint(entry.strip())
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("is not ADDRESS:PORT")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("is not ADDRESS:PORT") from None
    return ControllerEndpoint(str(address), int(port), address.version == 6)


def find_unusable(entries: Sequence[str]) -> tuple[int, ...]:
    """Return the places of the entries that cannot be read, from 1."""
    places = []
    for number, entry in enumerate(entries, 1):
        try:
            parse_endpoint(entry)
        except ValueError:
            places.append(number)
    return tuple(places)


class ControllerFigures(msgspec.Struct):
    """An entry of `controller_ip_port_list`: heartbeats sent to it, and errors that the kernel has
    told. Times are seconds since 1970, 0.0 for never."""

    address: str
    sent: int = 0
    last_sent: float = 0.0
    errors: int = 0
    last_error: float = 0.0
    error: str = ""


class HeartbeatFigures(msgspec.Struct, frozen=True, kw_only=True):
    """`sent` and `failed` count heartbeats: those that a controller was sent, and those that none
    took. `at` is when the last one was sent (CLOCK_MONOTONIC, 0.0 for never), and the figures after
    it are of that one: bytes, listeners, and the members, pools and statistics that did not fit.

    `silences` are the instances that are told as DOWN because their haproxy does not answer,
    `masters_silent` those that answer while their masters do not. `hung` are replaced workers that
    do not answer.
    """

    sent: int = 0
    failed: int = 0
    at: float = 0.0
    size: int = 0
    listeners: int = 0
    members_left_out: int = 0
    pools_left_out: int = 0
    statistics_left_out: int = 0
    controllers: tuple[ControllerFigures, ...] = ()
    silences: dict[str, Silence] = {}
    masters_silent: tuple[str, ...] = ()
    hung: dict[str, tuple[HungWorker, ...]] = {}


NO_HEARTBEATS = HeartbeatFigures()
