"""Find the TCP sockets that listen in this thread's network namespace, and close those of a process
that hangs (linux/sock_diag.h, linux/inet_diag.h).
"""

import errno
import socket
import struct
from typing import NamedTuple

from amphora_agent.kernel.netlink_socket import HEADER_SIZE, NetlinkSocket, encode_message

_NETLINK_SOCK_DIAG, _BY_FAMILY, _DESTROY = 4, 20, 21
_LISTEN = 10

#: Family, protocol, extensions, padding, states; the socket follows.
_QUERY = struct.Struct("=BBBxI")
#: Source and destination ports and addresses, interface, cookie.
_SOCKET = struct.Struct("!HH16s16s4s8s")
#: Bytes before the socket in an answer: family, state, timer, retransmissions.
_BEFORE_SOCKET = 4

#: Source ports that are tried before a socket counts as gone.
_MOST_SOURCES = 1000


class Listening(NamedTuple):
    """A socket: its address as the kernel writes it, and its unique cookie."""

    family: int
    port: int
    address: bytes
    interface: bytes
    cookie: bytes

    def has_address_of(self, other: "Listening") -> bool:
        return self[:4] == other[:4]


class _Request(NamedTuple):
    """A request about TCP sockets that listen; each answer is one of them."""

    kind: int
    listening: Listening
    source: int = 0

    def encode(self, sequence: int, flags: int) -> bytes:
        family, port, address, interface, cookie = self.listening
        query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, 1 << _LISTEN)
        which = _SOCKET.pack(port, self.source, address, bytes(16), interface, cookie)
        return encode_message(self.kind, flags, sequence, query + which)

    def decode(self, datagram: bytes, offset: int) -> Listening:
        content = offset + HEADER_SIZE
        fields = _SOCKET.unpack_from(datagram, content + _BEFORE_SOCKET)
        port, _, address, _, interface, cookie = fields
        return Listening(datagram[content], port, address, interface, cookie)


def list_sockets() -> frozenset[Listening]:
    """Return all sockets that listen.

    Raises:
        OSError: the kernel refuses, or does not answer.
    """
    sockets: set[Listening] = set()
    with NetlinkSocket(_NETLINK_SOCK_DIAG) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            any_socket = Listening(family, 0, bytes(16), bytes(4), bytes(8))
            sockets.update(netlink.dump(_Request(_BY_FAMILY, any_socket)))
    return frozenset(sockets)


def close(listening: Listening) -> bool:
    """Close a socket, whichever process holds it, and reset the connections that wait there; return
    whether it was found.

    The kernel looks the socket up as for a connection: if several listen at one address, the source
    of the connection decides. So this asks for one source port after another.

    Raises:
        OSError: the kernel refuses, or cannot do that.
    """
    with NetlinkSocket(_NETLINK_SOCK_DIAG) as netlink:
        for source in range(1, _MOST_SOURCES):
            try:
                netlink.change(_Request(_DESTROY, listening, source))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
            else:
                return True
    return False
