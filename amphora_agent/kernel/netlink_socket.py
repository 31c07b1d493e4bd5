"""A conversation with the kernel over netlink: one request at a time, answered before the next.

What is said is for others to know; this module knows sequence numbers, dumps, refusals. A socket
belongs to the namespace in which it was opened.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK = 0x1, 0x4
_NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x10, 0x300
_NLMSGERR_ATTR_MSG = 1

#: Length, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
#: Length, type.
_ATTRIBUTE = struct.Struct("=HH")

#: The kernel fills datagrams up to half of this.
_LARGEST_DATAGRAM = 65536

#: Dumps that others may spoil, one after the other, before what one has is taken as it is.
_MOST_DUMPS = 20

#: Seconds. The kernel answers at once; if ever it does not, nobody waits for good.
_TIMEOUT = 5.0


class Request(msgspec.Struct, frozen=True):
    """What the kernel is asked for.

    `kind` is the type of the message, `message` its class in pyroute2, which names the `fields`
    and `attributes`.
    """

    kind: int
    message: Any
    fields: Mapping[str, int]
    attributes: tuple[tuple[str, object], ...] = ()
    flags: int = 0

    def encoded(self, sequence: int, flags: int = 0) -> bytes:
        """As it is sent, with these `flags` besides its own."""
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

    def decoded(self, datagram: bytes, offset: int) -> Any:
        """The message, of the same class, that begins there in an answer."""
        message = self.message(datagram, offset=offset)
        message.decode()
        return message


class Conversation:
    """One socket, for one thread. `protocol` is one of netlink's.

    Its methods raise OSError: the kernel refuses, with its `errno` and, where it gives one, its
    reason in words; or it does not answer.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT)
            # Reasons in words; without the request that they are about. Filters of dumps obeyed.
            for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except BaseException:  # also KeyboardInterrupt: the socket must not stay open
            self._socket.close()
            raise

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def change(self, request: Request) -> None:
        """Have the kernel do what `request` says."""
        self._send(request, _NLM_F_ACK)
        for _ in self._answers():
            pass

    def get(self, request: Request) -> list[Any]:
        """The messages, of the request's class, that answer a question."""
        self._send(request, _NLM_F_ACK)
        return [
            request.decoded(datagram, offset)
            for datagram, offset, _ in self._answers()
            if offset is not None
        ]

    def dump(self, request: Request) -> list[Any]:
        """The messages, of the request's class, of all that the request asks for."""
        messages: list[Any] = []
        for _ in range(_MOST_DUMPS):
            messages, whole = self._dump_once(request)
            if whole:
                break
        return messages

    def _dump_once(self, request: Request) -> tuple[list[Any], bool]:
        """With whether it is whole: others may have made changes meanwhile."""
        self._send(request, _NLM_F_DUMP)
        messages = []
        whole = True
        for datagram, offset, flags in self._answers():
            whole = whole and not flags & _NLM_F_DUMP_INTR
            if offset is not None:
                messages.append(request.decoded(datagram, offset))
        return messages, whole

    def _send(self, request: Request, flags: int) -> None:
        self._sequence += 1
        self._socket.send(request.encoded(self._sequence, flags | _NLM_F_REQUEST))

    def _answers(self) -> Iterator[tuple[bytes, int | None, int]]:
        """Each message of the answer to the last request: its datagram, offset there and flags.

        The last one, which has no content, has no offset.
        """
        while True:
            datagram = self._socket.recv(_LARGEST_DATAGRAM)
            for offset, length, kind, flags, sequence in messages_in(datagram):
                if sequence != self._sequence:
                    continue  # the answer to a request that was given up
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    _raise_refusal(kind, datagram[offset + _HEADER.size : offset + length])
                    yield datagram, None, flags
                    return
                yield datagram, offset, flags


def messages_in(datagram: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Offset, length, type, flags and sequence number of each message.

    Raises OSError when the datagram ends within one.
    """
    offset = 0
    while offset < len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= len(datagram) - offset:
            raise OSError(errno.EBADMSG, "the kernel's answer does not fit its datagram")
        yield offset, length, kind, flags, sequence
        offset += _aligned(length)


def _raise_refusal(kind: int, content: bytes) -> None:
    """Raise OSError, unless the content of this last message of an answer says that all is well."""
    [error] = _ERROR.unpack_from(content)
    if error < 0:
        # A refusal repeats the header of what it refuses.
        repeated = _HEADER.size if kind == _NLMSG_ERROR else 0
        reason = _reason(content[_ERROR.size + repeated :])
        words = os.strerror(-error)
        raise OSError(-error, f"{words}: {reason}" if reason else words)


def _reason(attributes: bytes) -> str:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _NLMSGERR_ATTR_MSG:
            return attributes[_ATTRIBUTE.size : length].rstrip(b"\0").decode(errors="replace")
        attributes = attributes[_aligned(max(length, _ATTRIBUTE.size)) :]
    return ""


def _aligned(length: int) -> int:
    return (length + 3) & ~3
