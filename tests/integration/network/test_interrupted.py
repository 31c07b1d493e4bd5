"""Killed before each of its steps, whatever is asked of the network is completed afterwards."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.network.crash_injection import CrashingProcess, Order
from tests.integration.network.rig import (
    MEMBER4,
    MEMBER6,
    MEMBER_MAC,
    MORE6,
    VIP4,
    VIP_MAC,
    Rig,
)

ROUTE = {"destination": "192.168.0.0/16", "nexthop": "10.1.0.9"}
OTHER_ROUTE = {"destination": "192.168.0.0/16", "nexthop": "10.2.0.9"}
VIP: dict[str, Any] = VIP4 | {"host_routes": [ROUTE], "additional_vips": [MORE6], "is_sriov": True}
MEMBERS: dict[str, Any] = {"mac_address": MEMBER_MAC, "mtu": 1450}
RULES: list[dict[str, Any]] = [
    {"protocol": "TCP", "cidr": None, "port": 80},
    {"protocol": "UDP", "cidr": "fd00::/8", "port": 53},
]


def plug_vip(**changes: Any) -> Order:
    return Order("plug_vip", ("10.1.0.5", VIP | changes))


def plug_members(*fixed_ips: dict[str, Any], **changes: Any) -> Order:
    return Order("plug_network", (MEMBERS | {"fixed_ips": fixed_ips} | changes,))


def set_rules(*rules: dict[str, Any]) -> Order:
    return Order("set_rules", ("10.1.0.7", rules), single=None)


RESTORE = Order("restore")
ON_THE_VIP_PORT = plug_members(
    {"ip_address": "10.1.0.7", "subnet_cidr": "10.1.0.0/24"},
    MEMBER4 | {"host_routes": [OTHER_ROUTE]},
    MEMBER6,
    mac_address=VIP_MAC,
    vip_net_info=VIP | {"vip": "10.1.0.5", "additional_vips": []},
)
PLUGGED = (plug_vip(), set_rules(RULES[0]))
#: What had been done before, and what is interrupted.
ORDERS: dict[str, tuple[tuple[Order, ...], Order]] = {
    "a VIP": ((), plug_vip()),
    "a member network": (PLUGGED, plug_members(MEMBER4 | {"host_routes": [OTHER_ROUTE]}, MEMBER6)),
    "a member network on the VIP port": (PLUGGED, ON_THE_VIP_PORT),
    "a VIP port with other addresses": (
        PLUGGED,
        plug_vip(vrrp_ip="10.1.0.8", gateway="10.1.0.2", mtu=1400, additional_vips=[]),
    ),
    "a member port with other addresses": (
        (*PLUGGED, plug_members(MEMBER4, MEMBER6)),
        plug_members(
            MEMBER4 | {"ip_address": "10.2.0.6"}, MEMBER6 | {"ip_address": "fd02::6"}, mtu=1400
        ),
    ),
    "rules": (PLUGGED, set_rules(*RULES)),
}


_numbers = itertools.count()


@pytest.fixture
def crashing(rig: Rig) -> Iterator[CrashingProcess]:
    with CrashingProcess(rig.layout.base.parent, rig.namespace.name) as made:
        yield made


class Machine:
    """With two cards, that can be what it was before."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.rig.quick_ipv6()
        self.rig.vip_port()
        self.rig.member_port()

    def state(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """What there is, and what is remembered."""
        return self.rig.everything(), self.records()

    def records(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.rig.records.glob("*.json")}

    def reboot(self, records: dict[str, bytes]) -> None:
        """With these remembered, and no others."""
        # Real cards fall back to the machine's namespace with the end of their own.
        for link in self.rig.ip("link", "show"):
            if link["ifname"] != "lo":
                outside = [str(os.getpid()), "name", f"back{os.getpid()}n{next(_numbers)}"]
                self.rig.inside.ip(
                    *("link", "set", link["ifname"], "down", "mtu", "1500", "netns", *outside)
                )
        self.rig.reboot()
        for name in self.records():
            (self.rig.records / name).unlink()
        for name, content in records.items():
            (self.rig.records / name).write_bytes(content)
        self.rig.quick_ipv6()

    def left_over(self) -> list[Path]:
        """Files that nobody will ever read."""
        return list(self.rig.records.glob(".stage-*"))


@pytest.fixture
def machine(rig: Rig) -> Machine:
    return Machine(rig)


@pytest.mark.parametrize("what", ORDERS)
def test_what_was_killed_before_any_step_is_completed_by_its_repetition(
    machine: Machine, crashing: CrashingProcess, what: str
) -> None:
    earlier, order = ORDERS[what]
    for each in earlier:
        crashing.do(each)
    before = machine.state()
    crashing.do(order)
    complete = machine.state()
    assert complete != before
    has_left_something_over = False
    for number in itertools.count():
        machine.reboot(before[1])
        if earlier:
            crashing.do(RESTORE)
        step = crashing.do(order, before=number)
        if step is None:
            break
        has_left_something_over |= machine.left_over() != []
        crashing.do(order)
        assert machine.state() == complete, f"killed before {step}"
    assert has_left_something_over
    crashing.do(RESTORE)
    assert machine.left_over() == []


@pytest.mark.parametrize("what", ORDERS)
def test_what_was_killed_before_any_step_is_completed_or_forgotten_by_the_next_start(
    machine: Machine, crashing: CrashingProcess, what: str
) -> None:
    earlier, order = ORDERS[what]
    for each in earlier:
        crashing.do(each)
    before = machine.state()
    crashing.do(order)
    complete = machine.state()
    assert complete != before
    outcomes = []
    for number in itertools.count():
        machine.reboot(before[1])
        if earlier:
            crashing.do(RESTORE)
        step = crashing.do(order, before=number)
        if step is None:
            break
        is_remembered = machine.records() != before[1]
        crashing.do(RESTORE)
        assert machine.state() == (complete if is_remembered else before), f"killed before {step}"
        outcomes.append(is_remembered)
    # Once remembered, always remembered.
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_a_restoration_that_was_killed_before_any_step_is_completed_by_the_next(
    machine: Machine, crashing: CrashingProcess
) -> None:
    for order in (*PLUGGED, plug_members(MEMBER4 | {"host_routes": [OTHER_ROUTE]}, MEMBER6)):
        crashing.do(order)
    complete = machine.state()
    for number in itertools.count():
        machine.reboot(complete[1])
        step = crashing.do(RESTORE, before=number)
        if step is None:
            break
        crashing.do(RESTORE)
        assert machine.state() == complete, f"killed before {step}"
    assert number > 30


def test_the_first_plug_of_all_that_was_killed_before_any_step_is_completed_by_its_repetition(
    rig: Rig, crashing: CrashingProcess
) -> None:
    """Without even a namespace, in which DAD would take its time: IPv4 alone."""
    order = plug_vip(additional_vips=[], is_sriov=False)
    complete: dict[str, Any] = {}
    steps = []
    for number in itertools.count():
        cable = rig.vip_port()
        step = crashing.do(order, before=number)
        if step:
            steps.append(step)
            crashing.do(order)
        complete = complete or rig.everything()
        assert rig.everything() == complete, f"killed before {step}"
        cable.unplug()
        if step is None:
            break
        rig.reboot()
        for record in rig.records.iterdir():
            record.unlink()
    assert any(step.startswith("_mount") for step in steps)
