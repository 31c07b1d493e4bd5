"""Build the spec of an interface from plugs, leases and the topology (WIRE §5)."""

from __future__ import annotations

import json
from ipaddress import ip_interface
from typing import Any

import pytest

from amphora_agent.model.addressing import (
    parse_address,
    parse_mac,
    parse_network,
)
from amphora_agent.model.decode import decode
from amphora_agent.model.plugging import HostRoute, NetworkPlug, PluggedVip
from amphora_agent.network.plan.interface import (
    InterfaceSpec,
    Lease,
    build_interface_spec,
    remove_all,
)

MAC = parse_mac("fa:16:3e:00:00:01")

VIP4: dict[str, Any] = {
    "vip": "10.1.0.5",
    "subnet_cidr": "10.1.0.0/24",
    "gateway": "10.1.0.1",
    "mac_address": MAC,
    "vrrp_ip": "10.1.0.7",
}
VIP6: dict[str, Any] = {
    "vip": "fd01::5",
    "subnet_cidr": "fd01::/64",
    "gateway": "fd01::1",
    "mac_address": MAC,
    "vrrp_ip": "fd01::7",
}
MORE4 = {"ip_address": "10.9.0.5", "subnet_cidr": "10.9.0.0/24", "gateway": "10.9.0.1"}
MORE6 = {"ip_address": "fd01::5", "subnet_cidr": "fd01::/64", "gateway": "fd01::1"}
MEMBER4 = {"ip_address": "10.2.0.5", "subnet_cidr": "10.2.0.0/24", "gateway": "10.2.0.1"}
MEMBER6 = {"ip_address": "fd02::5", "subnet_cidr": "fd02::/64", "gateway": "fd02::1"}


def spec(
    vip: dict[str, Any] | None = None,
    fixed_ips: list[dict[str, Any]] | None = None,
    *,
    name: str = "eth1",
    single: bool = True,
    owned: tuple[str, ...] = (),
    lease: Lease | None = None,
    **network: Any,
) -> InterfaceSpec:
    plug = None
    if fixed_ips is not None or network:
        sent = {"mac_address": MAC, "fixed_ips": fixed_ips} | network
        plug = decode(json.dumps(sent).encode(), NetworkPlug)
    return build_interface_spec(
        MAC,
        name,
        vip=decode(json.dumps(vip).encode(), PluggedVip) if vip else None,
        network=plug,
        single=single,
        lease=lease,
        owned=tuple(ip_interface(text) for text in owned),
    )


def lines(values: tuple[object, ...]) -> list[str]:
    return [str(value) for value in values]


def test_puts_an_ipv4_vip_on_the_interface_in_single() -> None:
    wanted = spec(VIP4)
    assert lines(wanted.addresses) == ["10.1.0.7/24", "10.1.0.5/32"]
    assert lines(wanted.routes) == [
        "0.0.0.0/0 via 10.1.0.1 metric 1",
        "10.1.0.0/24 src 10.1.0.5 table 1 metric 1",
        "0.0.0.0/0 via 10.1.0.1 table 1 metric 1",
    ]
    assert lines(wanted.rules) == ["from 10.1.0.5/32 lookup 1 priority 100"]
    assert not wanted.slaac
    assert wanted.mtu is None


def test_puts_an_ipv6_vip_on_the_interface_in_single() -> None:
    """The VIP is deprecated: connections to members come from vrrp_ip, as they do in IPv4."""
    wanted = spec(VIP6)
    assert lines(wanted.addresses) == ["fd01::7/64", "fd01::5/128 deprecated"]
    assert lines(wanted.routes) == [
        "::/0 via fd01::1 metric 1025",
        "fd01::/64 src fd01::5 table 1 metric 1025",
        "::/0 via fd01::1 table 1 metric 1025",
    ]
    assert lines(wanted.rules) == ["from fd01::5/128 lookup 1 priority 100"]


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_in_active_standby_vip_table_and_rules_are_left_to_keepalived(vip: dict[str, Any]) -> None:
    wanted = spec(vip, single=False)
    assert [address.interface.ip for address in wanted.addresses] == [
        ip_interface(vip["vrrp_ip"]).ip
    ]
    assert {route.table for route in wanted.routes} == {254}
    assert wanted.rules == ()


def test_adds_additional_vips_of_another_subnet_and_family() -> None:
    wanted = spec(VIP4 | {"additional_vips": [MORE4, MORE6]})
    assert lines(wanted.addresses) == [
        "10.1.0.7/24",
        "10.1.0.5/32",
        "10.9.0.5/32",
        "fd01::5/128 deprecated",
    ]
    # Of two default routes of one family the load balancer's own stays.
    assert lines(wanted.routes) == [
        "0.0.0.0/0 via 10.1.0.1 metric 1",
        "10.1.0.0/24 src 10.1.0.5 table 1 metric 1",
        "0.0.0.0/0 via 10.1.0.1 table 1 metric 1",
        "10.9.0.0/24 metric 1",
        "10.9.0.0/24 src 10.9.0.5 table 1 metric 1",
        "fd01::/64 metric 1025",
        "::/0 via fd01::1 metric 1025",
        "fd01::/64 src fd01::5 table 1 metric 1025",
        "::/0 via fd01::1 table 1 metric 1025",
    ]
    assert [str(rule.source) for rule in wanted.rules] == [
        "10.1.0.5/32",
        "10.9.0.5/32",
        "fd01::5/128",
    ]


def test_host_routes_are_in_both_tables_and_may_be_refused() -> None:
    wanted = spec(
        VIP4 | {"host_routes": [{"destination": "192.168.0.0/16", "nexthop": "10.1.0.9"}]}
    )
    chosen_by_the_tenant = [route for route in wanted.routes if route in wanted.optional]
    assert lines(tuple(chosen_by_the_tenant)) == [
        "192.168.0.0/16 via 10.1.0.9 metric 1",
        "192.168.0.0/16 via 10.1.0.9 table 1 metric 1",
    ]


def test_an_ipv6_vip_without_vrrp_ip_takes_slaac() -> None:
    wanted = spec(VIP6 | {"vrrp_ip": None})
    assert wanted.slaac
    assert dict(wanted.sysctls)["ipv6/accept_ra"] == "2"
    assert dict(wanted.sysctls)["ipv6/autoconf"] == "1"
    assert lines(wanted.addresses) == ["fd01::5/128 deprecated"]
    assert "fd01::/64 metric 1025" in lines(wanted.routes)


LEASE = Lease(
    address=ip_interface("10.1.0.77/24"),
    routes=(
        HostRoute(destination=parse_network("192.168.0.0/16"), nexthop=parse_address("10.1.0.9")),
    ),
    mtu=1400,
    expires=4e9,
)


@pytest.mark.parametrize(
    "vip",
    [VIP4 | {"vrrp_ip": None}, VIP6 | {"vrrp_ip": None, "additional_vips": [MORE4]}],
)
def test_an_ipv4_vip_without_vrrp_ip_takes_dhcp(vip: dict[str, Any]) -> None:
    wanted = spec(vip)
    assert wanted.dhcp
    assert "10.1.0.77/24" not in lines(wanted.addresses)
    assert lines(spec(vip, lease=LEASE).addresses)[0] == "10.1.0.77/24"


def test_vip_takes_the_address_of_a_lease_and_no_routes() -> None:
    wanted = spec(VIP4 | {"vrrp_ip": None}, lease=LEASE)
    assert lines(wanted.addresses) == ["10.1.0.77/24", "10.1.0.5/32"]
    assert wanted.routes == spec(VIP4).routes
    assert wanted.mtu == 1400
    assert spec(VIP4 | {"vrrp_ip": None, "mtu": 1450}, lease=LEASE).mtu == 1450


@pytest.mark.parametrize("fixed_ips", [None, []])
def test_a_member_network_without_addresses_takes_dhcp_and_slaac(
    fixed_ips: list[Any] | None,
) -> None:
    wanted = spec(None, fixed_ips, name="eth2", mtu=1500)
    assert (wanted.dhcp, wanted.slaac, wanted.addresses) == (True, True, ())
    wanted = spec(None, fixed_ips, name="eth2", mtu=1500, lease=LEASE)
    assert lines(wanted.addresses) == ["10.1.0.77/24"]
    assert lines(wanted.routes) == ["192.168.0.0/16 via 10.1.0.9 metric 2"]


def test_a_lease_counts_only_where_dhcp_is_wanted() -> None:
    assert spec(VIP4, lease=LEASE) == spec(VIP4)
    assert not spec(VIP6 | {"vrrp_ip": None}).dhcp


def test_an_interface_taken_down_keeps_nothing_of_ours() -> None:
    wanted = remove_all(spec(VIP4, owned=("10.1.0.99/32",)))
    assert not wanted.up
    assert (wanted.addresses, wanted.routes, wanted.rules) == ((), (), ())
    assert {str(each) for each in wanted.retired} == {"10.1.0.7/24", "10.1.0.5/32", "10.1.0.99/32"}


def test_a_member_network_leads_nowhere_but_to_its_subnet_and_host_routes() -> None:
    route = {"destination": "192.168.0.0/16", "nexthop": "10.2.0.9"}
    wanted = spec(None, [MEMBER4 | {"host_routes": [route]}, MEMBER6], name="eth2", mtu=1400)
    assert lines(wanted.addresses) == ["10.2.0.5/24", "fd02::5/64"]
    assert lines(wanted.routes) == ["192.168.0.0/16 via 10.2.0.9 metric 2"]
    assert wanted.rules == ()
    assert wanted.mtu == 1400
    assert dict(wanted.sysctls)["ipv6/accept_ra"] == "0"
    assert dict(wanted.sysctls)["ipv6/autoconf"] == "0"
    assert not wanted.owns_rules


def test_a_host_route_to_everywhere_comes_after_the_vips_default_route() -> None:
    everywhere = {"destination": "0.0.0.0/0", "nexthop": "10.2.0.9"}
    [route] = spec(None, [MEMBER4 | {"host_routes": [everywhere]}], name="eth3").routes
    [default] = [route for route in spec(VIP4, single=False).routes if not route.source]
    assert default.destination == route.destination
    assert default.metric < route.metric


def test_a_member_network_on_the_vip_port_adds_to_it() -> None:
    wanted = spec(VIP4 | {"additional_vips": [MORE6]}, [MEMBER4], mtu=1400)
    assert lines(wanted.addresses) == [
        "10.1.0.7/24",
        "10.1.0.5/32",
        "fd01::5/128 deprecated",
        "10.2.0.5/24",
    ]
    assert "10.2.0.0/24" not in " ".join(lines(wanted.routes))
    assert [str(route.gateway) for route in wanted.routes if route.destination.prefixlen == 0] == [
        "10.1.0.1",
        "10.1.0.1",
        "fd01::1",
        "fd01::1",
    ]
    assert wanted.mtu == 1400
    assert wanted.owns_rules


def test_on_the_vip_port_a_member_network_leads_to_the_world_in_a_family_without_a_way() -> None:
    routes = lines(spec(VIP4, [MEMBER6]).routes)
    assert "::/0 via fd02::1 metric 1025" in routes
    assert "::/0 via fd02::1 table 1 metric 1025" in routes


def test_an_address_that_is_named_twice_is_there_once() -> None:
    wanted = spec(VIP4, [{"ip_address": "10.1.0.7", "subnet_cidr": "10.1.0.0/24"}], mtu=1500)
    assert lines(wanted.addresses) == ["10.1.0.7/24", "10.1.0.5/32"]


def test_leaves_out_the_default_route_without_gateway() -> None:
    assert lines(spec(VIP4 | {"gateway": None}).routes) == [
        "10.1.0.0/24 src 10.1.0.5 table 1 metric 1"
    ]


def test_addresses_owned_and_no_longer_wanted_are_retired() -> None:
    wanted = spec(VIP4, owned=("10.1.0.7/24", "10.1.0.8/24", "10.1.0.5/24"))
    assert {str(each) for each in wanted.retired} == {"10.1.0.8/24", "10.1.0.5/24"}
