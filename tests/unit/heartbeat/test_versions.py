"""The older forms of the heartbeat (WIRE §6), checked by code that shares none with them."""

import hashlib
import hmac
import json
import zlib
from typing import Any

import pytest

from amphora_agent.heartbeat import message
from amphora_agent.model.status import (
    Counters,
    InstanceReading,
    ListenerReading,
    PoolReading,
    WorkerReading,
)

KEY = "key"
STATS = {"tx": 1, "rx": 2, "conns": 5, "totconns": 3, "ereq": 4}
COUNTED = Counters(tx=1, rx=2, totconns=3, ereq=4)


def instance(listener: str, **pools: str) -> InstanceReading:
    """One haproxy for one listener: its backends have the bare ids of pools. `pools` are theirs,
    by id, with the status of their only member."""
    current = WorkerReading(
        "w",
        {listener: ListenerReading("OPEN", 5, Counters(9, 9, 9, 9))},
        {pool: PoolReading("UP", {"m": status}) for pool, status in pools.items()},
    )
    return InstanceReading((listener,), current, ())


def sealed(version: int, readings: dict[str, InstanceReading]) -> bytes:
    counted = {listener: COUNTED for reading in readings.values() for listener in reading.listeners}
    return message.seal(message.build_content("a1", 7, readings, counted, version), KEY)


def opened(datagram: bytes, *, digits: bool = True) -> dict[str, Any]:
    size = 64 if digits else 32
    compressed, signature = datagram[:-size], datagram[-size:]
    expected = hmac.new(KEY.encode(), compressed, hashlib.sha256)
    assert signature == (expected.hexdigest().encode() if digits else expected.digest())
    decoded: dict[str, Any] = json.loads(zlib.decompress(compressed))
    return decoded


def test_version_1_has_pools_in_their_listeners() -> None:
    assert opened(sealed(1, {"l": instance("l", p="UP"), "k": instance("k")})) == {
        "id": "a1",
        "seq": 7,
        "ver": 1,
        "listeners": {
            "l": {
                "status": "OPEN",
                "stats": STATS,
                "pools": {"p": {"status": "UP", "members": {"m": "UP"}}},
            },
            "k": {"status": "OPEN", "stats": STATS, "pools": {}},
        },
    }


def test_version_0_has_no_version_and_a_binary_signature() -> None:
    readings = {"l": instance("l", p="UP")}
    numbered = opened(sealed(1, readings))
    del numbered["ver"]
    assert opened(sealed(0, readings), digits=False) == numbered


@pytest.mark.parametrize("version", [2, 3])
def test_later_versions_have_pools_beside_listeners(version: int) -> None:
    assert opened(sealed(version, {"l": instance("l", p="UP")})) == {
        "id": "a1",
        "seq": 7,
        "ver": version,
        "listeners": {"l": {"status": "OPEN", "stats": STATS}},
        "pools": {"p:l": {"status": "UP", "members": {"m": "UP"}}},
    }


def test_a_pool_of_two_haproxies_is_told_as_each_of_them_sees_it() -> None:
    sent = opened(sealed(1, {"l": instance("l", p="UP"), "k": instance("k", p="DOWN")}))
    members = {name: row["pools"]["p"]["members"] for name, row in sent["listeners"].items()}
    assert members == {"l": {"m": "UP"}, "k": {"m": "DOWN"}}


def test_pools_of_a_shared_haproxy_find_their_listeners() -> None:
    current = WorkerReading(
        "w",
        {name: ListenerReading("OPEN", 5, COUNTED) for name in ("l", "k")},
        {"p:l": PoolReading("UP", {}), "p:k": PoolReading("DOWN", {})},
    )
    sent = opened(sealed(1, {"lb": InstanceReading(("l", "k"), current, ())}))
    statuses = {name: row["pools"]["p"]["status"] for name, row in sent["listeners"].items()}
    assert statuses == {"l": "UP", "k": "DOWN"}


def test_pools_of_a_listener_that_is_not_configured_any_more_go_with_it() -> None:
    left = instance("l", p="UP")._replace(listeners=())
    sent = opened(sealed(1, {"k": left, "j": instance("j")}))
    assert sent["listeners"].keys() == {"k", "j"}
    of_the_past = {"lb": instance("l", **{"p:gone": "UP"})}
    assert opened(sealed(1, of_the_past))["listeners"]["l"]["pools"] == {}


@pytest.mark.parametrize(("version", "expected"), [(0, {"off"}), (1, {"off"}), (2, set())])
def test_only_old_controllers_hear_of_disabled_listeners(version: int, expected: set[str]) -> None:
    disabled = InstanceReading((), WorkerReading("w", {}, {}), ())
    sent = opened(sealed(version, {"off": disabled}), digits=version > 0)
    assert set(sent["listeners"]) == expected
    for row in sent["listeners"].values():
        assert (row["status"], row["stats"]["totconns"], row["pools"]) == ("DOWN", 0, {})


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_every_version_is_made_to_fit(version: int) -> None:
    readings = {f"l{n}": instance(f"l{n}", **{f"p{n}": "UP"}) for n in range(50)}
    content = message.build_content("a1", 0, readings, {}, version)
    whole = message.seal(content, KEY)
    heartbeat = message.fit(content, KEY, most=len(whole) - 1)
    sent = opened(heartbeat.datagram, digits=version > 0)
    assert heartbeat.left_out
    assert set(sent["listeners"]) == set(readings)
