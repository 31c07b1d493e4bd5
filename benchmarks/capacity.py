"""How many listeners one heartbeat can tell about, by the members that each has.

Ids are random, as UUIDs are, and counters of a busy second: neither can be compressed away.
"""

from __future__ import annotations

import json
import random
import uuid
import zlib
from bisect import bisect_left
from pathlib import Path

from amphora_agent.heartbeat import message
from amphora_agent.model.status import (
    NO_COUNTERS,
    Counters,
    InstanceReading,
    ListenerReading,
    PoolReading,
    WorkerReading,
)
from benchmarks.report import Column, Section
from benchmarks.scale import Scale

#: Listeners that share a pool, in one load balancer.
_SHARING = 4

_COLUMNS = (
    Column("members", "members each"),
    Column("loose", "whole, not compact"),
    Column("whole", "whole"),
    Column("shared_each", f"{_SHARING} share a pool: told each time"),
    Column("shared_once", "told once"),
    Column("without_members", "without members"),
    Column("without_pools", "without pools"),
    Column("status_only", "status only"),
)

#: More than fit in any case: an id alone takes this many bytes.
_MOST = message.LARGEST_DATAGRAM // 16


def measure(haproxy: Path, scale: Scale) -> Section:
    """`haproxy` is not needed: readings are made up."""
    without_pools = _most_that_fit(members=None)
    status_only = _most_that_fit(members=None, counting=False)
    without_members = _most_that_fit(members=0)
    rows = tuple(
        {
            "members": members,
            "loose": _most_that_fit(members=members, compact=False),
            "whole": _most_that_fit(members=members),
            "shared_each": _most_that_fit(members=members, sharing=_SHARING, once=False),
            "shared_once": _most_that_fit(members=members, sharing=_SHARING),
            "without_members": without_members,
            "without_pools": without_pools,
            "status_only": status_only,
        }
        for members in scale.capacity_members
    )
    return Section(
        "capacity",
        f"Listeners that fit one datagram of {message.LARGEST_DATAGRAM:,} bytes",
        _COLUMNS,
        rows,
    )


def _most_that_fit(
    *,
    members: int | None,
    counting: bool = True,
    sharing: int = 1,
    once: bool = True,
    compact: bool = True,
) -> int:
    """`members`: of each pool; None for no pools. `sharing`: listeners that have the same pool,
    which is told `once`, or with each of them. `compact`: without spaces between words."""
    source = random.Random(sharing)
    ids = [_id(source) for _ in range(_MOST)]
    counted = {i: _counters(source) if counting else NO_COUNTERS for i in ids}
    listeners = {
        i: ListenerReading("OPEN", source.randrange(1000) if counting else 0, counted[i])
        for i in ids
    }
    pools: dict[str, tuple[str, PoolReading]] = {}
    if members is not None:
        for first in range(0, len(ids), sharing):
            told = {_id(source): source.choice(("UP", "DOWN")) for _ in range(members)}
            pool_id, pool = _id(source), PoolReading("UP", told)
            pools |= {i: (f"{pool_id}:{i}", pool) for i in ids[first : first + sharing]}

    def too_long(count: int) -> bool:
        some = tuple(ids[:count])
        worker = WorkerReading(
            "worker", {i: listeners[i] for i in some}, dict(pools[i] for i in some if i in pools)
        )
        reading = {"instance": InstanceReading(some, worker, ())}
        # The oldest form has a pool in each of its listeners.
        version = message.LATEST if once else message.NUMBERED
        content = message.build_content(_id(source), 1_000_000, reading, counted, version)
        content["ver"] = message.LATEST
        if compact:
            return len(message.seal(content, "key")) > message.LARGEST_DATAGRAM
        return len(zlib.compress(json.dumps(content).encode())) + 64 > message.LARGEST_DATAGRAM

    return bisect_left(range(_MOST), True, key=too_long) - 1


def _id(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))


def _counters(source: random.Random) -> Counters:
    return Counters(
        tx=source.randrange(10_000_000),
        rx=source.randrange(1_000_000),
        totconns=source.randrange(10_000),
        ereq=source.randrange(10),
    )
