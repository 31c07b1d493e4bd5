"""Messages of rtnetlink, the kernel's protocol for networks: parse answers, and build requests.

Messages are pyroute2's, which has no types: `Any` is one of them. The numbers are those of the
kernel's headers (rtnetlink.h, if_addr.h, fib_rules.h).
"""

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeAlias

import msgspec

from amphora_agent.kernel.messages import fibmsg, ifaddrmsg, ifinfmsg, rtmsg
from amphora_agent.kernel.netlink_socket import NetlinkRequest
from amphora_agent.model.addressing import Interface
from amphora_agent.network.plan import diff
from amphora_agent.network.plan.interface import DEFAULT_DESTINATION, Route, Rule

#: Address families by IP version.
FAMILY = {4: 2, 6: 10}

_NEWLINK, _GETLINK, _DELLINKPROP = 16, 18, 109
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_REPLACE, _EXCLUSIVE, _CREATE, _APPEND = 0x100, 0x200, 0x400, 0x800

_IFF_UP = 0x1
_DADFAILED, _DEPRECATED, _TENTATIVE, _PERMANENT = 0x08, 0x20, 0x40, 0x80
_RTN_UNICAST = 1
_RTNH_F_ONLINK = 0x4
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_LOCAL_TABLE = 255
_FR_ACT_TO_TBL = 1
_FOREVER = 0xFFFFFFFF


Attributes: TypeAlias = tuple[tuple[str, object], ...]


class Link(msgspec.Struct, frozen=True):
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


def parse_link(message: Any) -> Link:
    """Return the interface of a message of a link dump."""
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


def parse_address(message: Any) -> diff.HeldAddress:
    """Return the address of a message of an address dump."""
    # For IPv4, IFA_ADDRESS is the other end of a point-to-point link.
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS")
    return diff.HeldAddress(
        interface=ip_interface((address, message["prefixlen"])),
        deprecated=bool(flags & _DEPRECATED),
        permanent=bool(flags & _PERMANENT),
        tentative=bool(flags & _TENTATIVE),
        failed=bool(flags & _DADFAILED),
    )


def parse_routes(index: int, message: Any) -> Iterator[Route]:
    """Yield the routes of a message of a route dump that lead out of the interface `index`."""
    table = message.get_attr("RTA_TABLE") or message["table"]
    if message["type"] != _RTN_UNICAST or table == _LOCAL_TABLE:
        return
    default = DEFAULT_DESTINATION[4 if message["family"] == FAMILY[4] else 6]
    destination = message.get_attr("RTA_DST") or default.network_address
    source = message.get_attr("RTA_PREFSRC")
    # Routes that differ only by their gateway come in one message.
    hops = message.get_attr("RTA_MULTIPATH") or (message,)
    for hop in hops:
        outgoing = message.get_attr("RTA_OIF") if hop is message else hop["oif"]
        if outgoing == index:
            gateway = hop.get_attr("RTA_GATEWAY")
            yield Route(
                destination=ip_network((destination, message["dst_len"])),
                metric=message.get_attr("RTA_PRIORITY") or 0,
                table=table,
                gateway=ip_address(gateway) if gateway else None,
                source=ip_address(source) if source else None,
                protocol=message["proto"],
            )


def parse_rule(message: Any) -> Iterator[Rule]:
    """Yield the rule of a message of a rule dump, if it is by source and names a table."""
    source = message.get_attr("FRA_SRC")
    if source is not None and message["action"] == _FR_ACT_TO_TBL:
        yield Rule(
            source=ip_network((source, message["src_len"])),
            table=message.get_attr("FRA_TABLE"),
            priority=message.get_attr("FRA_PRIORITY") or 0,
            protocol=message.get_attr("FRA_PROTOCOL") or 0,
        )


# Requests that read


def links() -> NetlinkRequest:
    skip_statistics = 0x8
    return NetlinkRequest(_GETLINK, ifinfmsg, {}, (("IFLA_EXT_MASK", skip_statistics),))


def addresses(version: int | None = None) -> NetlinkRequest:
    """Return the request for addresses of all interfaces: the kernel does not report an interrupted
    dump of one."""
    return NetlinkRequest(_GETADDR, ifaddrmsg, {"family": FAMILY[version] if version else 0})


def unicast_routes(version: int, link: Link) -> NetlinkRequest:
    fields = {"family": FAMILY[version], "type": _RTN_UNICAST}
    return NetlinkRequest(_GETROUTE, rtmsg, fields, (("RTA_OIF", link.index),))


def rules(version: int) -> NetlinkRequest:
    return NetlinkRequest(_GETRULE, fibmsg, {"family": FAMILY[version]})


# Requests that change


def move_link(link: Link, namespace: int, new_name: str) -> NetlinkRequest:
    """Return the request to move a link. `namespace` is a descriptor of its file."""
    return _link_request(link, ("IFLA_NET_NS_FD", namespace), ("IFLA_IFNAME", new_name))


def drop_alternative_name(link: Link, name: str) -> NetlinkRequest:
    names = {"attrs": [("IFLA_ALT_IFNAME", name)]}
    return NetlinkRequest(
        _DELLINKPROP, ifinfmsg, {"index": link.index}, (("IFLA_PROP_LIST", names),)
    )


def build_change(link: Link, op: diff.NetOp) -> NetlinkRequest:
    """Return the request for an operation on a link that is one message."""
    match op:
        case diff.Rename():
            return _link_request(link, ("IFLA_IFNAME", op.new_name))
        case diff.SetMtu():
            return _link_request(link, ("IFLA_MTU", op.mtu))
        case diff.SetUp() | diff.SetDown():
            flags = _IFF_UP if isinstance(op, diff.SetUp) else 0
            fields = {"index": link.index, "flags": flags, "change": _IFF_UP}
            return NetlinkRequest(_NEWLINK, ifinfmsg, fields)
        case diff.AddAddress():  # also to set the lifetime of one that exists
            lifetime = {"ifa_preferred": 0, "ifa_valid": _FOREVER}
            attributes = (("IFA_CACHEINFO", lifetime),) if op.address.deprecated else ()
            flags = _CREATE | _REPLACE
            return _address_request(_NEWADDR, link, op.address.interface, flags, attributes)
        case diff.RemoveAddress():
            return _address_request(_DELADDR, link, op.interface)
        case diff.AddRoute():  # also if another one has the destination
            return _route_request(_NEWROUTE, link, op.route, _CREATE | _APPEND)
        case diff.RemoveRoute():
            return _route_request(_DELROUTE, link, op.route)
        case diff.AddRule():
            return _rule_request(_NEWRULE, op.rule, _CREATE | _EXCLUSIVE)
        case diff.RemoveRule():
            return _rule_request(_DELRULE, op.rule)
        case diff.Move() | diff.SetSysctl() | diff.AwaitAddresses():
            raise AssertionError(f"no message of the kernel: {op}")


def _link_request(link: Link, *attributes: tuple[str, object]) -> NetlinkRequest:
    return NetlinkRequest(_NEWLINK, ifinfmsg, {"index": link.index}, attributes)


def _address_request(
    kind: int,
    link: Link,
    interface: Interface,
    flags: int = 0,
    attributes: Attributes = (),
) -> NetlinkRequest:
    fields = {
        "family": FAMILY[interface.version],
        "index": link.index,
        "prefixlen": interface.network.prefixlen,
    }
    address = str(interface.ip)
    attributes = (("IFA_ADDRESS", address), *attributes)
    if interface.version == 4:
        attributes = (("IFA_LOCAL", address), *attributes)
    return NetlinkRequest(kind, ifaddrmsg, fields, attributes, flags)


def _route_request(kind: int, link: Link, route: Route, flags: int = 0) -> NetlinkRequest:
    on_link = route.destination.version == 4 and not route.gateway
    fields = {
        "family": FAMILY[route.destination.version],
        "dst_len": route.destination.prefixlen,
        "proto": route.protocol,
        "scope": _SCOPE_LINK if on_link else _SCOPE_UNIVERSE,
        "type": _RTN_UNICAST,
        "flags": _RTNH_F_ONLINK if route.gateway else 0,
    }
    attributes: list[tuple[str, object]] = [
        ("RTA_DST", str(route.destination.network_address)),
        ("RTA_OIF", link.index),
        ("RTA_TABLE", route.table),
        ("RTA_PRIORITY", route.metric),
    ]
    if route.gateway:
        attributes.append(("RTA_GATEWAY", str(route.gateway)))
    if route.source:
        attributes.append(("RTA_PREFSRC", str(route.source)))
    return NetlinkRequest(kind, rtmsg, fields, tuple(attributes), flags)


def _rule_request(kind: int, rule: Rule, flags: int = 0) -> NetlinkRequest:
    fields = {
        "family": FAMILY[rule.source.version],
        "src_len": rule.source.prefixlen,
        "action": _FR_ACT_TO_TBL,
    }
    attributes = (
        ("FRA_SRC", str(rule.source.network_address)),
        ("FRA_TABLE", rule.table),
        ("FRA_PRIORITY", rule.priority),
        ("FRA_PROTOCOL", rule.protocol),
    )
    return NetlinkRequest(kind, fibmsg, fields, attributes, flags)
