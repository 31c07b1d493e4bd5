"""How many listeners one heartbeat can tell about, by the members that each has.

Ids are random, as UUIDs are, and counters of a busy second: neither can be compressed away.
"""

from __future__ import annotations

import random
import uuid
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

_COLUMNS = (
    Column("members", "members each"),
    Column("whole", "whole"),
    Column("without_pools", "without pools"),
    Column("status_only", "status only"),
)

#: More than fit in any case: an id alone takes this many bytes.
_MOST = message.LARGEST_DATAGRAM // 16


def measure(haproxy: Path, scale: Scale) -> Section:
    """`haproxy` is not needed: readings are made up."""
    without_pools = _most_that_fit(members=None, counting=True)
    status_only = _most_that_fit(members=None, counting=False)
    rows = tuple(
        {
            "members": members,
            "whole": _most_that_fit(members=members, counting=True),
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


def _most_that_fit(*, members: int | None, counting: bool) -> int:
    """`members`: of each listener's pool; None for no pools."""
    most = _MOST // (1 if members is None else 2 + members)
    source = random.Random(most)
    ids = [_id(source) for _ in range(most)]
    counted = {i: _counters(source) if counting else NO_COUNTERS for i in ids}
    listeners = {
        i: ListenerReading("OPEN", source.randrange(1000) if counting else 0, counted[i])
        for i in ids
    }
    pools = {
        i: PoolReading("UP", {_id(source): source.choice(("UP", "DOWN")) for _ in range(members)})
        for i in (ids if members is not None else ())
        if members is not None
    }

    def too_long(count: int) -> bool:
        some = tuple(ids[:count])
        worker = WorkerReading(
            "worker",
            {i: listeners[i] for i in some},
            {f"{uuid.uuid5(uuid.NAMESPACE_OID, i)}:{i}": pools[i] for i in some if i in pools},
        )
        reading = {"instance": InstanceReading(some, worker, ())}
        content = message.content(_id(source), 1_000_000, reading, counted)
        return len(message.seal(content, "key")) > message.LARGEST_DATAGRAM

    return bisect_left(range(most), True, key=too_long) - 1


def _id(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))


def _counters(source: random.Random) -> Counters:
    return Counters(
        tx=source.randrange(10_000_000),
        rx=source.randrange(1_000_000),
        totconns=source.randrange(10_000),
        ereq=source.randrange(10),
    )
