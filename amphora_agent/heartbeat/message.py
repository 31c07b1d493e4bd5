"""The content of a heartbeat, its forms by version, and its envelope (WIRE §6).

| version | counters | pools | signature | of controllers |
|---|---|---|---|---|
| 3 | increases | beside listeners | hexadecimal | from 7.0 |
| 2 | since the beginning | beside listeners | hexadecimal | 4.1 to 6 |
| 1 | since the beginning | in their listener | hexadecimal | 1.0 to 4.0 |
| 0 | since the beginning | in their listener | binary | 0.8 to 0.10 |

Controllers before 4.1 expect every listener, also one that is disabled: it has an instance, whose
configuration has no frontend.

Counters of the latest version are increases. Within one worker counters only rise, and each worker
begins at zero. So the increase of a listener is the sum, over all known workers, of what each has
counted beyond what was reported of it before. `Reported` is that memory; heartbeat/memory.py keeps
it.

Source: WIRE §6, as `octavia.amphorae.backends.health_daemon.status_message` and
`octavia.amphorae.drivers.health.heartbeat_udp` read it.
"""

import hmac
import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from amphora_agent.model.status import (
    NO_COUNTERS,
    Counters,
    InstanceReading,
    ListenerReading,
    WorkerReading,
)

LATEST = 3
#: From here on counters are increases.
INCREASES = 3
#: From here on pools stand beside the listeners, and disabled listeners are left out.
FLAT = 2
#: From here on the message tells its version, and its signature is in hexadecimal digits.
NUMBERED = 1

#: The version that goes with a version of the API.
BY_API = {"0.5": 1, "1.0": LATEST}


def shape_message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a message with `pools` by `<pool id>:<listener id>` to the form of its version
    `ver`."""
    version = message["ver"]
    if version >= FLAT:
        return message
    listeners = {
        listener_id: {**listener, "pools": {}}
        for listener_id, listener in message["listeners"].items()
    }
    for key, pool in message["pools"].items():
        pool_id, _, listener_id = key.rpartition(":")
        if (
            listener_id in listeners
        ):  # haproxy may still have a listener that the configuration has not
            listeners[listener_id]["pools"][pool_id] = pool
    absent = {"pools"} if version >= NUMBERED else {"pools", "ver"}
    head = {name: value for name, value in message.items() if name not in absent}
    return {**head, "listeners": listeners}


#: Bytes that fit one IPv4 UDP datagram: 65,535 less the IP and the UDP header.
LARGEST_DATAGRAM = 65_507

#: Listeners that fit every message, whatever their ids and statuses: with random ids and
#: four different statuses 2,700 need 64,800 bytes (tests/unit/heartbeat/test_size.py).
MOST_LISTENERS = 2_700

#: Bytes by which compression cannot shorten an id: a UUID is 122 random bits.
_RANDOM_BYTES_PER_ID = 15

#: The status of a listener whose haproxy is down or does not answer.
UNREACHABLE = "DOWN"

_DIGEST = "sha256"


class Heartbeat(NamedTuple):
    """A message ready to be sent. `left_out` says what did not fit, "" for nothing; the numbers
    count members and pools left out, and listeners without their statistics."""

    datagram: bytes
    left_out: str = ""
    members_left_out: int = 0
    pools_left_out: int = 0
    statistics_left_out: int = 0


def build_content(
    amphora_id: str,
    sequence: int,
    readings: Mapping[str, InstanceReading],
    counted: Mapping[str, Counters],
    version: int = LATEST,
    oldest: float = -math.inf,
) -> dict[str, Any]:
    """Return the message as a JSON object, in the form of the latest version: every listener that
    haproxy has loaded, whatever its status, and its pools.

    A pool that several listeners share is in it once: the receiver reads the first entry and no
    other. (In the oldest forms pools are in their listeners, each of which needs its own.)

    `counted` are the counters of each listener in this version: increases, or all since the
    beginning.

    If an instance does not answer, its last reading counts: it may be busy or reloading. One from
    before `oldest` does not count: its pools and members are down, which the controller shows as an
    error. (A listener has no such status: an unknown one only says that it
    is there.)
    """
    listeners: dict[str, Any] = {}
    pools: dict[str, Any] = {}
    for instance_id, reading in readings.items():
        last = reading.told(oldest)
        expected = reading.listeners
        if not expected and version < FLAT:
            expected = (instance_id,)  # disabled, and expected all the same
        for listener_id in expected:
            now = last.listeners.get(listener_id) if last is not None else None
            listeners[listener_id] = {
                "status": now.status if now is not None else UNREACHABLE,
                "stats": _make_stats(now, counted.get(listener_id, NO_COUNTERS)),
            }
        if last is not None:
            for pool_key, pool in last.pools.items():
                pools[_complete_key(pool_key, instance_id)] = _make_pool(
                    pool.status, dict(pool.members)
                )
        else:
            for pool_key, members in reading.pools.items():
                down = _make_pool("DOWN", dict.fromkeys(members, "DOWN"))
                pools[_complete_key(pool_key, instance_id)] = down
    if version >= FLAT:
        first = {key.partition(":")[0]: key for key in reversed(pools)}
        pools = {key: pool for key, pool in pools.items() if first[key.partition(":")[0]] == key}
    return {
        "id": amphora_id,
        "seq": sequence,
        "ver": version,
        "listeners": listeners,
        "pools": pools,
    }


def _make_pool(status: str, members: Mapping[str, str]) -> dict[str, Any]:
    return {"status": status, "members": members}


def _complete_key(pool_key: str, instance_id: str) -> str:
    """Return `<pool id>:<listener id>`. An instance of one listener has pools by their ids alone,
    and its neighbour may have the same ones."""
    return pool_key if ":" in pool_key else f"{pool_key}:{instance_id}"


def _make_stats(now: ListenerReading | None, counted: Counters) -> dict[str, int]:
    return {
        "tx": counted.tx,
        "rx": counted.rx,
        "conns": now.conns if now is not None else 0,
        "totconns": counted.totconns,
        "ereq": counted.ereq,
    }


def seal(message: Mapping[str, Any], key: str) -> bytes:
    """Return the bytes on the wire: compressed JSON in the form of its version, then its
    HMAC-SHA256 in 64 hex digits, or (version 0) in 32 bytes."""
    compressed = zlib.compress(msgspec.json.encode(shape_message(message)))
    signature = hmac.new(key.encode(), compressed, _DIGEST)
    in_hex = message["ver"] >= NUMBERED
    return compressed + (signature.hexdigest().encode() if in_hex else signature.digest())


def fit(message: Mapping[str, Any], key: str, most: int = LARGEST_DATAGRAM) -> Heartbeat:
    """Seal a message so that it fits a datagram of `most` bytes.

    A message that is too long is sent without members, which become OFFLINE to the controller, then
    without pools, and at last without statistics. Listeners are never left out: their number
    decides whether the amphora is alive.
    """
    for shorter, left_out in _shorten(message):
        if _estimate_least_size(shorter) <= most:
            datagram = seal(shorter, key)
            if len(datagram) <= most:
                return left_out._replace(datagram=datagram)
    return left_out._replace(datagram=seal(shorter, key))


def _shorten(message: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Heartbeat]]:
    """Yield the message, and shorter ones, each with what it leaves out."""
    yield message, Heartbeat(b"")
    pools, listeners = message["pools"], message["listeners"]
    members = sum(len(pool["members"]) for pool in pools.values())
    if members:
        alone = {key: _make_pool(pool["status"], {}) for key, pool in pools.items()}
        yield {**message, "pools": alone}, Heartbeat(b"", f"{members} members", members)
    words = f"{len(pools)} pools with {members} members"
    yield {**message, "pools": {}}, Heartbeat(b"", words, members, len(pools))
    bare = {
        listener_id: {
            "status": listener["status"],
            "stats": dict.fromkeys(listener["stats"], 0),
        }
        for listener_id, listener in listeners.items()
    }
    yield (
        {**message, "pools": {}, "listeners": bare},
        Heartbeat(b"", f"{words}, statistics", members, len(pools), len(bare)),
    )


def _estimate_least_size(message: Mapping[str, Any]) -> int:
    """Return a size that no compression reaches: a larger message need not be tried."""
    pools = message["pools"]
    ids = len(message["listeners"]) + len(pools) + sum(len(p["members"]) for p in pools.values())
    return ids * _RANDOM_BYTES_PER_ID


#: instance id -> worker name -> listener id -> what has been reported.
Reported = Mapping[str, Mapping[str, Mapping[str, Counters]]]

#: Stands for the name of a worker: the sum of all workers that have ended.
GONE = "gone"


def find_increases(
    readings: Mapping[str, InstanceReading], reported: Reported
) -> tuple[dict[str, Counters], Reported]:
    """Return the increase of each listener since `reported`, and the memory that includes it.

    The memory of a worker is added to `GONE` when it has ended for certain: when a complete reading
    of its instance is without it. Instances and listeners that are gone are forgotten.
    """
    increase: dict[str, Counters] = {}
    memory: dict[str, dict[str, dict[str, Counters]]] = {}
    for instance_id, reading in readings.items():
        workers = (
            reading.leaving if reading.current is None else (reading.current, *reading.leaving)
        )
        before = _split_restarted(reported.get(instance_id, {}), workers)
        after: dict[str, dict[str, Counters]] = {}
        certain = reading.current is not None and reading.complete
        if not certain:
            after.update((worker, dict(counted)) for worker, counted in before.items())
        for worker in workers:
            was = before.get(worker.worker, {})
            now = dict(was)  # also listeners that are missing: the worker may have been silent
            for listener_id, listener in worker.listeners.items():
                earlier = was.get(listener_id, NO_COUNTERS)
                now[listener_id] = listener.counters.at_least(earlier)
                grown = listener.counters.since(earlier)
                known = increase.get(listener_id)
                increase[listener_id] = grown if known is None else known.plus(grown)
            after[worker.worker] = now
        if certain:
            ended = [counted for worker, counted in before.items() if worker not in after]
            if kept := sum_counters(ended, set(reading.listeners)):
                after[GONE] = kept
        memory[instance_id] = after
    return increase, memory


def sum_reported(reported: Reported) -> dict[str, Counters]:
    """Return what each listener has counted since its beginning, over all workers."""
    return {
        listener_id: counted
        for workers in reported.values()
        for listener_id, counted in sum_counters(workers.values()).items()
    }


def move_to_gone(reported: Reported) -> Reported:
    """Return the memory after a boot, which no worker has survived."""
    return {
        instance_id: {GONE: sum_counters(workers.values())}
        for instance_id, workers in reported.items()
    }


def _split_restarted(
    before: Mapping[str, Mapping[str, Counters]], workers: Iterable[WorkerReading]
) -> Mapping[str, Mapping[str, Counters]]:
    """Return the memory with the counters of restarted listeners moved to `GONE`."""
    after = dict(before)
    for worker in workers:
        was = before.get(worker.worker, {})
        ended = {
            listener_id: was[listener_id]
            for listener_id, listener in worker.listeners.items()
            if worker.restarts
            and listener_id in was
            and listener.counters.at_least(was[listener_id]) != listener.counters
        }
        if ended:
            after[worker.worker] = {
                listener_id: counted
                for listener_id, counted in was.items()
                if listener_id not in ended
            }
            after[GONE] = sum_counters([ended, after.get(GONE, {})])
    return after


def sum_counters(
    rows: Iterable[Mapping[str, Counters]], wanted: Collection[str] | None = None
) -> dict[str, Counters]:
    """Add the counters of each listener in `rows`: of all, or of those that are wanted."""
    sums: dict[str, Counters] = {}
    for row in rows:
        for listener_id, counted in row.items():
            if wanted is None or listener_id in wanted:
                sums[listener_id] = counted.plus(sums.get(listener_id, NO_COUNTERS))
    return sums
