"""Addresses, networks and MAC addresses as JSON writes them, turned into real types."""

import functools
import re
from abc import ABCMeta
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TYPE_CHECKING, TypeAlias

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
    """Raises ValueError, also for an address with a zone (`fe80::1%eth0`)."""
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


def parse_network(text: str) -> Network:
    """A CIDR; bits beyond the prefix are dropped. Raises ValueError."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return ip_network(text, strict=False)


def parse_interface(text: str) -> Interface:
    """An address with a prefix length. Raises ValueError."""
    return ip_interface(text)


def parse_mac(text: str) -> Mac:
    """Raises ValueError when it is not a MAC address, or none of a single interface."""
    normal = text.lower()
    if not _MAC.fullmatch(normal):
        raise ValueError(f"{text!r} is not a MAC address")
    # The loopback interface has the zero address: nobody may plug that.
    if int(normal[:2], 16) & 1 or not normal.strip("0:"):
        raise ValueError(f"{text!r} is not the MAC address of one interface")
    return Mac(normal)
