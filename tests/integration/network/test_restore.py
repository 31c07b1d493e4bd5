"""What comes back: at a restart of the agent, and after a reboot."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.integration.network.rig import (
    MEMBER4,
    MEMBER6,
    MEMBER_MAC,
    MORE6,
    OTHER_MAC,
    VIP_MAC,
    Rig,
)

REPOSITORY = Path(__file__).parents[3]


def test_everything_comes_back_after_a_reboot(rig: Rig) -> None:
    rig.quick_ipv6()
    rig.vip_port()
    rig.member_port()
    route = {"destination": "192.168.0.0/16", "nexthop": "10.2.0.9"}
    rig.plug_vip(additional_vips=[MORE6])
    rig.plug_member(MEMBER4 | {"host_routes": [route]}, MEMBER6)
    before = rig.everything()
    assert not [path for path in rig.records.iterdir() if path.suffix != ".json"]

    rig.reboot()
    # The kernel finds the cards in another order, under names of its own.
    rig.member_port(ifname="eth1")
    rig.vip_port(ifname="eth2")
    rig.agent().restore(single=True)
    assert rig.everything() == before
    assert rig.answers("10.1.0.5")
    assert rig.answers("fd01::5")
    assert rig.answers("10.2.0.5")


def test_one_failure_does_not_stop_the_next(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.vip_port()
    rig.member_port()
    rig.port(OTHER_MAC)
    rig.plug_vip()
    rig.plug_member()
    rig.plug_member({"ip_address": "10.4.0.5", "subnet_cidr": "10.4.0.0/24"}, mac_address=OTHER_MAC)
    rig.reboot()
    # The VIP's card is gone, and the member's record is damaged.
    rig.member_port()
    rig.port(OTHER_MAC)
    (rig.records / f"{MEMBER_MAC.replace(':', '-')}.json").write_bytes(b'{"mac": ')
    rig.agent().restore(single=True)
    assert rig.addresses("eth3") == {"10.4.0.5/24"}
    assert any(VIP_MAC in line and "not restored" in line for line in caplog.messages)
    assert any(MEMBER_MAC.replace(":", "-") in line for line in caplog.messages)
    # The controller can still put it right; its old name is free.
    assert rig.plug_member() == "Plugged on interface eth2"


def test_a_card_that_is_late_at_boot_is_awaited(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_vip()
    rig.reboot()
    plugging = rig.late_vip_port(0.3)
    try:
        rig.agent(port_timeout=10).restore(single=True)
    finally:
        plugging.join()
    assert rig.answers("10.1.0.5")


def test_a_card_that_is_gone_does_not_delay_a_restart(rig: Rig) -> None:
    cable = rig.vip_port()
    rig.plug_vip()
    cable.unplug()
    begin = time.monotonic()
    rig.agent(port_timeout=10).restore(single=True)
    assert time.monotonic() - begin < 5


def test_files_of_others_in_the_directory_are_left_alone(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.records.mkdir()
    (rig.records / "eth1.json").write_text("{}")
    rig.vip_port()
    rig.plug_vip()
    rig.agent().restore(single=True)
    assert (rig.records / "eth1.json").read_text() == "{}"
    assert not any("eth1.json" in line for line in caplog.messages)


def test_an_agent_without_ports_needs_no_netlink_library(rig: Rig) -> None:
    program = """
import sys
from pathlib import Path
from amphora_agent.wiring import make_network
from amphora_agent.network.records import Leases
from tests.integration.network.rig import layout_below
layout = layout_below(Path(sys.argv[1]), sys.argv[2])
network = make_network(layout, Leases(layout.leases))
network.restore(single=True)
assert network.counters() == {}
assert not any(name.startswith(("pyroute2", "asyncio")) for name in sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", program, str(rig.layout.base.parent), rig.namespace.name],
        cwd=REPOSITORY,
        check=True,
    )
    assert "UP" in rig.link("lo")["flags"]


def test_nothing_leaks(rig: Rig) -> None:
    rig.quick_ipv6()
    rig.vip_port()
    rig.member_port()

    def work() -> None:
        rig.plug_vip(additional_vips=[MORE6])
        rig.plug_member()
        rig.network.interface_of("10.1.0.5")
        rig.network.counters()
        rig.agent().restore(single=True)

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    work()
    before = held()
    for number in range(25):
        # Every other time there is something to do.
        rig.plug_vip(additional_vips=[], mtu=1400 + number)
        work()
    assert held() == before
    assert sorted(link["ifname"] for link in rig.ip("link", "show")) == ["eth1", "eth2", "lo"]
    assert len(list(rig.records.iterdir())) == 2
