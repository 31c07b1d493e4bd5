"""Messages of rtnetlink, the kernel's protocol for networks, as our values, and back.

Messages are those of pyroute2, whose types nobody has written down: `Any` here, and nowhere else.
The numbers are those of the kernel's headers (rtnetlink.h, if_addr.h, fib_rules.h).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from amphora_agent.model.addressing import Interface
from amphora_agent.network.diff import HeldAddress
from amphora_agent.network.interface import DEFAULT_DESTINATION, Route, Rule

#: Address families by IP version.
FAMILY = {4: 2, 6: 10}

_IFF_UP = 0x1
_DADFAILED, _DEPRECATED, _TENTATIVE, _PERMANENT = 0x08, 0x20, 0x40, 0x80
_RTN_UNICAST = 1
_RTNH_F_ONLINK = 0x4
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_LOCAL_TABLE = 255
_FR_ACT_TO_TBL = 1
_FOREVER = 0xFFFFFFFF


@dataclass(frozen=True)
class Link:
    """An interface as the kernel lists it. `index` holds within its namespace."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    alternative_names: tuple[str, ...] = ()
    is_part_of_another: bool = False

    def is_called(self, name: str) -> bool:
        return name == self.name or name in self.alternative_names


def link_in(message: Any) -> Link:
    """The interface of a message of a link dump."""
    properties = message.get_attr("IFLA_PROP_LIST")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & _IFF_UP),
        alternative_names=tuple(properties.get_attrs("IFLA_ALT_IFNAME")) if properties else (),
        is_part_of_another=message.get_attr("IFLA_MASTER") is not None,
    )


def held_address(message: Any) -> HeldAddress:
    """The address of a message of an address dump."""
    # For IPv4, IFA_ADDRESS is the other end of a point-to-point link.
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS")
    return HeldAddress(
        interface=ip_interface((address, message["prefixlen"])),
        deprecated=bool(flags & _DEPRECATED),
        permanent=bool(flags & _PERMANENT),
        tentative=bool(flags & _TENTATIVE),
        failed=bool(flags & _DADFAILED),
    )


def routes_through(index: int, message: Any) -> Iterator[Route]:
    """The routes of a message of a route dump that lead out of the interface `index`."""
    table = message.get_attr("RTA_TABLE") or message["table"]
    if message["type"] != _RTN_UNICAST or table == _LOCAL_TABLE:
        return
    destination = message.get_attr("RTA_DST")
    default = DEFAULT_DESTINATION[4 if message["family"] == FAMILY[4] else 6]
    source = message.get_attr("RTA_PREFSRC")
    # Routes that differ in nothing but the gateway come as one message.
    hops = message.get_attr("RTA_MULTIPATH") or (message,)
    for hop in hops:
        outgoing = message.get_attr("RTA_OIF") if hop is message else hop["oif"]
        if outgoing == index:
            gateway = hop.get_attr("RTA_GATEWAY")
            yield Route(
                destination=ip_network((destination, message["dst_len"]))
                if destination
                else default,
                metric=message.get_attr("RTA_PRIORITY") or 0,
                table=table,
                gateway=ip_address(gateway) if gateway else None,
                source=ip_address(source) if source else None,
                protocol=message["proto"],
            )


def rules_in(message: Any) -> Iterator[Rule]:
    """The rule of a message of a rule dump, when it is one that ours could be confused with."""
    source = message.get_attr("FRA_SRC")
    if source is not None and message["action"] == _FR_ACT_TO_TBL:
        yield Rule(
            source=ip_network((source, message["src_len"])),
            table=message.get_attr("FRA_TABLE"),
            priority=message.get_attr("FRA_PRIORITY") or 0,
            protocol=message.get_attr("FRA_PROTOCOL") or 0,
        )


def address_request(
    link: Link, interface: Interface, deprecated: bool = False
) -> dict[str, object]:
    """The arguments with which an address is added or removed."""
    request: dict[str, object] = {
        "index": link.index,
        "address": str(interface.ip),
        "prefixlen": interface.network.prefixlen,
        "family": FAMILY[interface.version],
    }
    if deprecated:
        request |= {"preferred_lft": 0, "valid_lft": _FOREVER}
    return request


def route_request(link: Link, route: Route) -> dict[str, object]:
    """The arguments with which a route is added or removed."""
    request: dict[str, object] = {
        "family": FAMILY[route.destination.version],
        "dst": str(route.destination.network_address),
        "dst_len": route.destination.prefixlen,
        "oif": link.index,
        "table": route.table,
        "proto": route.protocol,
        "priority": route.metric,
        "scope": _SCOPE_UNIVERSE,
    }
    if route.gateway:
        request |= {"gateway": str(route.gateway), "flags": _RTNH_F_ONLINK}
    elif route.destination.version == 4:
        request["scope"] = _SCOPE_LINK
    if route.source:
        request["prefsrc"] = str(route.source)
    return request


def rule_request(rule: Rule) -> dict[str, object]:
    """The arguments with which a rule is added or removed."""
    return {
        "family": FAMILY[rule.source.version],
        "src": str(rule.source.network_address),
        "src_len": rule.source.prefixlen,
        "table": rule.table,
        "priority": rule.priority,
        "protocol": rule.protocol,
        "action": _FR_ACT_TO_TBL,
    }
