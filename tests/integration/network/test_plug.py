"""Ports plugged into a real namespace: what the kernel has afterwards, and what traffic does."""

from __future__ import annotations

import json
import logging
import threading
from ipaddress import IPv6Address
from typing import Any

import pytest

from amphora_agent.errors import Conflict, InvalidRequest, NotFound, OperationFailed
from tests.integration.network.rig import (
    MAIN,
    MEMBER4,
    MEMBER6,
    MEMBER_MAC,
    MORE6,
    OTHER_MAC,
    VIP4,
    VIP6,
    VIP_MAC,
    VIP_TABLE,
    Rig,
)

OWN = "proto 154"


def test_an_ipv4_vip_in_single(rig: Rig) -> None:
    rig.vip_port()
    assert rig.plug_vip() == "VIPs plugged on interface eth1: 10.1.0.5"
    assert rig.link("eth1")["address"] == VIP_MAC
    assert rig.link("eth1")["mtu"] == 1450
    assert "UP" in rig.link("eth1")["flags"]
    assert rig.addresses("eth1") == {"10.1.0.7/24", "10.1.0.5/32"}
    assert rig.routes(MAIN) == {
        "10.1.0.0/24 src 10.1.0.7 proto kernel",
        f"default via 10.1.0.1 {OWN}",
    }
    assert rig.routes(VIP_TABLE) == {
        f"10.1.0.0/24 src 10.1.0.5 {OWN}",
        f"default via 10.1.0.1 {OWN}",
    }
    assert rig.rules() == {f"10.1.0.5 lookup 1 {OWN}"}
    assert rig.answers("10.1.0.5")


def test_an_ipv6_vip_in_single_once_its_addresses_are_usable(rig: Rig) -> None:
    rig.vip_port()
    assert rig.plug_vip6() == (
        "VIPs plugged on interface eth1: fd01:0000:0000:0000:0000:0000:0000:0005"
    )
    [link] = rig.ip("address", "show", "dev", "eth1")
    flags = {each["local"]: each for each in link["addr_info"] if each["scope"] == "global"}
    assert set(flags) == {"fd01::7", "fd01::5"}
    assert not any(each.get("tentative") for each in flags.values())
    assert f"fd01::/64 src fd01::5 {OWN}" in rig.routes(VIP_TABLE)
    assert f"default via fd01::1 {OWN}" in rig.routes(VIP_TABLE)
    assert f"default via fd01::1 {OWN}" in rig.routes(MAIN)
    assert rig.rules() == {f"fd01::5 lookup 1 {OWN}"}
    assert rig.answers("fd01::5")
    # Connections to members come from vrrp_ip, not from the VIP.
    [route] = rig.ip("-6", "route", "get", "fd01::4")
    assert route["prefsrc"] == "fd01::7"


def test_vips_of_both_families_with_host_routes(rig: Rig) -> None:
    rig.quick_ipv6()
    rig.vip_port()
    route4 = {"destination": "192.168.0.0/16", "nexthop": "10.1.0.9"}
    route6 = {"destination": "fd99::/32", "nexthop": "fd01::9"}
    assert rig.plug_vip(
        host_routes=[route4], additional_vips=[MORE6 | {"host_routes": [route6]}]
    ) == ("VIPs plugged on interface eth1: 10.1.0.5, fd01:0000:0000:0000:0000:0000:0000:0005")
    for table in (MAIN, VIP_TABLE):
        assert f"192.168.0.0/16 via 10.1.0.9 {OWN}" in rig.routes(table)
        assert f"fd99::/32 via fd01::9 {OWN}" in rig.routes(table)
        assert f"default via fd01::1 {OWN}" in rig.routes(table)
    assert f"fd01::/64 {OWN}" in rig.routes(MAIN)
    assert rig.rules() == {f"10.1.0.5 lookup 1 {OWN}", f"fd01::5 lookup 1 {OWN}"}
    assert rig.answers("10.1.0.5")
    assert rig.answers("fd01::5")


def test_a_client_beyond_the_router_gets_its_answers_by_the_vips_table(rig: Rig) -> None:
    rig.vip_port()
    rig.member_port()
    client = rig.lab.namespace("client")
    rig.lab.cable(rig.router, "c0", client, "eth0")
    rig.router.address("c0", "10.3.0.1/24")
    client.address("eth0", "10.3.0.2/24")
    client.route("default", via="10.3.0.1")
    # A member network that claims to lead to the clients must not take the VIP's answers.
    elsewhere = {"destination": "10.3.0.0/24", "nexthop": "10.2.0.99"}
    rig.plug_member(MEMBER4 | {"host_routes": [elsewhere]})
    rig.plug_vip()
    assert rig.answers("10.1.0.5", client)
    assert not rig.answers("10.1.0.7", client)


def test_in_active_standby_vip_table_and_rules_are_left_to_keepalived(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_vip(single=False)
    assert rig.addresses("eth1") == {"10.1.0.7/24"}
    assert rig.routes(VIP_TABLE) == set()
    assert rig.rules() == set()
    # keepalived becomes master.
    rig.inside.ip("address", "add", "10.1.0.5/32", "dev", "eth1")
    route = ["10.1.0.0/24", "dev", "eth1", "table", "1", "proto", "keepalived"]
    rig.inside.ip("route", "add", *route)
    rule = ["from", "10.1.0.5/32", "table", "1", "priority", "100", "protocol", "keepalived"]
    rig.inside.ip("rule", "add", *rule)
    before = rig.everything()
    rig.plug_vip(single=False)
    rig.agent().restore(single=False)
    assert rig.everything() == before
    assert rig.answers("10.1.0.5")


def test_haproxy_may_listen_at_vips_that_the_other_amphora_has(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_vip(single=False)
    for address in ("10.1.0.5", "fd01::5"):
        with rig.inside.make_socket(address) as listener:
            listener.bind((address, 80))


def test_a_member_network(rig: Rig) -> None:
    rig.quick_ipv6()
    rig.member_port()
    route = {"destination": "192.168.0.0/16", "nexthop": "10.2.0.9"}
    assert rig.plug_member(MEMBER4 | {"host_routes": [route]}, MEMBER6) == (
        "Plugged on interface eth2"
    )
    assert rig.addresses("eth2") == {"10.2.0.5/24", "fd02::5/64"}
    assert rig.routes(MAIN, "eth2") == {
        "10.2.0.0/24 src 10.2.0.5 proto kernel",
        "fd02::/64 proto kernel",
        f"192.168.0.0/16 via 10.2.0.9 {OWN}",
    }
    assert rig.rules() == set()
    member = ["ping", "-c1", "-W2"]
    assert rig.inside.run([*member, "10.2.0.1"], check=False).returncode == 0
    assert rig.inside.run([*member, "fd02::1"], check=False).returncode == 0


def test_fixed_ips_host_routes_and_mtu_of_a_port_change(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.member_port()
    route = {"destination": "192.168.0.0/16", "nexthop": "10.2.0.9"}
    rig.plug_member(MEMBER4 | {"host_routes": [route]})
    other = MEMBER4 | {"ip_address": "10.2.0.6"}
    assert rig.plug_member(MEMBER4, other, mtu=1400) == "Updated existing interface eth2"
    assert rig.addresses("eth2") == {"10.2.0.5/24", "10.2.0.6/24"}
    assert rig.link("eth2")["mtu"] == 1400
    assert rig.routes(MAIN, "eth2") == {"10.2.0.0/24 src 10.2.0.5 proto kernel"}
    # The first address of a subnet goes, and takes nothing with it.
    with caplog.at_level(logging.INFO, "amphora_agent"):
        rig.plug_member(other)
    assert f"eth2 ({MEMBER_MAC}): remove address 10.2.0.5/24" in caplog.messages
    assert not any("add address" in line for line in caplog.messages)
    assert rig.addresses("eth2") == {"10.2.0.6/24"}
    assert rig.routes(MAIN, "eth2") == {"10.2.0.0/24 src 10.2.0.6 proto kernel"}


def test_the_gateway_and_the_vip_change(rig: Rig) -> None:
    rig.quick_ipv6()
    rig.vip_port()
    rig.plug_vip6(additional_vips=[MORE6 | {"ip_address": "fd01::6"}])
    rig.plug_vip6(gateway="fd01::2")
    for table in (MAIN, VIP_TABLE):
        assert {line for line in rig.routes(table) if "default" in line} == {
            f"default via fd01::2 {OWN}"
        }
    assert rig.addresses("eth1") == {"fd01::7/64", "fd01::5/128"}
    assert rig.rules() == {f"fd01::5 lookup 1 {OWN}"}


def test_a_member_network_on_the_vip_port_keeps_the_additional_vips(rig: Rig) -> None:
    rig.quick_ipv6()
    rig.vip_port()
    rig.plug_vip(additional_vips=[MORE6])
    # The controller sends the VIP again, without the additional ones.
    assert (
        rig.plug_member(
            {"ip_address": "10.1.0.7", "subnet_cidr": "10.1.0.0/24", "host_routes": None},
            MEMBER4,
            mac_address=VIP_MAC,
            vip_net_info=VIP4 | {"vip": "10.1.0.5", "additional_vips": []},
        )
        == "Updated existing interface eth1"
    )
    everything = {"10.1.0.7/24", "10.1.0.5/32", "fd01::5/128", "10.2.0.5/24"}
    assert rig.addresses("eth1") == everything
    assert rig.rules() == {f"10.1.0.5 lookup 1 {OWN}", f"fd01::5 lookup 1 {OWN}"}
    # An old controller says nothing of the VIP; a repeated VIP plug says nothing of the members.
    rig.plug_member(mac_address=VIP_MAC)
    rig.plug_vip(additional_vips=[MORE6])
    assert rig.addresses("eth1") == everything


def test_a_member_network_on_a_vip_port_that_is_not_known(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_member(mac_address=VIP_MAC, vip_net_info=VIP4 | {"vip": "10.1.0.5"})
    assert rig.addresses("eth1") == {"10.1.0.7/24", "10.1.0.5/32", "10.2.0.5/24"}


def test_a_repeated_plug_changes_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.quick_ipv6()
    rig.vip_port()
    rig.member_port()

    def plug() -> None:
        rig.plug_vip(additional_vips=[MORE6])
        rig.plug_member(MEMBER4, MEMBER6)

    plug()
    before = rig.everything()
    files = {path: path.stat().st_mtime_ns for path in rig.records.iterdir()}
    with caplog.at_level(logging.DEBUG, "amphora_agent"):
        plug()
        rig.agent().restore(single=True)
    assert caplog.messages == []
    assert rig.everything() == before
    assert {path: path.stat().st_mtime_ns for path in rig.records.iterdir()} == files


def test_operations_are_logged_one_a_line(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.vip_port(ifname="hot-vip")
    with caplog.at_level(logging.INFO, "amphora_agent"):
        rig.plug_vip()
    assert f"eth1 ({VIP_MAC}): move hot-vip into the namespace as eth1" in caplog.messages
    assert f"eth1 ({VIP_MAC}): add address 10.1.0.5/32" in caplog.messages


def test_an_ipv6_vip_without_vrrp_ip_listens_to_router_advertisements(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.quick_ipv6()
    rig.inside.forward()
    cable = rig.vip_port()
    rig.plug_vip6(vrrp_ip=None)
    assert rig.addresses("eth1") == {"fd01::5/128"}
    rig.advertise(cable.ifname_a, "fd01::")
    assert rig.answers("fd01::5")
    # Modified EUI-64 (RFC 4291, appendix A).
    first, *middle, last = bytes.fromhex(VIP_MAC.replace(":", ""))
    interface = bytes([first ^ 2, *middle[:2], 0xFF, 0xFE, *middle[2:], last])
    learned = f"{IPv6Address(IPv6Address('fd01::').packed[:8] + interface)}/64"
    assert rig.addresses("eth1") == {"fd01::5/128", learned}
    assert any(line.endswith("proto ra") for line in rig.routes(MAIN))
    with caplog.at_level(logging.INFO, "amphora_agent"):
        rig.plug_vip6(vrrp_ip=None)
    assert caplog.messages == []
    assert rig.addresses("eth1") == {"fd01::5/128", learned}


def test_router_advertisements_are_refused_otherwise(rig: Rig) -> None:
    rig.quick_ipv6()
    cable = rig.member_port()
    rig.plug_member()
    rig.advertise(cable.ifname_a, "fd02::")
    assert rig.answers("10.2.0.5")
    assert rig.addresses("eth2") == {"10.2.0.5/24"}
    assert not any("default" in line for line in rig.routes(MAIN, "eth2"))


# Ports


def test_a_port_that_never_appears(rig: Rig) -> None:
    with pytest.raises(NotFound) as refusal:
        rig.plug_vip()
    assert refusal.value.details == "No suitable network interface found"
    assert not rig.records.exists()


def test_a_port_that_appears_late(rig: Rig) -> None:
    rig.network = rig.agent(port_timeout=10)
    plugging = rig.late_vip_port(0.3)
    try:
        rig.plug_vip()
    finally:
        plugging.join()
    assert rig.answers("10.1.0.5")


def test_the_pci_bus_is_scanned_for_a_missing_port(rig: Rig) -> None:
    bus = rig.layout.base / "no-pci"
    bus.parent.mkdir()
    bus.write_text("")
    with pytest.raises(NotFound):
        rig.plug_vip()
    assert bus.read_text() == "1"


def test_the_vip_interface_is_held_by_another_port(rig: Rig) -> None:
    rig.vip_port()
    rig.port(OTHER_MAC)
    rig.plug_vip()
    before = rig.everything()
    with pytest.raises(Conflict) as refusal:
        rig.plug_vip("10.1.0.6", mac_address=OTHER_MAC)
    assert refusal.value.message == "Interface already exists"
    assert rig.everything() == before
    assert len(list(rig.records.iterdir())) == 1


def test_the_vip_interface_is_held_by_a_port_that_nobody_plugged(rig: Rig) -> None:
    rig.vip_port()
    stranger = rig.port(OTHER_MAC)
    rig.ensure_namespace()
    stranger.b.ip("link", "set", stranger.ifname_b, "netns", rig.namespace.name, "name", "eth1")
    with pytest.raises(Conflict):
        rig.plug_vip()


def test_a_vip_port_that_is_gone_makes_way(rig: Rig) -> None:
    gone = rig.vip_port()
    rig.plug_vip()
    gone.unplug()
    rig.port(OTHER_MAC, "10.1.0.1/24")
    rig.plug_vip(mac_address=OTHER_MAC)
    assert rig.answers("10.1.0.5")
    assert len(list(rig.records.iterdir())) == 1


@pytest.mark.parametrize("where", ["the port", "a port inside", "the port, foreign"])
def test_alternative_names_are_no_obstacle(rig: Rig, where: str) -> None:
    cable = rig.vip_port()
    rig.member_port()
    if where == "a port inside":
        rig.plug_member()
        rig.inside.ip("link", "property", "add", "dev", "eth2", "altname", "eth1")
    elif where == "the port":
        cable.b.ip("link", "property", "add", "dev", cable.ifname_b, "altname", "eth1")
    else:
        rig.plug_member()
        cable.b.ip("link", "property", "add", "dev", cable.ifname_b, "altname", "eth2")
    rig.plug_vip()
    assert rig.answers("10.1.0.5")
    assert rig.link("eth1")["address"] == VIP_MAC


def test_a_port_is_found_inside_by_its_mac_whatever_it_is_called(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_vip()
    rig.inside.ip("link", "set", "eth1", "down")
    rig.inside.ip("link", "set", "eth1", "name", "ens7")
    rig.inside.ip("link", "property", "add", "dev", "ens7", "altname", "eth1")
    rig.plug_vip()
    assert rig.answers("10.1.0.5")


def test_a_port_strayed_to_anothers_name_makes_way(rig: Rig) -> None:
    rig.vip_port()
    rig.member_port()
    rig.plug_vip()
    rig.plug_member()
    before = rig.everything()
    for name, new_name in (("eth1", "tmp0"), ("eth2", "eth1"), ("tmp0", "eth2")):
        rig.inside.ip("link", "set", name, "down")
        rig.inside.ip("link", "set", name, "name", new_name)
    rig.agent().restore(single=True)
    assert rig.everything() == before
    assert rig.answers("10.1.0.5")


def test_a_port_outside_may_be_called_like_one_inside(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_vip()
    rig.member_port(ifname="eth1")
    assert rig.plug_member() == "Plugged on interface eth2"
    assert rig.link("eth1")["address"] == VIP_MAC
    assert rig.link("eth2")["address"] == MEMBER_MAC


def test_a_member_port_becomes_the_vip_port(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_member({"ip_address": "10.1.0.7", "subnet_cidr": "10.1.0.0/24"}, mac_address=VIP_MAC)
    assert rig.addresses("eth2") == {"10.1.0.7/24"}
    rig.plug_vip()
    assert rig.answers("10.1.0.5")
    assert [link["ifname"] for link in rig.ip("link", "show")] == ["lo", "eth1"]


def test_names_never_collide(rig: Rig) -> None:
    macs = [f"{VIP_MAC[:-2]}{number:02x}" for number in range(16, 24)]
    for mac in macs:
        rig.port(mac)
    texts: list[str] = []

    def plug(number: int, mac: str) -> None:
        fixed_ip = {
            "ip_address": f"10.{number + 20}.0.5",
            "subnet_cidr": f"10.{number + 20}.0.0/24",
        }
        texts.append(rig.plug_member(fixed_ip, mac_address=mac))

    threads = [threading.Thread(target=plug, args=each) for each in enumerate(macs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts) == [f"Plugged on interface eth{number}" for number in range(2, 10)]


def test_plugs_of_one_port_follow_one_another(rig: Rig) -> None:
    rig.vip_port()
    errors: list[Exception] = []

    def plug() -> None:
        try:
            rig.plug_vip()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=plug) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert rig.answers("10.1.0.5")


# What goes wrong


def test_a_duplicate_ipv6_address_is_an_error_until_it_is_gone(rig: Rig) -> None:
    cable = rig.vip_port()
    rig.router.address(cable.ifname_a, "fd01::5/64")
    with pytest.raises(OperationFailed) as failure:
        rig.plug_vip(additional_vips=[MORE6])
    assert "fd01::5" in failure.value.details
    # What does not depend on it works.
    assert rig.answers("10.1.0.5")
    rig.router.ip("address", "del", "fd01::5/64", "dev", cable.ifname_a)
    rig.plug_vip(additional_vips=[MORE6])
    assert rig.answers("fd01::5")


def test_a_tenants_impossible_route_is_left_out(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.vip_port()
    impossible = {"destination": "192.168.1.0/24", "nexthop": "10.1.0.7"}
    possible = {"destination": "192.168.2.0/24", "nexthop": "10.1.0.9"}
    rig.plug_vip(host_routes=[impossible, possible])
    assert f"192.168.2.0/24 via 10.1.0.9 {OWN}" in rig.routes(MAIN)
    assert not any("192.168.1.0/24" in line for line in rig.routes(MAIN))
    assert any("192.168.1.0/24 via 10.1.0.7" in line for line in caplog.messages)
    assert rig.answers("10.1.0.5")


@pytest.mark.parametrize(
    ("vip", "body"),
    [
        ("10.1.0.5", b""),
        ("10.1.0.5", b"{"),
        ("10.1.0.5", b"[]"),
        ("10.1.0.5", json.dumps({key: VIP4[key] for key in VIP4 if key != "gateway"}).encode()),
        ("10.1.0.5", json.dumps(VIP4 | {"mtu": "big"}).encode()),
        ("10.1.0.500", json.dumps(VIP4).encode()),
        ("..", json.dumps(VIP4).encode()),
        ("fd01::5", json.dumps(VIP4).encode()),
        ("10.1.0.5", json.dumps(VIP6).encode()),
    ],
)
def test_a_wrong_vip_plug_changes_nothing(rig: Rig, vip: str, body: bytes) -> None:
    rig.vip_port()
    with pytest.raises(InvalidRequest):
        rig.network.plug_vip(vip, body, single=True)
    assert not rig.records.exists()
    assert not rig.namespace.exists()


@pytest.mark.parametrize("changes", [{"fixed_ips": "x"}, {"mac_address": None}, {"mtu": 1}])
def test_a_wrong_network_plug_changes_nothing(rig: Rig, changes: dict[str, Any]) -> None:
    rig.member_port()
    with pytest.raises(InvalidRequest):
        rig.plug_member(**changes)
    assert not rig.records.exists()
    assert not rig.namespace.exists()


# Questions


@pytest.mark.parametrize("text", ["fd01::5", "FD01:0:0::0005", "fd01:0000::5"])
def test_the_interface_of_an_address(rig: Rig, text: str) -> None:
    rig.quick_ipv6()
    rig.vip_port()
    rig.member_port()
    rig.plug_member()
    rig.plug_vip(additional_vips=[MORE6])
    assert rig.network.interface_of(text) == "eth1"
    assert rig.network.interface_of("10.1.0.5") == "eth1"
    assert rig.network.interface_of("10.2.0.5") == "eth2"
    with pytest.raises(NotFound) as refusal:
        rig.network.interface_of("10.2.0.6")
    assert refusal.value.message == "Error interface not found for IP address"


@pytest.mark.parametrize("text", ["", "10.1.0", "eth1", "fe80::1%eth1", "10.1.0.5/32"])
def test_the_interface_of_what_is_no_address(rig: Rig, text: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid IP address"):
        rig.network.interface_of(text)


def test_the_interface_of_an_address_before_there_is_a_namespace(rig: Rig) -> None:
    with pytest.raises(NotFound):
        rig.network.interface_of("10.1.0.5")


def test_counters(rig: Rig) -> None:
    assert rig.network.counters() == {}
    rig.ensure_namespace()
    assert rig.network.counters() == {}
    rig.vip_port()
    rig.plug_vip()
    before = rig.network.counters()["eth1"]
    assert rig.answers("10.1.0.5")
    after = rig.network.counters()["eth1"]
    assert set(after) == {"network_tx", "network_rx"}
    assert after["network_rx"] >= before["network_rx"] + 64
    assert after["network_tx"] >= before["network_tx"] + 64
