"""Announcements on a real wire: what a neighbour hears and believes, and what is kept from it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from amphora_agent.model.addressing import Address, parse_address, parse_mac
from amphora_agent.namespace import Namespace
from amphora_agent.network.announcer import PAUSES, Announcer, announce_once, build_frames
from lab.network import Lab
from lab.waiting import until

MAC = "fa:16:3e:aa:00:01"
STRANGER = "fa:16:3e:bb:00:01"
VIP4, VIP6 = IPv4Address("10.1.0.5"), IPv6Address("fd01::5")
OTHER4, OTHER6 = IPv4Address("10.1.0.6"), IPv6Address("fd01::6")

ROUND = {"request 10.1.0.5": 1, "reply 10.1.0.5": 1, "override fd01::5": 1}

#: Reserved for experiments (IEEE 802): nobody else's frames have it.
_MARK = b"\x88\xb5"
_ETH_P_ALL = 3

_numbers = itertools.count()


class Wire:
    """An amphora with eth1, the neighbour at its other end, and what that hears of it."""

    def __init__(self, lab: Lab) -> None:
        self.amphora = lab.namespace("amphora")
        self.neighbour = lab.namespace("neighbour")
        lab.cable(self.amphora, "eth1", self.neighbour, "eth0", mac_a=MAC)
        self.amphora.address("eth1", "10.1.0.5/24", "fd01::5/64")
        self.neighbour.address("eth0", "10.1.0.1/24", "fd01::1/64")
        self.namespace = Namespace(self.amphora.path)
        self._ear = self.neighbour.inside(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        )
        self._ear.bind(("eth0", _ETH_P_ALL))
        self._ear.settimeout(10)
        self._heard: Counter[str] = Counter()

    def close(self) -> None:
        self._ear.close()

    def heard(self) -> dict[str, int]:
        """All announcements so far, and how often."""
        mark = _ethernet(_MARK, next(_numbers).to_bytes(4, "big"))
        self.send(mark)
        while (frame := self._ear.recv(2048)) != mark:
            if said := _announced(frame):
                self._heard[said] += 1
        return dict(self._heard)

    def send(self, frame: bytes) -> None:
        """As if the amphora did."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
                raw.bind(("eth1", 0))
                raw.send(frame)

        self.amphora.inside(send)

    def await_rounds(self, count: int) -> None:
        wanted = _rounds(count)
        until(lambda: self.heard().items() >= wanted.items(), f"{count} rounds")

    def mislead(self, address: Address) -> None:
        """Let the neighbour believe that a stranger has `address`."""
        self.neighbour.ip(
            *("neighbour", "replace", str(address), "lladdr", STRANGER),
            *("dev", "eth0", "nud", "reachable"),
        )

    def believed(self, address: Address) -> str:
        """The MAC address that the neighbour would send to."""
        [entry] = json.loads(self.neighbour.ip("-json", "neighbour", "show", str(address)))
        return str(entry["lladdr"])

    def answers(self, address: Address, *, patience: float) -> bool:
        ping = ["ping", "-c1", f"-W{patience}", str(address)]
        return self.neighbour.run(ping, check=False).returncode == 0

    def flags(self, address: Address) -> set[str]:
        """What is said of an address of the amphora: `tentative`, `dadfailed`."""
        [link] = json.loads(self.amphora.ip("-json", "address", "show", "dev", "eth1"))
        [found] = [each for each in link["addr_info"] if each["local"] == str(address)]
        return {key for key, value in found.items() if value is True}


class Clock:
    """Stands still, so that what happens at which moment is certain."""

    def __init__(self) -> None:
        self.now = 0.0
        self._reads = 0

    def __call__(self) -> float:
        self._reads += 1
        return self.now

    def move_to(self, now: float) -> None:
        """Return when all that is due at `now` is done."""
        self.now = now
        # The second look comes after what the first one led to.
        enough = self._reads + 2
        until(lambda: self._reads >= enough or not _announcing(), f"what is due at {now}")


@pytest.fixture(name="wire")
def _wire() -> Iterator[Wire]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Lab(f"news{os.getpid()}-{next(_numbers)}") as lab:
        wire = Wire(lab)
        yield wire
        _await_silence()
        wire.close()


def _quick(wire: Wire) -> Announcer:
    return Announcer(wire.namespace, pauses=(0.01, 0.03))


def _rounds(count: int) -> dict[str, int]:
    return {said: count for said in ROUND}


def _announcing() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "announcer"]


def _await_silence() -> None:
    until(lambda: not _announcing(), "all rounds to be over")


def _ethernet(kind: bytes, payload: bytes) -> bytes:
    # Long enough that nobody needs to pad it.
    return (b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")) + kind + payload).ljust(60, b"\0")


def _announced(frame: bytes) -> str | None:
    if frame[6:12].hex(":") != MAC:
        return None
    if frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42]:
        form = {1: "request", 2: "reply"}[frame[21]]
        return f"{form} {IPv4Address(frame[28:32])}"
    if frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136:
        return f"{'override' if frame[58] & 0x20 else 'hint'} {IPv6Address(frame[62:78])}"
    return None


# What a neighbour hears


def test_three_rounds_of_request_and_reply_and_overriding_advertisement(wire: Wire) -> None:
    _quick(wire).announce("eth1", [VIP4, VIP6])
    wire.await_rounds(3)
    _await_silence()
    assert wire.heard() == _rounds(3)


def test_the_pauses_grow(wire: Wire) -> None:
    clock = Clock()
    first, second = 1 / 64, 1 / 16
    Announcer(wire.namespace, (first, second), clock).announce("eth1", [VIP4, VIP6])
    wire.await_rounds(1)
    clock.move_to(first * 0.99)
    assert wire.heard() == _rounds(1)
    clock.move_to(first)
    wire.await_rounds(2)
    clock.move_to(first + second * 0.99)
    assert wire.heard() == _rounds(2)
    clock.move_to(first + second)
    wire.await_rounds(3)
    assert list(PAUSES) == sorted(set(PAUSES))
    assert len(PAUSES) == 2


def test_one_round_is_over_when_the_call_returns(wire: Wire) -> None:
    announce_once(wire.namespace, "eth1", [VIP4, VIP6])
    assert not _announcing()
    wire.await_rounds(1)
    assert wire.heard() == _rounds(1)


@pytest.mark.parametrize("address", [VIP4, VIP6], ids=str)
def test_a_neighbour_that_knew_another_holder_is_put_right(wire: Wire, address: Address) -> None:
    wire.mislead(address)
    assert not wire.answers(address, patience=0.2)
    announce_once(wire.namespace, "eth1", [address])
    until(lambda: wire.believed(address) == MAC, "the neighbour to believe it")
    assert wire.answers(address, patience=5)


@pytest.mark.parametrize(
    ("address", "index"),
    [(VIP4, 0), (VIP4, 1), (VIP6, 0)],
    ids=["request", "reply", "advertisement"],
)
def test_each_frame_is_enough_by_itself(wire: Wire, address: Address, index: int) -> None:
    wire.mislead(address)
    wire.send(build_frames(parse_mac(MAC), address)[index])
    until(lambda: wire.believed(address) == MAC, "the neighbour to believe it")


# Beside everything else


def test_the_call_returns_although_nothing_can_be_sent_yet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening a pipe that nobody writes to takes as long as one likes."""
    pipe = tmp_path / "namespace"
    os.mkfifo(pipe)
    Announcer(Namespace(pipe), pauses=()).announce("eth1", [VIP4])
    [thread] = _announcing()
    assert thread.daemon
    pipe.write_bytes(b"")
    _await_silence()
    assert _warnings(caplog) == [
        "eth1: 10.1.0.5 is not announced: Cannot enter the network namespace: "
        f"{pipe}: Invalid argument"
    ]


def test_there_is_no_thread_before_there_is_something_to_announce(wire: Wire) -> None:
    announcer = _quick(wire)
    announcer.announce("eth1", [])
    assert not _announcing()
    announcer.announce("eth1", [VIP4, VIP6])
    wire.await_rounds(3)
    _await_silence()
    announcer.announce("eth1", [VIP4, VIP6])
    wire.await_rounds(6)


def test_a_new_address_does_not_wait_for_the_rounds_of_another(wire: Wire) -> None:
    clock = Clock()
    announcer = Announcer(wire.namespace, pauses=(600,), clock=clock)
    announcer.announce("eth1", [VIP4])
    until(lambda: "reply 10.1.0.5" in wire.heard(), "the first address")
    announcer.announce("eth1", [VIP6])
    wire.await_rounds(1)
    clock.now = 600
    announcer.announce("eth1", [])  # wakes the thread, which finds the last rounds due
    wire.await_rounds(2)


def test_a_thousand_calls_are_one_announcement(wire: Wire) -> None:
    clock = Clock()
    announcer = Announcer(wire.namespace, (1 / 64, 1 / 16), clock)

    def hammer() -> None:
        for _ in range(250):
            announcer.announce("eth1", [VIP4, VIP6])

    hammering = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in hammering:
        thread.start()
    for thread in hammering:
        thread.join()
    assert len(_announcing()) == 1
    wire.await_rounds(1)
    clock.move_to(1 / 64)
    wire.await_rounds(2)
    clock.move_to(1)
    wire.await_rounds(3)
    clock.move_to(2)
    clock.move_to(3)
    _await_silence()
    # The first round may have been sent before the last call, which is owed three of its own.
    assert wire.heard() in (_rounds(3), _rounds(4))


def test_asking_again_begins_anew_after_the_first_pause(wire: Wire) -> None:
    clock = Clock()
    announcer = Announcer(wire.namespace, (1 / 64, 1 / 16), clock)
    announcer.announce("eth1", [VIP4, VIP6])
    wire.await_rounds(1)
    clock.move_to(1)
    wire.await_rounds(2)
    announcer.announce("eth1", [VIP4, VIP6])
    clock.move_to(1)
    assert wire.heard() == _rounds(2)
    for count in (3, 4, 5):
        clock.move_to(float(count))
        wire.await_rounds(count)
    _await_silence()
    assert wire.heard() == _rounds(5)


# What is not announced


def test_an_address_that_left_between_rounds(wire: Wire) -> None:
    clock = Clock()
    Announcer(wire.namespace, (1 / 64, 1 / 16), clock).announce("eth1", [VIP4, VIP6])
    wire.await_rounds(1)
    wire.amphora.ip("address", "delete", "10.1.0.5/24", "dev", "eth1")
    clock.move_to(1)
    clock.move_to(2)
    until(lambda: wire.heard()["override fd01::5"] == 3, "the other one's rounds")
    _await_silence()
    assert wire.heard() == ROUND | {"override fd01::5": 3}


def _missing4(wire: Wire) -> Address:
    return OTHER4


def _missing6(wire: Wire) -> Address:
    return OTHER6


def _elsewhere(wire: Wire) -> Address:
    """Held, by another interface."""
    wire.amphora.ip("address", "add", f"{OTHER4}/32", "dev", "lo")
    return OTHER4


def _tentative(wire: Wire) -> Address:
    _do_dad(wire)
    # So many probes that it does not end.
    wire.amphora.sysctl("net.ipv6.conf.eth1.dad_transmits", "1000")
    wire.amphora.ip("address", "add", f"{OTHER6}/128", "dev", "eth1")
    assert wire.flags(OTHER6) >= {"tentative"}
    return OTHER6


def _duplicate(wire: Wire) -> Address:
    _do_dad(wire)
    wire.neighbour.address("eth0", f"{OTHER6}/64")
    wire.amphora.ip("address", "add", f"{OTHER6}/128", "dev", "eth1")
    until(lambda: "dadfailed" in wire.flags(OTHER6), "the duplicate to be detected")
    return OTHER6


def _do_dad(wire: Wire) -> None:
    wire.amphora.sysctl("net.ipv6.conf.all.accept_dad", "1")
    wire.amphora.sysctl("net.ipv6.conf.eth1.accept_dad", "1")


@pytest.mark.parametrize("prepare", [_missing4, _missing6, _elsewhere, _tentative, _duplicate])
def test_an_address_that_is_not_there_or_not_usable(
    wire: Wire, caplog: pytest.LogCaptureFixture, prepare: Callable[[Wire], Address]
) -> None:
    """Although any socket could be bound to it. The others are announced."""
    wire.amphora.sysctl("net.ipv4.ip_nonlocal_bind", "1")
    wire.amphora.sysctl("net.ipv6.ip_nonlocal_bind", "1")
    address = prepare(wire)
    _quick(wire).announce("eth1", [address, VIP4, VIP6])
    wire.await_rounds(3)
    _await_silence()
    assert wire.heard() == _rounds(3)
    assert _warnings(caplog) == [
        f"eth1: {address} is not announced: the interface does not have it, or may not use it"
    ]


def test_an_address_becomes_usable_between_rounds(wire: Wire) -> None:
    clock = Clock()
    announcer = Announcer(wire.namespace, (1 / 64, 1 / 16), clock)
    wire.amphora.ip("address", "delete", "10.1.0.5/24", "dev", "eth1")
    announcer.announce("eth1", [VIP4, VIP6])
    until(lambda: wire.heard() == {"override fd01::5": 1}, "the first round")
    wire.amphora.address("eth1", "10.1.0.5/24")
    clock.move_to(1)
    clock.move_to(2)
    until(lambda: wire.heard() == {said: 2 for said in ROUND} | {"override fd01::5": 3}, "the rest")


# What fails


def test_an_interface_that_is_not_there_stops_no_other(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    announcer = _quick(wire)
    announcer.announce("eth9", [OTHER4, OTHER6])
    announcer.announce("eth1", [VIP4, VIP6])
    wire.await_rounds(3)
    _await_silence()
    assert wire.heard() == _rounds(3)
    assert _warnings(caplog) == [
        f"eth9: {address} is not announced: there is no such interface"
        for address in (OTHER4, OTHER6)
    ]


def test_an_interface_that_is_down_stops_no_other(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.amphora.ip("link", "add", "eth2", "type", "veth", "peer", "name", "eth3")
    wire.amphora.ip("address", "add", f"{OTHER4}/24", "dev", "eth2")
    wire.amphora.ip("address", "add", "10.1.0.8/24", "dev", "eth2")
    announcer = _quick(wire)
    announcer.announce("eth2", [OTHER4, parse_address("10.1.0.8")])
    announcer.announce("eth1", [VIP4, VIP6])
    wire.await_rounds(3)
    _await_silence()
    assert _warnings(caplog) == [
        f"eth2: {address} is not announced: [Errno 100] Network is down"
        for address in (OTHER4, "10.1.0.8")
    ]


def test_a_frame_that_the_kernel_refuses_stops_no_other(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.amphora.address("eth1", f"{OTHER4}/24")
    rules = (
        "add table netdev t",
        'add chain netdev t c { type filter hook egress device "eth1" priority 0; }',
        f"add rule netdev t c arp saddr ip {OTHER4} drop",
    )
    wire.amphora.run(["nft", "-f", "-"], stdin="\n".join(rules))
    _quick(wire).announce("eth1", [OTHER4, VIP4, VIP6])
    wire.await_rounds(3)
    _await_silence()
    assert wire.heard() == _rounds(3)
    assert _warnings(caplog) == [
        f"eth1: {OTHER4} is not announced: [Errno 105] No buffer space available"
    ]


def test_a_namespace_that_is_gone_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Namespace(tmp_path / "gone")
    announce_once(gone, "eth1", [VIP4, VIP6])
    assert [each.split(":")[0] for each in _warnings(caplog)] == ["eth1", "eth1"]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
