"""What is asked of IPVS, and what its answers mean: recorded from a kernel that has it.

Recorded, because hardly a machine that tests this has IPVS; tests/vm speaks to the kernel itself.
"""

import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.keepalived.config.lvs import Endpoint
from amphora_agent.keepalived.lvs import ipvs
from amphora_agent.keepalived.lvs.poller import Destination, Service
from amphora_agent.model.status import Counters

RECORDED = Path(__file__).with_name("ipvs_replies.json")
_ERROR = 2  # NLMSG_ERROR
_ENOENT, _ESRCH = 2, 3


class Kernel:
    """In place of a socket: expects what was asked, in that order, and has its answers."""

    def __init__(self, exchange: list[dict[str, str]]) -> None:
        self._exchange = exchange

    def __call__(self, *arguments: object) -> "Kernel":
        return self

    def send(self, data: bytes) -> None:
        asked = bytes.fromhex(self._exchange.pop(0)["sent"])
        assert data.hex() == asked.hex()

    def recv(self, size: int) -> bytes:
        return bytes.fromhex(self._exchange.pop(0)["got"])

    def close(self) -> None:
        """All that was recorded has been used."""
        assert self._exchange == []

    def __getattr__(self, name: str) -> Any:
        assert name in {"bind", "settimeout", "setsockopt"}
        return lambda *arguments: None


def exchange() -> list[dict[str, str]]:
    recorded: list[dict[str, str]] = json.loads(RECORDED.read_text())
    return recorded


def refusal(asked: dict[str, str], error: int) -> dict[str, str]:
    """What the kernel says to a request that it refuses."""
    header = bytes.fromhex(asked["sent"])[:16]
    [sequence] = struct.unpack_from("=I", header, 8)
    return {"got": (struct.pack("=IHHIIi", 36, _ERROR, 0, sequence, 0, -error) + header).hex()}


def services(monkeypatch: pytest.MonkeyPatch, replies: list[dict[str, str]]) -> list[Service]:
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Kernel(replies))
        return ipvs.read_services()


def test_services_of_both_ip_versions_with_what_they_have_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert services(monkeypatch, exchange()) == [
        Service(
            "UDP",
            Endpoint("10.1.0.5", 53),
            Counters(tx=205, rx=165, totconns=5, ereq=0),
            (
                Destination(Endpoint("10.2.0.12", 5300), 1, active=0, inactive=3),
                Destination(Endpoint("10.2.0.11", 5300), 1, active=0, inactive=2),
            ),
        ),
        Service(
            "UDP",
            Endpoint("2001:db8:1::5", 53),
            Counters(0, 0, 0, 0),
            (
                Destination(Endpoint("2001:db8:2::12", 5300), 1, active=0, inactive=0),
                Destination(Endpoint("2001:db8:2::11", 5300), 1, active=0, inactive=0),
            ),
        ),
    ]


def test_a_kernel_without_ipvs_has_no_services(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = exchange()[0]
    assert services(monkeypatch, [asked, refusal(asked, _ENOENT)]) == []


def test_a_service_that_is_taken_out_meanwhile_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = exchange()
    asked = [index for index, each in enumerate(recorded) if "sent" in each]
    first_destinations, second_destinations = asked[2:]
    replies = [
        *recorded[: first_destinations + 1],
        refusal(recorded[first_destinations], _ESRCH),
        *recorded[second_destinations:],
    ]
    assert [each.endpoint.address for each in services(monkeypatch, replies)] == ["2001:db8:1::5"]


def test_another_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = exchange()[0]
    with pytest.raises(PermissionError, match=os.strerror(1)):
        services(monkeypatch, [asked, refusal(asked, 1)])
