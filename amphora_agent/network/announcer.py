"""Announce addresses to the neighbours in several rounds, in the background.

Each round looks at its addresses first. It leaves out one that the interface does not have, or
whose duplicate-address detection has not ended well: the host that has it would lose its traffic.
Binding a socket would not tell, since `ip_nonlocal_bind` is set.

Neighbours, above all routers, keep the MAC address of the previous holder for minutes. Frames begin
with the Ethernet header, and have no checksum: the hardware adds it.
"""

import logging
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from amphora_agent.errors import OperationFailed
from amphora_agent.model.addressing import Address, Mac, parse_mac
from amphora_agent.namespace import Namespace

logger = logging.getLogger(__name__)

#: Seconds between rounds. A neighbour advertisement may be sent three times, one second apart at
#: least (MAX_NEIGHBOR_ADVERTISEMENT and RetransTimer, RFC 4861, 7.2.6 and 10).
PAUSES = (1.0, 3.0)

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


def announce_once(namespace: Namespace, interface: str, addresses: Iterable[Address]) -> None:
    """Announce addresses in one round and return. An address that cannot be announced is logged."""
    for address, reason in _send(namespace, interface, addresses).items():
        _warn(interface, address, reason)


@dataclass
class _Announcement:
    """The rest of an announcement: the time of its next round, and the pauses after that.

    One that is requested again begins anew, not before `earliest`.
    """

    due: float
    earliest: float
    pauses: Sequence[float]
    complained: bool = False


class Announcer:
    """Announces addresses of interfaces in `namespace`. Many threads may call it.

    A thread of its own works while there is something to announce. Threads do not survive a fork:
    announce only after it.

    Args:
        pauses: seconds between the rounds of an announcement.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        namespace: Namespace,
        pauses: Sequence[float] = PAUSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._namespace = namespace
        self._pauses = pauses
        self._clock = clock
        self._changed = threading.Condition()
        self._under_way: dict[tuple[str, Address], _Announcement] = {}
        self._working = False

    def announce(self, interface: str, addresses: Iterable[Address]) -> None:
        """Announce addresses in the background, and return at once.

        An announcement under way begins anew after its first pause: calling this often does not
        flood the network.
        """
        with self._changed:
            now = self._clock()
            for address in addresses:
                key = interface, address
                earlier = self._under_way.get(key)
                due = earlier.earliest if earlier else now
                self._under_way[key] = _Announcement(due, due, self._pauses)
            if self._under_way and not self._working:
                threading.Thread(target=self._work, name="announcer", daemon=True).start()
                self._working = True
            self._changed.notify()

    def _work(self) -> None:
        """Send the rounds that are due, until none is left."""
        while True:
            with self._changed:
                if not self._under_way:
                    self._working = False
                    return
                now = self._clock()
                due = {key: rest for key, rest in self._under_way.items() if rest.due <= now}
                if not due:
                    first = min(rest.due for rest in self._under_way.values())
                    self._changed.wait(first - now)
                    continue
                for key, rest in due.items():
                    self._schedule_next(key, rest, now)
            self._send_round(due)

    def _schedule_next(self, key: tuple[str, Address], rest: _Announcement, now: float) -> None:
        if not rest.pauses:
            del self._under_way[key]
            return
        rest.earliest = now + self._pauses[0]
        rest.due = now + rest.pauses[0]
        rest.pauses = rest.pauses[1:]

    def _send_round(self, due: Mapping[tuple[str, Address], _Announcement]) -> None:
        by_interface = defaultdict(list)
        for interface, address in due:
            by_interface[interface].append(address)
        for interface, addresses in by_interface.items():
            for address, reason in _send(self._namespace, interface, addresses).items():
                announcement = due[interface, address]
                if not announcement.complained:
                    announcement.complained = True
                    _warn(interface, address, reason)


def _send(namespace: Namespace, interface: str, addresses: Iterable[Address]) -> dict[Address, str]:
    """Send one round; return the reason for each address that was not announced. Never raises."""
    addresses = tuple(addresses)
    try:
        return namespace.run(lambda: _send_inside(interface, addresses))
    except Exception as error:  # the change stays, and other addresses must be announced
        return dict.fromkeys(addresses, str(error) or repr(error))


def _send_inside(interface: str, addresses: Sequence[Address]) -> dict[Address, str]:
    # Costs memory and time: loaded only when there is something to announce.
    from amphora_agent.network.netlink.links import Netlink

    with Netlink() as netlink:
        link = next((link for link in netlink.links() if link.is_called(interface)), None)
        if link is None:
            raise OperationFailed("there is no such interface")
        held = netlink.read_state(link, ()).addresses
    usable = {address.interface.ip for address in held if address.usable}
    mac = parse_mac(link.mac)
    refused: dict[Address, str] = {}
    # Protocol 0: it receives nothing.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.setblocking(False)  # a card that sends nothing must not block
        raw.bind((link.name, 0))
        for address in addresses:
            if address not in usable:
                refused[address] = "the interface does not have it, or may not use it"
                continue
            try:
                for frame in build_frames(mac, address):
                    raw.send(frame)
            except OSError as error:
                refused[address] = str(error)
    if announced := [str(address) for address in addresses if address not in refused]:
        logger.info("%s: announced %s", interface, ", ".join(announced))
    return refused


def _warn(interface: str, address: Address, reason: str) -> None:
    logger.warning("%s: %s is not announced: %s", interface, address, reason)


# Frames


def build_frames(mac: Mac, address: Address) -> tuple[bytes, ...]:
    """Return the frames that announce `address` at `mac` once."""
    if isinstance(address, IPv4Address):
        return build_gratuitous_arp(mac, address)
    return (build_advertisement(mac, address),)


def build_gratuitous_arp(mac: Mac, address: IPv4Address) -> tuple[bytes, bytes]:
    """Return the announcement as an ARP request (RFC 5227, 2.3) and a reply (RFC 5944, 4.6).

    Both are broadcast and name the address as sender and as target. Some neighbours, and switches
    that guard against spoofing, heed only one of them.
    """
    hardware = _encode_mac(mac)
    # Nothing reads the target hardware address of a request.
    return (
        _build_arp(_REQUEST, hardware, address, target=bytes(6)),
        _build_arp(_REPLY, hardware, address, target=hardware),
    )


def build_advertisement(mac: Mac, address: IPv6Address) -> bytes:
    """Return a neighbour advertisement to all nodes that overrides their entries (RFC 4861, 4.4,
    7.2.6). It does not call the amphora a router: nobody shall route through it.
    """
    hardware = _encode_mac(mac)
    body = struct.pack(
        "!I16sBB6s", _OVERRIDE, address.packed, _TARGET_LINK_LAYER_ADDRESS, 1, hardware
    )
    length = 4 + len(body)
    # The pseudo-header of RFC 8200, 8.1.
    pseudo = struct.pack("!16s16sII", address.packed, _ALL_NODES.packed, length, _ICMPV6)
    unsummed = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, 0)
    checksum = _compute_checksum(pseudo + unsummed + body)
    icmp = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, checksum) + body
    version = 6 << 28
    header = struct.pack(
        "!IHBB16s16s", version, length, _ICMPV6, _HOP_LIMIT, address.packed, _ALL_NODES.packed
    )
    return _build_ethernet_header(_ALL_NODES_MAC, hardware, _IPV6) + header + icmp


def _build_arp(operation: int, hardware: bytes, address: IPv4Address, *, target: bytes) -> bytes:
    """RFC 826."""
    ip = address.packed
    return _build_ethernet_header(_BROADCAST, hardware, _ARP) + struct.pack(
        "!HHBBH6s4s6s4s", _ETHERNET, _IPV4, 6, 4, operation, hardware, ip, target, ip
    )


def _build_ethernet_header(destination: bytes, source: bytes, kind: int) -> bytes:
    return struct.pack("!6s6sH", destination, source, kind)


def _compute_checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _encode_mac(mac: Mac) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
