"""DHCP leases, parsed from the environment in which the client (udhcpc) runs its script.

A server deserves no more trust than the tenant whose network it is in. Its answer becomes an
address, a prefix, an MTU and routes to networks, or it is refused. It never becomes a default
route: the controller chooses that.
"""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import msgspec

from amphora_agent.errors import InvalidRequest
from amphora_agent.model.addressing import Interface
from amphora_agent.model.plugging import HostRoute, Mtu

#: The shortest prefix of a subnet or a route: two halves of the world make a default route, too.
_WIDEST = 8
#: Option 121 has 255 bytes, and a route at least five.
_MOST_ROUTES = 51
#: As in udhcpc: seconds if the server names none, and the fewest.
_UNNAMED, _SHORTEST = 3600, 16
_FOREVER = 2**32 - 1
#: Characters of an error message, which quotes the server.
_MOST_WORDS = 200


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """An address that is lent until `expires` (seconds since the epoch), and what came with it."""

    address: Interface
    routes: tuple[HostRoute, ...] = ()
    mtu: Mtu | None = None
    expires: float

    def __str__(self) -> str:
        words = [str(self.address)]
        words += [f"{route.destination} via {route.nexthop}" for route in self.routes]
        words += [f"mtu {self.mtu}"] if self.mtu else []
        return ", ".join(words)


def parse_lease(environment: Mapping[str, str], now: float) -> Lease:
    """Return the lease that udhcpc describes to its script at `bound` and `renew`.

    Args:
        environment: `ip`, `subnet` (a mask) and `lease` (seconds), `mtu` when the server has one,
            `staticroutes` ("10.0.0.0/8 10.1.0.9 …", option 121) likewise. Others are not read.
        now: seconds since the epoch.

    Raises:
        InvalidRequest: one of them is missing or invalid.
    """
    try:
        mtu = environment.get("mtu")
        return Lease(
            address=_parse_address(environment),
            routes=tuple(_parse_routes(environment.get("staticroutes", ""))),
            mtu=_parse_number(mtu, 68, 65535) if mtu is not None else None,
            expires=now + _parse_duration(environment),
        )
    except ValueError as error:
        raise InvalidRequest("Invalid DHCP lease", str(error)[:_MOST_WORDS]) from None


def _parse_address(environment: Mapping[str, str]) -> IPv4Interface:
    ip = _parse_host(environment.get("ip", ""))
    mask = environment.get("subnet", "")
    address = IPv4Interface(f"{ip}/{mask}")
    network = address.network
    # ipaddress would understand an inverted mask.
    if str(address.netmask) != mask or network.prefixlen < _WIDEST:
        raise ValueError(f"{mask!r} is not the mask of a subnet")
    if network.prefixlen < 31 and ip in (network.network_address, network.broadcast_address):
        raise ValueError(f"{address} is not the address of a host")
    return address


def _parse_routes(text: str) -> Iterator[HostRoute]:
    words = text.split()
    if len(words) % 2 or len(words) > 2 * _MOST_ROUTES:
        raise ValueError(f"{text!r} are not routes")
    for destination, nexthop in zip(words[::2], words[1::2], strict=True):
        network = IPv4Network(destination, strict=False)
        # Next hop 0.0.0.0 means a network on the link, which is what the prefix is for.
        if network.prefixlen >= _WIDEST and nexthop != "0.0.0.0":  # noqa: S104 - nothing is bound
            yield HostRoute(destination=network, nexthop=_parse_host(nexthop))


def _parse_host(text: str) -> IPv4Address:
    address = IPv4Address(text)
    # Reserved are 240.0.0.0/4, the broadcast address among them; the first network is "this" one.
    if (
        address.is_multicast
        or address.is_loopback
        or address.is_reserved
        or address in IPv4Network("0.0.0.0/8")
    ):
        raise ValueError(f"{address} is not the address of a host")
    return address


def _parse_duration(environment: Mapping[str, str]) -> int:
    named = environment.get("lease")
    return _UNNAMED if named is None else max(_SHORTEST, _parse_number(named, 0, _FOREVER))


def _parse_number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)
