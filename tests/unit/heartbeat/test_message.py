"""The heartbeat's content and envelope (WIRE §6), checked by code that shares none with it."""

import hashlib
import hmac
import json
import random
import uuid
import zlib
from typing import Any

import pytest

from amphora_agent.heartbeat import message
from amphora_agent.model.status import (
    NO_COUNTERS,
    Counters,
    InstanceReading,
    ListenerReading,
    PoolReading,
    WorkerReading,
)
from lab import heartbeats

KEY = "key with ümläut"


def opened(datagram: bytes, key: str = KEY) -> dict[str, Any]:
    """Octavia's side: 64 hex digits behind what they sign."""
    compressed, digest = datagram[:-64], datagram[-64:].decode("ascii")
    assert digest == hmac.new(key.encode(), compressed, hashlib.sha256).hexdigest()
    decoded: dict[str, Any] = json.loads(zlib.decompress(compressed))
    return decoded


def answered(*listeners: str, status: str = "OPEN") -> InstanceReading:
    current = WorkerReading(
        "w1",
        {name: ListenerReading(status, 3, Counters(9, 9, 9, 9)) for name in listeners},
        {f"p-{name}:{name}": PoolReading("UP", {f"m-{name}": "no check"}) for name in listeners},
    )
    return InstanceReading(listeners, current, ())


def test_the_content_has_octavia_s_shape() -> None:
    increases = {"l": Counters(tx=1, rx=2, totconns=3, ereq=4)}
    assert message.build_content("a1", 7, {"lb": answered("l")}, increases) == {
        "id": "a1",
        "seq": 7,
        "ver": 3,
        "listeners": {
            "l": {
                "status": "OPEN",
                "stats": {"tx": 1, "rx": 2, "conns": 3, "totconns": 3, "ereq": 4},
            }
        },
        "pools": {"p-l:l": {"status": "UP", "members": {"m-l": "no check"}}},
    }


def test_an_amphora_without_load_balancers_sends_empty_maps() -> None:
    assert message.build_content("a1", 0, {}, {}) == {
        "id": "a1",
        "seq": 0,
        "ver": 3,
        "listeners": {},
        "pools": {},
    }


def test_a_listener_without_traffic_reports_zeros() -> None:
    sent = message.build_content("a1", 0, {"lb": answered("l")}, {})
    assert sent["listeners"]["l"]["stats"] == {
        "tx": 0,
        "rx": 0,
        "conns": 3,
        "totconns": 0,
        "ereq": 0,
    }


def test_listeners_of_an_instance_that_does_not_answer_are_there_without_pools() -> None:
    readings = {"lb1": answered("l1"), "lb2": InstanceReading(("l2", "l3"), None, ())}
    increases = {"l2": Counters(1, 1, 1, 1)}  # of a worker's last word
    sent = message.build_content("a1", 0, readings, increases)
    assert set(sent["listeners"]) == {"l1", "l2", "l3"}
    assert sent["listeners"]["l2"] == {
        "status": "DOWN",
        "stats": {"tx": 1, "rx": 1, "conns": 0, "totconns": 1, "ereq": 1},
    }
    assert set(sent["pools"]) == {"p-l1:l1"}


def test_an_instance_that_misses_one_poll_keeps_its_last_reading() -> None:
    before = answered("l")
    silent = InstanceReading(("l",), None, (), before.current, {"p-l:l": ("m-l",)})
    told, again = (message.build_content("a1", 0, {"lb": r}, {}) for r in (before, silent))
    assert again == told


def test_after_that_pools_and_members_are_down() -> None:
    silent = InstanceReading(("l",), None, (), None, {"p-l:l": ("m1", "m2"), "empty:l": ()})
    sent = message.build_content("a1", 0, {"lb": silent}, {})
    assert sent["listeners"]["l"]["status"] == "DOWN"
    assert sent["pools"] == {
        "p-l:l": {"status": "DOWN", "members": {"m1": "DOWN", "m2": "DOWN"}},
        "empty:l": {"status": "DOWN", "members": {}},
    }


def test_a_listener_that_haproxy_does_not_know_yet_is_there() -> None:
    reading = answered("l1")._replace(listeners=("l1", "l2"))
    sent = message.build_content("a1", 0, {"lb": reading}, {})
    assert sent["listeners"]["l2"]["status"] == "DOWN"


def test_a_listener_that_haproxy_still_has_and_the_configuration_has_not_is_absent() -> None:
    reading = answered("l1", "gone")._replace(listeners=("l1",))
    sent = message.build_content("a1", 0, {"lb": reading}, {"gone": Counters(1, 1, 1, 1)})
    assert set(sent["listeners"]) == {"l1"}


def test_the_envelope_is_compressed_json_and_64_hex_digits_of_its_hmac() -> None:
    content = message.build_content("a1", 7, {"lb": answered("l")}, {})
    assert opened(message.seal(content, KEY)) == content
    assert heartbeats.decode(message.seal(content, KEY), KEY) == content


def test_another_key_makes_another_signature() -> None:
    content = message.build_content("a1", 7, {}, {})
    with pytest.raises(AssertionError):
        opened(message.seal(content, "other"))


def large(listeners: int, members: int, counters: int = 10**6) -> dict[str, Any]:
    """A message as large load balancers make it: random ids, increases below `counters`."""
    source = random.Random(2)

    def new_id() -> str:
        return str(uuid.UUID(int=source.getrandbits(128), version=4))

    names = [new_id() for _ in range(listeners)]
    current = WorkerReading(
        "w",
        {name: ListenerReading("OPEN", 0, Counters(0, 0, 0, 0)) for name in names},
        {
            f"{new_id()}:{name}": PoolReading("UP", {new_id(): "UP" for _ in range(members)})
            for name in names
        },
    )
    increases = {name: Counters(*(source.randrange(counters) for _ in range(4))) for name in names}
    return message.build_content(
        new_id(), 1, {"lb": InstanceReading(tuple(names), current, ())}, increases
    )


def test_a_message_that_fits_is_sent_whole() -> None:
    content = large(300, 4)
    heartbeat = message.fit(content, KEY)
    assert heartbeat.left_out == ""
    assert opened(heartbeat.datagram) == content


def test_a_message_that_is_too_long_goes_without_members_and_says_so() -> None:
    content = large(400, 10)
    heartbeat = message.fit(content, KEY)
    assert heartbeat.left_out == "4000 members"
    assert (heartbeat.members_left_out, heartbeat.pools_left_out) == (4000, 0)
    assert len(heartbeat.datagram) <= message.LARGEST_DATAGRAM
    pools = {key: {**pool, "members": {}} for key, pool in content["pools"].items()}
    assert opened(heartbeat.datagram) == {**content, "pools": pools}


def test_a_message_that_is_still_too_long_goes_without_pools_and_says_so() -> None:
    content = large(1100, 1)
    heartbeat = message.fit(content, KEY)
    assert heartbeat.left_out == "1100 pools with 1100 members"
    assert (heartbeat.members_left_out, heartbeat.pools_left_out) == (1100, 1100)
    assert len(heartbeat.datagram) <= message.LARGEST_DATAGRAM
    assert opened(heartbeat.datagram) == {**content, "pools": {}}


def test_in_the_end_a_message_goes_without_statistics_and_says_so() -> None:
    content = large(1800, 1)
    heartbeat = message.fit(content, KEY)
    assert heartbeat.left_out == "1800 pools with 1800 members, statistics"
    assert heartbeat.statistics_left_out == 1800
    assert len(heartbeat.datagram) <= message.LARGEST_DATAGRAM
    sent = opened(heartbeat.datagram)
    assert set(sent["listeners"]) == set(content["listeners"])
    assert {row["status"] for row in sent["listeners"].values()} == {"OPEN"}


@pytest.mark.parametrize(
    ("version", "told"), [(3, ["p1:l1", "p2:l2"]), (1, ["p1:l1", "p1:l2", "p2:l2"])]
)
def test_a_pool_that_listeners_share_is_told_once_where_pools_stand_by_themselves(
    version: int, told: list[str]
) -> None:
    pool = PoolReading("UP", {"m1": "UP"})
    listening = ListenerReading("OPEN", 0, NO_COUNTERS)
    worker = WorkerReading(
        "w", {"l1": listening, "l2": listening}, {"p1:l1": pool, "p1:l2": pool, "p2:l2": pool}
    )
    readings = {"lb": InstanceReading(("l1", "l2"), worker, ())}
    assert list(message.build_content("a1", 1, readings, {}, version)["pools"]) == told


@pytest.mark.parametrize(
    ("members", "listeners"), [(1, 600), (4, 369), (10, 210), (50, 55)], ids=str
)
def test_as_many_idle_listeners_fit_as_the_agent_before_could_send(
    members: int, listeners: int
) -> None:
    """Beyond these numbers that one sent nothing at all, and did not say so."""
    heartbeat = message.fit(large(listeners, members, counters=1), KEY)
    assert heartbeat.left_out == ""
    assert len(heartbeat.datagram) <= message.LARGEST_DATAGRAM
