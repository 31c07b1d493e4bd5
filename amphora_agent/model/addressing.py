"""Addresses, networks and MAC addresses as JSON writes them, and claims of sockets on them."""

import functools
import re
from abc import ABCMeta
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    Address: TypeAlias = IPv4Address | IPv6Address
    Network: TypeAlias = IPv4Network | IPv6Network
    Interface: TypeAlias = IPv4Interface | IPv6Interface
else:
    # msgspec knows no union of two types of ours: one abstract type stands for both families.
    Address = ABCMeta("Address", (), {})
    Address.register(IPv4Address)
    Address.register(IPv6Address)
    Network = ABCMeta("Network", (), {})
    Network.register(IPv4Network)
    Network.register(IPv6Network)
    Interface = ABCMeta("Interface", (), {})
    Interface.register(IPv4Interface)
    Interface.register(IPv6Interface)


#: Members of several pools have the same addresses, and of the next request, too.
_MOST_KNOWN = 4096


class Mac(str):
    """A unicast MAC address, lower case, separated by colons: as the kernel prints it."""

    __slots__ = ()


_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@functools.lru_cache(_MOST_KNOWN)
def parse_address(text: str) -> Address:
    """Parse an IP address. Raises ValueError, also for one with a zone (`fe80::1%eth0`)."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return ip_address(text)


def split_endpoint(text: str) -> tuple[str, str]:
    """Split `host:port` at the last colon, and take brackets off the host. Without a colon the host
    is empty."""
    host, _, port = text.rpartition(":")
    return without_brackets(host), port


def without_brackets(host: str) -> str:
    """Return a host without the brackets that an IPv6 address may have."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def with_brackets(host: str | Address) -> str:
    """Return a host in brackets if it is an IPv6 address, whose end could be taken for a port."""
    text = str(host)
    return f"[{text}]" if ":" in text else text


def format_endpoint(host: str | Address, port: int) -> str:
    """Return an address and port as haproxy reads them."""
    return f"{with_brackets(host)}:{port}"


def parse_network(text: str) -> Network:
    """Parse a CIDR; bits beyond the prefix are dropped. Raises ValueError."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return ip_network(text, strict=False)


def parse_mac(text: str) -> Mac:
    """Parse the MAC address of one interface. Raises ValueError for anything else."""
    normal = text.lower()
    if not _MAC.fullmatch(normal):
        raise ValueError(f"{text!r} is not a MAC address")
    # The loopback interface has the zero address: nobody may plug that.
    if int(normal[:2], 16) & 1 or not normal.strip("0:"):
        raise ValueError(f"{text!r} is not the MAC address of one interface")
    return Mac(normal)


def prefix_length(mask: Address) -> int | None:
    """Return the prefix length of a network with this mask; None when its ones are not all in
    front, or there are none."""
    bits = f"{int(mask):0{mask.max_prefixlen}b}"
    return len(bits.rstrip("0")) if re.fullmatch("1+0*", bits) else None


# Claims: what one load balancer claims, no other may have. Two sockets of haproxy at one address
# and port are no error to the kernel: it divides the connections between them.

TCP = "TCP"

_IPV4, _IPV6 = frozenset({4}), frozenset({6})
#: The IP versions that a socket at no particular address serves.
EVERYWHERE = _IPV4 | _IPV6


class Claim(NamedTuple):
    """Ports from `low` to `high`, at an address in its shortest form, or with "" at all addresses
    of some IP versions. `transport` is Octavia's word: TCP, UDP or SCTP."""

    transport: str
    host: str
    versions: frozenset[int]
    low: int
    high: int

    def __str__(self) -> str:
        host = with_brackets(self.host) or "*"
        ports = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        return f"{host}:{ports} ({self.transport})"

    def meets(self, other: "Claim") -> bool:
        """Return whether a connection can be for both."""
        return (
            self.transport == other.transport
            and self.low <= other.high
            and other.low <= self.high
            and bool(self.versions & other.versions)
            and (not self.host or not other.host or self.host == other.host)
        )


def claim(
    transport: str,
    host: str | Address,
    low: int,
    high: int | None = None,
    *,
    only_ipv6: bool = False,
) -> Claim:
    """Return the claim of a socket. What is no IP address counts as every address, and so does
    `::`, whose sockets serve IPv4, too, unless they are for `only_ipv6`."""
    try:
        address = ip_address(host)
    except ValueError:
        address, only_ipv6 = IPv6Address("::"), False
    address = (address.version == 6 and address.ipv4_mapped) or address
    versions = _IPV4 if address.version == 4 else _IPV6
    if address.version == 6 and address.is_unspecified and not only_ipv6:
        versions = EVERYWHERE
    name = "" if address.is_unspecified else str(address)
    return Claim(transport, name, versions, low, low if high is None else high)


def first_meeting(claims: Iterable[Claim], others: Iterable[Claim]) -> Claim | None:
    """Return the first of `claims` that meets one of the others."""
    by_port: dict[int, list[Claim]] = {}
    ranges: list[Claim] = []
    for other in others:
        if other.low == other.high:
            by_port.setdefault(other.low, []).append(other)
        else:
            ranges.append(other)
    every_port = [claim for claims in by_port.values() for claim in claims]
    for own in claims:
        at_port = by_port.get(own.low, []) if own.low == own.high else every_port
        if any(map(own.meets, (*at_port, *ranges))):
            return own
    return None
