"""The receiver believes only what is signed, whole, and a heartbeat."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import zlib
from collections.abc import Iterator

import pytest

from lab.heartbeats import BadHeartbeatError, HeartbeatReceiver, decode

KEY = "sesame"
MESSAGE = {
    "id": "amphora-1",
    "seq": 7,
    "ver": 3,
    "listeners": {"l1": {"status": "OPEN", "stats": {"tx": 1}}},
    "pools": {"p1:l1": {"status": "UP", "members": {"m1": "UP", "m2": "DRAIN"}}},
}


def envelope(compressed: bytes, key: str = KEY) -> bytes:
    return compressed + hmac.new(key.encode(), compressed, hashlib.sha256).hexdigest().encode()


def packed(message: object) -> bytes:
    return zlib.compress(json.dumps(message).encode())


@pytest.fixture(params=["127.0.0.1", "::1"])
def receiver(request: pytest.FixtureRequest) -> Iterator[HeartbeatReceiver]:
    with HeartbeatReceiver(KEY, address=request.param) as receiver:
        yield receiver


def send(receiver: HeartbeatReceiver, datagram: bytes) -> None:
    host, _, port = receiver.address.rpartition(":")
    family = socket.AF_INET6 if "[" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(datagram, (host.strip("[]"), int(port)))


def test_a_signed_heartbeat_is_decoded(receiver: HeartbeatReceiver) -> None:
    send(receiver, envelope(packed(MESSAGE)))
    heartbeat = receiver.next(1)
    assert heartbeat.message == MESSAGE
    assert (heartbeat.amphora_id, heartbeat.sequence, heartbeat.version) == ("amphora-1", 7, 3)
    assert heartbeat.members == {"m1": "UP", "m2": "DRAIN"}
    assert receiver.refused == []


def test_a_wrong_key_is_refused(receiver: HeartbeatReceiver) -> None:
    send(receiver, envelope(packed(MESSAGE), "another key"))
    with pytest.raises(TimeoutError, match="wrong HMAC"):
        receiver.next(0.2)
    assert len(receiver.refused) == 1


def test_a_good_heartbeat_after_bad_ones_is_found(receiver: HeartbeatReceiver) -> None:
    send(receiver, b"")
    send(receiver, envelope(packed(MESSAGE), "another key"))
    send(receiver, envelope(packed(MESSAGE | {"seq": 8})))
    assert receiver.wait_for(lambda heartbeat: heartbeat.sequence == 8, 1).sequence == 8
    assert len(receiver.refused) == 2


def test_waiting_in_vain_tells_what_was_seen(receiver: HeartbeatReceiver) -> None:
    send(receiver, envelope(packed(MESSAGE)))
    with pytest.raises(TimeoutError, match='"seq": 7'):
        receiver.wait_for(lambda heartbeat: heartbeat.sequence == 8, 0.2)


@pytest.mark.parametrize(
    "datagram",
    [
        envelope(packed(MESSAGE))[:-1],
        envelope(packed(MESSAGE)) + b"0",
        # One bit of the message flipped.
        bytes([envelope(packed(MESSAGE))[0] ^ 1]) + envelope(packed(MESSAGE))[1:],
        # Signed rightly, but not what is signed.
        envelope(packed(MESSAGE)[:-4]),
        envelope(packed(MESSAGE) + b"more"),
        envelope(b"not compressed"),
        envelope(zlib.compress(b"{not json")),
        envelope(packed([1, 2])),
        envelope(packed({"id": "amphora-1"})),
        # HMAC as bytes, not as digits.
        packed(MESSAGE) + hmac.new(KEY.encode(), packed(MESSAGE), hashlib.sha256).digest(),
    ],
)
def test_a_malformed_datagram_is_refused(datagram: bytes) -> None:
    with pytest.raises(BadHeartbeatError):
        decode(datagram, KEY)
