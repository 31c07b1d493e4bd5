"""Where load balancers listen: what one claims, no other may have.

Two sockets of haproxy at one address and port are no error to the kernel: it divides the
connections between them.
"""

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from amphora_agent.model.addressing import Address, with_brackets
from amphora_agent.model.loadbalancer import accessors
from amphora_agent.model.loadbalancer.types import ListenerProtocol, LoadBalancer

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
        """Whether a connection can be for both."""
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
    """The claim of a socket. What is no IP address counts as every address, and so does `::`, whose
    sockets serve IPv4, too, unless they are for `only_ipv6`."""
    last = low if high is None else high
    try:
        address = ipaddress.ip_address(host) if isinstance(host, str) else host
    except ValueError:
        return Claim(transport, "", EVERYWHERE, low, last)
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_unspecified:
            return Claim(transport, "", _IPV6 if only_ipv6 else EVERYWHERE, low, last)
        address = address.ipv4_mapped or address
    versions = _IPV4 if address.version == 4 else _IPV6
    return Claim(transport, "" if address.is_unspecified else str(address), versions, low, last)


def of_balancer(balancer: LoadBalancer) -> frozenset[Claim]:
    """What a load balancer claims: of what is down nothing."""
    if not accessors.is_up(balancer):
        return frozenset()
    return frozenset(
        claim(
            str(each.protocol) if accessors.is_layer4(each) else str(ListenerProtocol.TCP),
            vip,
            each.protocol_port,
        )
        for each in balancer.listeners or ()
        if accessors.is_up(each)
        for vip in accessors.vips(balancer)
    )


def first_meeting(some: Iterable[Claim], others: Iterable[Claim]) -> Claim | None:
    """One of `some` that meets one of the others."""
    by_port: dict[int, list[Claim]] = {}
    ranges: list[Claim] = []
    for other in others:
        if other.low == other.high:
            by_port.setdefault(other.low, []).append(other)
        else:
            ranges.append(other)
    every_port = [other for found in by_port.values() for other in found]
    for each in some:
        at_port = by_port.get(each.low, []) if each.low == each.high else every_port
        if any(map(each.meets, (*at_port, *ranges))):
            return each
    return None
