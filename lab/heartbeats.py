"""Receiving what an amphora sends to a health manager: heartbeats over UDP.

On the wire a heartbeat is zlib-compressed JSON followed by the HMAC-SHA256 of the compressed bytes
as 64 hexadecimal digits.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import select
import socket
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.lifecycle import Closing

_DIGEST_SIZE = 64
_DATAGRAM_SIZE = 65536
_UNPACKED_LIMIT = 64 * 1024 * 1024


class BadHeartbeatError(ValueError):
    """A datagram that is not a heartbeat signed with our key."""


@dataclass(frozen=True)
class Heartbeat:
    message: Mapping[str, Any]
    source: str
    size: int
    """Bytes of the datagram."""
    received: float
    """On the monotonic clock."""

    @property
    def amphora_id(self) -> str:
        return str(self.message["id"])

    @property
    def sequence(self) -> int:
        return int(self.message["seq"])

    @property
    def version(self) -> int:
        return int(self.message["ver"])

    @property
    def listeners(self) -> Mapping[str, Any]:
        listeners: Mapping[str, Any] = self.message.get("listeners", {})
        return listeners

    @property
    def pools(self) -> Mapping[str, Any]:
        pools: Mapping[str, Any] = self.message.get("pools", {})
        return pools

    @property
    def members(self) -> dict[str, str]:
        """Status by member, over all pools; a member of two pools has the status of the last."""
        return {
            member: status
            for pool in self.pools.values()
            for member, status in pool.get("members", {}).items()
        }


def decode(datagram: bytes, key: str) -> dict[str, Any]:
    """Check and unpack one datagram. Raises BadHeartbeatError."""
    compressed, digest = datagram[:-_DIGEST_SIZE], datagram[-_DIGEST_SIZE:]
    expected = hmac.new(key.encode(), compressed, hashlib.sha256).hexdigest().encode()
    if not hmac.compare_digest(digest, expected):
        raise BadHeartbeatError(f"wrong HMAC on a datagram of {len(datagram)} bytes")
    try:
        unpacker = zlib.decompressobj()
        message = json.loads(unpacker.decompress(compressed, _UNPACKED_LIMIT))
    except (zlib.error, ValueError) as error:
        raise BadHeartbeatError(f"rightly signed, but unreadable: {error}") from error
    if not unpacker.eof or unpacker.unused_data:
        raise BadHeartbeatError("rightly signed, but cut off, too long, or followed by more")
    if not isinstance(message, dict) or not {"id", "seq", "ver"} <= message.keys():
        raise BadHeartbeatError(f"rightly signed, but not a heartbeat: {message!r}")
    return message


class HeartbeatReceiver(Closing):
    """A health manager's ear. ``refused`` keeps what came and could not be believed."""

    def __init__(self, key: str, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self.key = key
        self.refused: list[str] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        # A test may look long after the messages came.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.bind((address, port))
        self._socket.setblocking(False)
        # A run of many tests has more descriptors than select can name.
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    @property
    def address(self) -> str:
        """As it is written in ``controller_ip_port_list``."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def next(self, timeout: float = 5) -> Heartbeat:
        """The next good heartbeat, which may have come before; bad ones go to ``refused``.

        Raises TimeoutError.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            ready = self._poll.poll(max(0.0, left) * 1000)
            if not ready:
                refused = f"; refused: {self.refused[-1]}" if self.refused else ""
                raise TimeoutError(f"no heartbeat within {timeout:.1f} s{refused}")
            datagram, source = self._socket.recvfrom(_DATAGRAM_SIZE)
            try:
                message = decode(datagram, self.key)
            except BadHeartbeatError as error:
                self.refused.append(str(error))
                continue
            return Heartbeat(message, source[0], len(datagram), time.monotonic())

    def wait_for(self, predicate: Callable[[Heartbeat], bool], timeout: float = 15) -> Heartbeat:
        """The first good heartbeat that fulfils the predicate; one that does not tell of what the
        predicate asks for (KeyError) does not.

        Raises TimeoutError, with the last one that did not.
        """
        deadline = time.monotonic() + timeout
        last: Heartbeat | None = None
        while True:
            try:
                last = self.next(max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                seen = json.dumps(last.message) if last else "none at all"
                raise TimeoutError(
                    f"no such heartbeat within {timeout:.1f} s ({error}); the last: {seen}"
                ) from None
            with contextlib.suppress(KeyError):
                if predicate(last):
                    return last

    def drain(self) -> list[Heartbeat]:
        """Everything that has come and was not looked at, without waiting."""
        found = []
        while True:
            try:
                found.append(self.next(0))
            except TimeoutError:
                return found

    def close(self) -> None:
        self._socket.close()
