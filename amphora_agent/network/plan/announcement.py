"""Build the frames that announce the MAC address of an address to neighbours.

Neighbours, above all routers, keep the MAC address of the previous holder for minutes. Frames begin
with the Ethernet header, and have no checksum: the hardware adds it.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

from amphora_agent.model.addressing import Address, Mac

# Ethernet (IEEE 802, RFC 826, RFC 2464).
_BROADCAST = bytes.fromhex("ffffffffffff")
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ARP, _IPV6 = 0x0806, 0x86DD
_ETHERNET = 1

_IPV4 = 0x0800
_REQUEST, _REPLY = 1, 2

_ALL_NODES = IPv6Address("ff02::1")
_ICMPV6 = 58
_NEIGHBOUR_ADVERTISEMENT = 136
#: Of the flags router, solicited and override, in this order from the highest bit.
_OVERRIDE = 0x20000000
_TARGET_LINK_LAYER_ADDRESS = 2
#: Neighbours drop packets with a smaller one, which a router could have forwarded.
_HOP_LIMIT = 255


def build_frames(mac: Mac, address: Address) -> tuple[bytes, ...]:
    """Return the frames that announce `address` at `mac` once."""
    if isinstance(address, IPv4Address):
        return gratuitous_arp(mac, address)
    return (unsolicited_advertisement(mac, address),)


def gratuitous_arp(mac: Mac, address: IPv4Address) -> tuple[bytes, bytes]:
    """Return the announcement as an ARP request (RFC 5227, 2.3) and a reply (RFC 5944, 4.6).

    Both are broadcast and name the address as sender and as target. Some neighbours, and switches
    that guard against spoofing, heed only one of them.
    """
    hardware = _bytes(mac)
    # Nothing reads the target hardware address of a request.
    return (
        _arp(_REQUEST, hardware, address, target=bytes(6)),
        _arp(_REPLY, hardware, address, target=hardware),
    )


def unsolicited_advertisement(mac: Mac, address: IPv6Address) -> bytes:
    """Return a neighbour advertisement to all nodes that overrides their entries (RFC 4861, 4.4,
    7.2.6). It does not call the amphora a router: nobody shall route through it.
    """
    hardware = _bytes(mac)
    body = struct.pack(
        "!I16sBB6s", _OVERRIDE, address.packed, _TARGET_LINK_LAYER_ADDRESS, 1, hardware
    )
    length = 4 + len(body)
    # The pseudo-header of RFC 8200, 8.1.
    pseudo = struct.pack("!16s16sII", address.packed, _ALL_NODES.packed, length, _ICMPV6)
    unsummed = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, 0)
    checksum = _checksum(pseudo + unsummed + body)
    icmp = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, checksum) + body
    version = 6 << 28
    header = struct.pack(
        "!IHBB16s16s", version, length, _ICMPV6, _HOP_LIMIT, address.packed, _ALL_NODES.packed
    )
    return _ethernet(_ALL_NODES_MAC, hardware, _IPV6) + header + icmp


def _arp(operation: int, hardware: bytes, address: IPv4Address, *, target: bytes) -> bytes:
    """RFC 826."""
    return _ethernet(_BROADCAST, hardware, _ARP) + struct.pack(
        "!HHBBH6s4s6s4s",
        _ETHERNET,
        _IPV4,
        6,
        4,
        operation,
        hardware,
        address.packed,
        target,
        address.packed,
    )


def _ethernet(destination: bytes, source: bytes, kind: int) -> bytes:
    return struct.pack("!6s6sH", destination, source, kind)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _bytes(mac: Mac) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
