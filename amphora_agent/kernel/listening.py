"""The TCP sockets that listen in this thread's network namespace, and taking them away from a
process that hangs (linux/sock_diag.h, linux/inet_diag.h).
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

_NETLINK_SOCK_DIAG, _BY_FAMILY, _DESTROY = 4, 20, 21
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_LISTEN = 10

#: Length, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
#: Family, protocol, extensions, padding, states; the socket follows.
_QUESTION = struct.Struct("=BBBxI")
#: Source and destination ports and addresses, interface, cookie.
_SOCKET = struct.Struct("!HH16s16s4s8s")
#: What stands before the socket in an answer: family, state, timer, retransmissions.
_BEFORE = 4
_TIMEOUT = 5.0

#: Ports for which one of several sockets is looked up before it is taken for gone.
_MOST_SOURCES = 1000


class Listening(NamedTuple):
    """A socket: its address as the kernel has it, and the cookie that no other has."""

    family: int
    port: int
    address: bytes
    interface: bytes
    cookie: bytes

    def has_address_of(self, other: "Listening") -> bool:
        return self[:4] == other[:4]


def sockets() -> frozenset[Listening]:
    """All that listen now.

    Raises:
        OSError: the kernel does not say.
    """
    found = set()
    with _netlink() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            empty = _SOCKET.pack(0, 0, bytes(16), bytes(16), bytes(4), bytes(8))
            question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 1 << _LISTEN) + empty
            netlink.send(_message(_BY_FAMILY, _REQUEST | _DUMP, question))
            for answer in _answers(netlink):
                port, _, address, _, interface, cookie = _SOCKET.unpack_from(answer, _BEFORE)
                found.add(Listening(answer[0], port, address, interface, cookie))
    return frozenset(found)


def close(listening: Listening) -> bool:
    """Have a socket listen no more, whoever holds it; what waits there is reset. Return whether it
    was found.

    The kernel looks it up as for a connection: where several listen at one address, which of them
    is found depends on where that comes from. So it is asked as for one port after another.

    Raises:
        OSError: the kernel refuses, or cannot do that.
    """
    with _netlink() as netlink:
        for source in range(1, _MOST_SOURCES):
            which = _SOCKET.pack(
                listening.port,
                source,
                listening.address,
                bytes(16),
                listening.interface,
                listening.cookie,
            )
            question = _QUESTION.pack(listening.family, socket.IPPROTO_TCP, 0, 1 << _LISTEN)
            netlink.send(_message(_DESTROY, _REQUEST | _ACK, question + which))
            try:
                for _ in _answers(netlink):
                    pass
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
            else:
                return True
    return False


@contextlib.contextmanager
def _netlink() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as opened:
        opened.settimeout(_TIMEOUT)
        opened.connect((0, 0))
        yield opened


def _message(kind: int, flags: int, content: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(content), kind, flags, 1, 0) + content


def _answers(netlink: socket.socket) -> Iterator[bytes]:
    """The contents of the messages that answer, until the last one."""
    while True:
        datagram = netlink.recv(1 << 16)
        while len(datagram) >= _HEADER.size:
            length, kind, _, _, _ = _HEADER.unpack_from(datagram)
            content, datagram = datagram[_HEADER.size : length], datagram[(length + 3) & ~3 :]
            if kind == _DONE:
                return
            if kind == _ERROR:
                (code,) = struct.unpack_from("=i", content)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return
            yield content
