"""The heartbeat's content and its envelope.

Source: WIRE §6, as `octavia.amphorae.backends.health_daemon.status_message` and
`octavia.amphorae.drivers.health.heartbeat_udp` read it.
"""

import hmac
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from amphora_agent.model.status import NO_COUNTERS, Counters, InstanceReading, ListenerReading

#: The form of the message in which counters are increases and pools stand beside listeners.
VERSION = 3

#: Bytes that fit one IPv4 UDP datagram: 65,535 less the IP and the UDP header.
LARGEST_DATAGRAM = 65_507

#: Bytes by which compression cannot shorten an id: a UUID is 122 random bits.
_RANDOM_BYTES_PER_ID = 15

#: What is said of a listener whose haproxy is down or does not answer.
UNREACHABLE = "DOWN"

_DIGEST = "sha256"


class Heartbeat(NamedTuple):
    """A message ready to be sent; `left_out` tells in words what did not fit, "" for nothing."""

    datagram: bytes
    left_out: str


def content(
    amphora_id: str,
    sequence: int,
    readings: Mapping[str, InstanceReading],
    increases: Mapping[str, Counters],
) -> dict[str, Any]:
    """The message as a JSON object: every listener that is configured, whatever it says, and its
    pools.

    One silence of an instance is forgiven: it is told as it was, for it may be busy, or its master
    in the middle of a reload. After that its pools and members are down, which the controller
    shows as an error. (A listener has no such status: an unknown one only says that it is there.)
    """
    listeners: dict[str, Any] = {}
    pools: dict[str, Any] = {}
    for reading in readings.values():
        told = reading.current or reading.last
        for listener_id in reading.listeners:
            now = told.listeners.get(listener_id) if told is not None else None
            listeners[listener_id] = {
                "status": now.status if now is not None else UNREACHABLE,
                "stats": _stats(now, increases.get(listener_id, NO_COUNTERS)),
            }
        if told is not None:
            for pool_key, pool in told.pools.items():
                pools[pool_key] = {"status": pool.status, "members": dict(pool.members)}
        else:
            for pool_key, members in reading.pools.items():
                pools[pool_key] = {"status": "DOWN", "members": dict.fromkeys(members, "DOWN")}
    return {
        "id": amphora_id,
        "seq": sequence,
        "ver": VERSION,
        "listeners": listeners,
        "pools": pools,
    }


def _stats(now: ListenerReading | None, increase: Counters) -> dict[str, int]:
    return {
        "tx": increase.tx,
        "rx": increase.rx,
        "conns": now.conns if now is not None else 0,
        "totconns": increase.totconns,
        "ereq": increase.ereq,
    }


def seal(message: Mapping[str, Any], key: str) -> bytes:
    """The bytes on the wire: compressed JSON, then 64 hex digits of its HMAC-SHA256."""
    compressed = zlib.compress(msgspec.json.encode(message))
    return compressed + hmac.new(key.encode(), compressed, _DIGEST).hexdigest().encode()


def fit(message: Mapping[str, Any], key: str, most: int = LARGEST_DATAGRAM) -> Heartbeat:
    """Seal a message so that it fits a datagram of `most` bytes.

    A message that is too long says less: first without pools, which become OFFLINE to the
    controller, and in the end without statistics. Listeners are never left out: their number
    decides whether the amphora is alive.
    """
    if _least_size(message) <= most:
        datagram = seal(message, key)
        if len(datagram) <= most:
            return Heartbeat(datagram, "")
    left_out = f"{len(message['pools'])} pools with their members"
    datagram = seal({**message, "pools": {}}, key)
    if len(datagram) > most:
        left_out += ", statistics"
        bare = {
            listener_id: {
                "status": listener["status"],
                "stats": dict.fromkeys(listener["stats"], 0),
            }
            for listener_id, listener in message["listeners"].items()
        }
        datagram = seal({**message, "pools": {}, "listeners": bare}, key)
    return Heartbeat(datagram, left_out)


def _least_size(message: Mapping[str, Any]) -> int:
    """Fewer bytes than these no compression reaches; saves trying with a hopeless message."""
    pools = message["pools"]
    ids = len(message["listeners"]) + len(pools) + sum(len(p["members"]) for p in pools.values())
    return ids * _RANDOM_BYTES_PER_ID
