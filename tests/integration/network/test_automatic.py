"""Ports whose addresses the network gives: by a real DHCP server, by router advertisements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.model.addressing import parse_mac
from amphora_agent.network.dhcp_client import DhcpClients
from amphora_agent.network.records import Leases
from amphora_agent.network.service import Network
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
from lab import processes
from lab.dhcp import DhcpServer
from lab.network import Cable
from lab.waiting import until
from tests.integration.network.rig import MAIN, MEMBER4, MEMBER_MAC, VIP_MAC, VIP_TABLE, Rig

OWN = "proto 154"


class Automatic:
    """An agent with DHCP clients, and the servers on the networks of its ports."""

    def __init__(self, rig: Rig, ending: ExitStack) -> None:
        self.rig = rig
        self.leases = Leases(rig.layout.leases)
        self._ending = ending
        supervisor = EmbeddedSupervisor(rig.layout.processes, rig.layout.run)
        supervisor.adopt()
        supervisor.resume()
        self.clients = DhcpClients(
            supervisor,
            self.leases,
            rig.namespace.path,
            rig.options.command("network", "lease"),
            writable=(),
        )
        ending.callback(self._stop)
        rig.network = self.restarted()

    def _stop(self) -> None:
        for name in self.clients.interfaces():
            self.clients.stop(name)

    def restarted(self) -> Network:
        return self.rig.agent(dhcp=self.clients)

    def serve(self, cable: Cable, subnet: str, last: int = 50, *options: str) -> DhcpServer:
        address = f"{subnet}.{last}"
        directory = self.rig.lab.directory()
        router = self.rig.router
        server = DhcpServer(
            router, cable.ifname_a, address, address, directory=directory, options=options
        )
        self._ending.callback(server.close)
        return server

    def plug_member(self) -> str:
        return self.rig.plug_member(fixed_ips=None)


@pytest.fixture
def automatic(rig: Rig) -> Iterator[Automatic]:
    with ExitStack() as ending:
        yield Automatic(rig, ending)


def test_a_member_network_by_dhcp(automatic: Automatic) -> None:
    rig = automatic.rig
    automatic.serve(
        rig.member_port(), "10.2.0", 50, "121,192.168.7.0/24,10.2.0.9,0.0.0.0/0,10.2.0.1"
    )
    assert automatic.plug_member() == "Plugged on interface eth2"
    assert rig.addresses("eth2") == {"10.2.0.50/24"}
    # A member network never leads to the world, whatever its server says.
    assert rig.routes(MAIN, "eth2") == {
        "10.2.0.0/24 src 10.2.0.50 proto kernel",
        f"192.168.7.0/24 via 10.2.0.9 {OWN}",
    }
    assert rig.answers("10.2.0.50")
    assert rig.announced[-1] == ("eth2", ["10.2.0.50"])


def test_a_vip_port_by_dhcp(automatic: Automatic) -> None:
    rig = automatic.rig
    automatic.serve(rig.vip_port(), "10.1.0", 50)
    rig.plug_vip(vrrp_ip=None)
    assert rig.addresses("eth1") == {"10.1.0.50/24", "10.1.0.5/32"}
    assert f"default via 10.1.0.1 {OWN}" in rig.routes(MAIN)
    assert f"10.1.0.0/24 src 10.1.0.5 {OWN}" in rig.routes(VIP_TABLE)
    assert rig.answers("10.1.0.5")


def test_a_repeated_plug_and_a_restarted_agent_change_nothing(automatic: Automatic) -> None:
    rig = automatic.rig
    automatic.serve(rig.member_port(), "10.2.0")
    automatic.plug_member()
    before, client = rig.everything(), clients(rig)
    assert automatic.plug_member() == "Updated existing interface eth2"
    assert automatic.restarted().restore(single=True) == []
    assert list(rig.network.plan(single=True)) == []
    assert rig.everything() == before
    assert clients(rig) == client != []


def test_a_reboot_brings_the_address_back_before_any_server_answers(automatic: Automatic) -> None:
    rig = automatic.rig
    with automatic.serve(rig.member_port(), "10.2.0"):
        automatic.plug_member()
    before = rig.everything()
    automatic.clients.stop("eth2")
    rig.reboot()
    rig.member_port()
    assert rig.agent().restore(single=True) == []  # as network up does it
    assert rig.everything() == before


def test_fixed_addresses_in_place_of_the_lent_one_end_the_client(automatic: Automatic) -> None:
    rig = automatic.rig
    automatic.serve(rig.member_port(), "10.2.0")
    automatic.plug_member()
    rig.plug_member(MEMBER4)
    assert rig.addresses("eth2") == {"10.2.0.5/24"}
    assert clients(rig) == []
    assert automatic.leases.get(parse_mac(MEMBER_MAC)) is None
    automatic.plug_member()
    assert rig.addresses("eth2") == {"10.2.0.50/24"}


def test_another_lease_is_followed_without_the_agent(automatic: Automatic) -> None:
    rig = automatic.rig
    cable = rig.member_port()
    with automatic.serve(cable, "10.2.0", 50):
        automatic.plug_member()
    automatic.serve(cable, "10.2.0", 60)
    automatic.clients.restart(parse_mac(MEMBER_MAC), "eth2")
    until(lambda: rig.addresses("eth2") == {"10.2.0.60/24"}, "the other lease is there", timeout=20)


def test_a_member_network_by_router_advertisements_alone(automatic: Automatic) -> None:
    rig = automatic.rig
    rig.quick_ipv6()
    cable = rig.member_port()
    with rig.advertising(cable.ifname_a, "fd02::"):
        assert automatic.plug_member() == "Plugged on interface eth2"
    [learned] = [each for each in rig.addresses("eth2") if each.startswith("fd02::")]
    assert rig.answers(learned.removesuffix("/64"))
    assert not any("default" in route for route in rig.routes(MAIN, "eth2"))


def test_no_server_and_no_router_is_an_error_that_a_repetition_mends(automatic: Automatic) -> None:
    rig = automatic.rig
    cable = rig.member_port()
    impatient = rig.agent(dhcp=automatic.clients, address_timeout=0.5)
    rig.network = impatient
    with pytest.raises(OperationFailed, match="neither a DHCP server nor a router"):
        automatic.plug_member()
    automatic.serve(cable, "10.2.0")
    rig.network = automatic.restarted()
    automatic.plug_member()
    assert rig.addresses("eth2") == {"10.2.0.50/24"}


def test_the_client_of_a_port_that_is_gone_ends(automatic: Automatic) -> None:
    rig = automatic.rig
    cable = rig.vip_port()
    automatic.serve(cable, "10.1.0")
    rig.plug_vip(vrrp_ip=None)
    cable.unplug()
    [failure] = automatic.restarted().restore(single=True)
    assert VIP_MAC in failure
    assert clients(rig) == []


def clients(rig: Rig) -> list[processes.Process]:
    found = processes.mentioning(rig.layout.leases)
    return [process for process in found if process.program == "busybox"]
