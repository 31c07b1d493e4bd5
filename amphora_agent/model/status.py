"""What instances report about themselves: the values between haproxy and the heartbeat."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Counters(NamedTuple):
    """What a listener has counted since its worker began. Octavia's names for haproxy's fields:
    bytes sent to clients (bout), bytes received (bin), connections (stot), request errors (ereq).
    """

    tx: int
    rx: int
    totconns: int
    ereq: int

    def plus(self, other: "Counters") -> "Counters":
        return Counters(
            self.tx + other.tx,
            self.rx + other.rx,
            self.totconns + other.totconns,
            self.ereq + other.ereq,
        )

    def since(self, earlier: "Counters") -> "Counters":
        """The increase; a counter never runs backwards within one worker, so never negative."""
        return Counters(
            max(0, self.tx - earlier.tx),
            max(0, self.rx - earlier.rx),
            max(0, self.totconns - earlier.totconns),
            max(0, self.ereq - earlier.ereq),
        )

    def at_least(self, other: "Counters") -> "Counters":
        """The higher of each: the later of two readings of one worker."""
        return Counters(
            max(self.tx, other.tx),
            max(self.rx, other.rx),
            max(self.totconns, other.totconns),
            max(self.ereq, other.ereq),
        )


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
    """One instance at one moment.

    `listeners` are the ids that its configuration names, whether it answers or not.
    `current` is None when it is down or did not answer in time; then `last` is what it said the
    time before, if it did, and `pools` the members of each pool in its configuration. `leaving` are
    workers that a reload has replaced: still counting, or gone and known by their last reading.
    """

    listeners: tuple[str, ...]
    current: WorkerReading | None
    leaving: tuple[WorkerReading, ...]
    last: WorkerReading | None = None
    pools: Mapping[str, tuple[str, ...]] = MappingProxyType({})


class ListenerStatus(NamedTuple):
    """A row of `GET /1.0/listeners`: ACTIVE, OFFLINE or ERROR."""

    status: str
    uuid: str
    type: str
