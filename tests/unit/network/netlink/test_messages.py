"""Netlink messages: what is sent reads back as the same value."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from amphora_agent.kernel.messages import rtmsg
from amphora_agent.kernel.netlink_socket import NetlinkRequest, split_datagram
from amphora_agent.network.netlink import messages
from amphora_agent.network.netlink.messages import (
    Link,
    build_change,
    parse_address,
    parse_link,
    parse_routes,
    parse_rule,
)
from amphora_agent.network.plan.diff import (
    AddAddress,
    AddRoute,
    AddRule,
    RemoveAddress,
    RemoveRoute,
    RemoveRule,
    Rename,
)
from amphora_agent.network.plan.interface import (
    DEFAULT_DESTINATION,
    OWN_PROTOCOL,
    HostAddress,
    Route,
    Rule,
)

LINK = Link(index=7, name="eth1", mac="fa:16:3e:00:00:01", mtu=1500, up=False)

ROUTES = [
    Route(DEFAULT_DESTINATION[4], 1, gateway=ip_address("10.1.0.1")),
    Route(DEFAULT_DESTINATION[6], 1025, gateway=ip_address("fd01::1")),
    Route(ip_network("10.1.0.0/24"), 1, table=1, source=ip_address("10.1.0.5")),
    Route(ip_network("fd01::/64"), 1025, table=1, source=ip_address("fd01::5")),
    Route(ip_network("192.0.2.0/25"), 3, table=70000, gateway=ip_address("10.1.0.9")),
    Route(ip_network("10.3.0.0/16"), 0),
]


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_reads_back_a_route_that_it_sent(route: Route) -> None:
    for op in (AddRoute(route), RemoveRoute(route)):
        assert list(parse_routes(LINK.index, _answer(build_change(LINK, op)))) == [route]


def test_leaves_out_routes_of_other_interfaces() -> None:
    request = build_change(LINK, AddRoute(ROUTES[0]))
    assert list(parse_routes(8, _answer(request))) == []


@pytest.mark.parametrize(("kind", "table"), [(1, 255), (2, 254), (7, 254)])
def test_leaves_out_routes_that_the_kernel_keeps_for_itself(kind: int, table: int) -> None:
    fields = {"family": 2, "type": kind, "dst_len": 8}
    attributes = (("RTA_DST", "10.0.0.0"), ("RTA_OIF", 7), ("RTA_TABLE", table))
    assert list(parse_routes(7, _answer(NetlinkRequest(24, rtmsg, fields, attributes)))) == []


def test_splits_a_route_with_several_gateways() -> None:
    hops = [
        {"oif": oif, "flags": 0, "hops": 0, "attrs": [("RTA_GATEWAY", gateway)]}
        for oif, gateway in ((7, "fd01::1"), (8, "fd02::1"), (7, "fd01::2"))
    ]
    fields = {"family": 10, "type": 1, "dst_len": 32, "proto": OWN_PROTOCOL}
    attributes = (
        ("RTA_DST", "2001:db8::"),
        ("RTA_TABLE", 254),
        ("RTA_PRIORITY", 1025),
        ("RTA_MULTIPATH", hops),
    )
    assert list(parse_routes(7, _answer(NetlinkRequest(24, rtmsg, fields, attributes)))) == [
        Route(ip_network("2001:db8::/32"), 1025, gateway=ip_address(gateway))
        for gateway in ("fd01::1", "fd01::2")
    ]


@pytest.mark.parametrize("source", ["10.1.0.5/32", "fd01::5/128", "10.1.0.0/24"])
def test_reads_back_a_rule_that_it_sent(source: str) -> None:
    rule = Rule(ip_network(source))
    for op in (AddRule(rule), RemoveRule(rule)):
        assert list(parse_rule(_answer(build_change(LINK, op)))) == [rule]


@pytest.mark.parametrize("text", ["10.1.0.7/24", "10.1.0.5/32", "fd01::7/64", "fd01::5/128"])
def test_reads_back_an_address_that_it_sent(text: str) -> None:
    interface = ip_interface(text)
    for op in (
        AddAddress(HostAddress(interface, deprecated=False)),
        AddAddress(HostAddress(interface, deprecated=True)),
        RemoveAddress(interface),
    ):
        # The kernel always sends the flags, and is never sent them.
        request = _with(build_change(LINK, op), ("IFA_FLAGS", 0x80))
        message = _answer(request)
        assert parse_address(message).interface == interface
        assert message["index"] == LINK.index


def test_sends_a_lifetime_only_with_a_deprecated_address() -> None:
    interface = ip_interface("fd01::5/128")
    lasting = _answer(build_change(LINK, AddAddress(HostAddress(interface, deprecated=False))))
    assert lasting.get_attr("IFA_CACHEINFO") is None
    deprecated = _answer(build_change(LINK, AddAddress(HostAddress(interface, deprecated=True))))
    assert deprecated.get_attr("IFA_CACHEINFO")["ifa_preferred"] == 0
    assert deprecated.get_attr("IFA_CACHEINFO")["ifa_valid"] == 0xFFFFFFFF


def test_a_link_is_read_with_its_names() -> None:
    names = {"attrs": [("IFLA_ALT_IFNAME", "enp1s0"), ("IFLA_ALT_IFNAME", "the-vip")]}
    request = _with(
        build_change(LINK, Rename("eth0", "eth1")),
        ("IFLA_ADDRESS", LINK.mac),
        ("IFLA_MTU", 1500),
        ("IFLA_PROP_LIST", names),
        ("IFLA_MASTER", 3),
    )
    assert parse_link(_answer(request)) == Link(
        7, "eth1", LINK.mac, 1500, False, ("enp1s0", "the-vip"), is_part_of_another=True
    )


def test_a_tunnel_that_has_an_address_for_a_mac_is_a_link() -> None:
    request = _with(build_change(LINK, Rename("eth0", "sit0")), ("IFLA_ADDRESS", "10.0.0.1"))
    assert parse_link(_answer(_with(request, ("IFLA_MTU", 1480)))).mac == "10.0.0.1"


def test_a_datagram_that_ends_too_early_is_refused() -> None:
    datagram = messages.links().encode(1) + messages.rules(4).encode(2)
    assert [sequence for *_, sequence in split_datagram(datagram)] == [1, 2]
    for broken in (datagram[:-4], b"\0" * 16):
        with pytest.raises(OSError, match="does not fit"):
            list(split_datagram(broken))


def test_the_rest_of_pyroute2_is_not_loaded_with_its_messages() -> None:
    loaded = _python("import amphora_agent.network.netlink.links, sys; print(*sys.modules)").split()
    assert {name for name in loaded if name.startswith("pyroute2")} == {
        "pyroute2.common",
        "pyroute2.netlink",
        "pyroute2.netlink.exceptions",
        "pyroute2.netlink.rtnl",
        "pyroute2.netlink.rtnl.fibmsg",
        "pyroute2.netlink.rtnl.ifaddrmsg",
        "pyroute2.netlink.rtnl.rtmsg",
    }
    assert not {"asyncio", "multiprocessing", "ssl"} & set(loaded)


@pytest.mark.parametrize("first", ["amphora_agent.kernel.messages", "pyroute2"])
def test_whoever_imports_pyroute2_gets_all_of_it(first: str) -> None:
    said = _python(
        f"import {first}\n"
        "from pyroute2 import IPRoute\n"
        "from pyroute2.netlink.rtnl.rtmsg import rtmsg\n"
        "from amphora_agent.kernel import messages\n"
        "with IPRoute() as iproute:\n"
        "    [lo] = iproute.link_lookup(ifname='lo')\n"
        "print(lo, messages.rtmsg is rtmsg)"
    )
    assert said.split() == ["1", "True"]


def _with(request: NetlinkRequest, *attributes: tuple[str, object]) -> NetlinkRequest:
    return NetlinkRequest(
        request.kind, request.message, request.fields, (*request.attributes, *attributes)
    )


def _answer(request: NetlinkRequest) -> Any:
    """The message that the kernel would send of what it was sent."""
    return request.decode(request.encode(1), 0)


def _python(program: str) -> str:
    command = [sys.executable, "-c", program]
    # Not measured: coverage loads modules of its own.
    environment = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout
