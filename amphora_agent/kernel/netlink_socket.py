"""Netlink sockets: one request at a time, answered before the next.

This module knows sequence numbers, dumps and refusals; a request knows the content of its messages.
A socket belongs to the network namespace in which it was opened.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import msgspec

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK = 0x1, 0x4
_NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x10, 0x300
_NLMSGERR_ATTR_MSG = 1

#: Length, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
HEADER_SIZE = _HEADER.size
_ERROR = struct.Struct("=i")
#: Length, type.
_ATTRIBUTE = struct.Struct("=HH")

#: The kernel fills datagrams up to half of this.
_LARGEST_DATAGRAM = 65536

#: Dumps, each spoilt by a change of others, before the last one is taken as it is.
_MOST_DUMPS = 20

#: Seconds without an event after which a caller shall look, in case one was lost.
_LONGEST_WAIT = 1.0

#: Seconds to wait for an answer. The kernel answers at once.
_TIMEOUT = 5.0


class AnyRequest(Protocol[T_co]):
    """A request, and how to read its answers."""

    def encode(self, sequence: int, flags: int) -> bytes: ...

    def decode(self, datagram: bytes, offset: int) -> T_co:
        """Return the message that begins at an offset of an answer."""


class NetlinkRequest(msgspec.Struct, frozen=True):
    """A request in a message class of pyroute2.

    `kind` is the type of the message, `message` its class, which names `fields` and `attributes`.
    """

    kind: int
    message: Any
    fields: Mapping[str, int]
    attributes: tuple[tuple[str, object], ...] = ()
    flags: int = 0

    def encode(self, sequence: int, flags: int = 0) -> bytes:
        """Return the message with `flags` added to its own."""
        message = self.message()
        message.update(self.fields)
        message["attrs"] = list(self.attributes)
        message["header"] = {
            "type": self.kind,
            "flags": self.flags | flags,
            "sequence_number": sequence,
        }
        message.encode()
        return bytes(message.data)

    def decode(self, datagram: bytes, offset: int) -> Any:
        """Return the message, of the same class, that begins at an offset of an answer."""
        message = self.message(datagram, offset=offset)
        message.decode()
        return message


class NetlinkSocket(AbstractContextManager["NetlinkSocket"]):
    """One socket, for one thread. `protocol` is one of netlink's.

    Its methods raise OSError: the kernel does not answer, or refuses, with its `errno` and, if it
    gives one, its reason.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT)
            # Refusals with a reason and without the request; dumps obey their filters.
            for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except BaseException:  # also KeyboardInterrupt: the socket must not stay open
            self._socket.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def change(self, request: AnyRequest[Any]) -> None:
        """Have the kernel carry out `request`."""
        self._send(request, _NLM_F_ACK)
        for _ in self._answers():
            pass

    def get(self, request: AnyRequest[T]) -> list[T]:
        """Return the messages that answer a request for one object."""
        return self._ask(request, _NLM_F_ACK)[0]

    def dump(self, request: AnyRequest[T]) -> list[T]:
        """Return the messages of all objects that a request asks for."""
        messages: list[T] = []
        for _ in range(_MOST_DUMPS):
            messages, interrupted = self._ask(request, _NLM_F_DUMP)
            if not interrupted:
                break
        return messages

    def _ask(self, request: AnyRequest[T], flags: int) -> tuple[list[T], bool]:
        """Return the answers, and whether a change of others interrupted the dump."""
        self._send(request, flags)
        messages = []
        interrupted = False
        for datagram, offset, answer_flags in self._answers():
            interrupted = interrupted or bool(answer_flags & _NLM_F_DUMP_INTR)
            if offset is not None:
                messages.append(request.decode(datagram, offset))
        return messages, interrupted

    def _send(self, request: AnyRequest[Any], flags: int) -> None:
        self._sequence += 1
        self._socket.send(request.encode(self._sequence, flags | _NLM_F_REQUEST))

    def _answers(self) -> Iterator[tuple[bytes, int | None, int]]:
        """Yield each message of the answer to the last request: its datagram, offset and flags.

        The last message has no content, and None for an offset.
        """
        while True:
            datagram = self._socket.recv(_LARGEST_DATAGRAM)
            for offset, length, kind, flags, sequence in split_datagram(datagram):
                if sequence != self._sequence:
                    continue  # the answer to a request that failed before
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    _raise_refusal(kind, datagram[offset + _HEADER.size : offset + length])
                    yield datagram, None, flags
                    return
                yield datagram, offset, flags


class NetlinkEvents(AbstractContextManager["NetlinkEvents"]):
    """Waits for changes since it was opened; does not say which.

    `groups` are multicast groups of rtnetlink, as bits.
    """

    def __init__(self, groups: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, groups))

    def wait(self, seconds: float) -> None:
        """Return at a change, or after `seconds`, or earlier: events may be lost."""
        self._socket.settimeout(max(0.001, min(seconds, _LONGEST_WAIT)))
        try:
            self._socket.recv(65536)
        except TimeoutError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some events were lost
                raise

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()


def encode_message(kind: int, flags: int, sequence: int, content: bytes) -> bytes:
    """Return a message with its header."""
    return _HEADER.pack(_HEADER.size + len(content), kind, flags, sequence, 0) + content


def split_datagram(datagram: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield offset, length, type, flags and sequence number of each message.

    Raises:
        OSError: the datagram ends within a message.
    """
    offset = 0
    while offset < len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= len(datagram) - offset:
            raise OSError(errno.EBADMSG, "the kernel's answer does not fit its datagram")
        yield offset, length, kind, flags, sequence
        offset += _align(length)


def _raise_refusal(kind: int, content: bytes) -> None:
    """Raise OSError if the last message of an answer, with this content, is a refusal."""
    [error] = _ERROR.unpack_from(content)
    if error < 0:
        # A refusal repeats the header of the request.
        repeated = _HEADER.size if kind == _NLMSG_ERROR else 0
        reason = _find_reason(content[_ERROR.size + repeated :])
        text = os.strerror(-error)
        raise OSError(-error, f"{text}: {reason}" if reason else text)


def _find_reason(attributes: bytes) -> str:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _NLMSGERR_ATTR_MSG:
            return attributes[_ATTRIBUTE.size : length].rstrip(b"\0").decode(errors="replace")
        attributes = attributes[_align(max(length, _ATTRIBUTE.size)) :]
    return ""


def _align(length: int) -> int:
    return (length + 3) & ~3
