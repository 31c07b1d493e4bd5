"""The visitors of lab.load: HTTP/1.1 on kept connections, HTTP/2 over TLS, and TCP.

All send requests to a ``lab.backend``, whose answers repeat the request: an answer to the request
of another client is noticed. A server that closes a connection is an ending or a failure, which
depends on what it sent before. That is why these clients are raw: an HTTP library does not tell.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events

from lab.http import Tls, is_closed_by_peer, start_tls
from lab.load import FailedError, Tally, Trouble
from lab.network import Namespace

#: What a connection that has ended looks like to who sends on it or reads from it.
_ENDED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)

#: The type of an HTTP/2 frame (RFC 9113, 6.8).
_GOAWAY = 7

#: Of a backend's /stream.
_STREAM_PIECES = 20


class Wire:
    """A connection whose end, also by a reset, is read as b""."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.received = 0
        """Bytes so far."""
        self.was_reset = False

    @classmethod
    def open(
        cls,
        namespace: Namespace,
        address: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        timeout: float,
    ) -> Wire:
        """Raises FailedError."""
        try:
            connection = namespace.connect(address, port, timeout=timeout)
            if tls is not None:
                connection = start_tls(connection, tls, server_name)
        except ConnectionRefusedError as error:
            raise FailedError(Trouble.REFUSED, error) from error
        except _ENDED as error:
            raise FailedError(Trouble.RESET, f"{type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise FailedError(Trouble.LATE, error) from error
        return cls(connection)

    def send(self, data: bytes) -> None:
        """Send, and ignore that the server closed: its answer may have come already."""
        try:
            with contextlib.suppress(*_ENDED):
                self._connection.sendall(data)
        except TimeoutError as error:
            raise FailedError(Trouble.LATE, "could not send") from error

    def receive(self, size: int = 65536) -> bytes:
        """Return what has come; b"" at the end. Raises FailedError after the timeout."""
        try:
            data = self._connection.recv(size)
        except TimeoutError as error:
            raise FailedError(Trouble.LATE, error) from error
        except _ENDED as error:
            self.was_reset = isinstance(error, ConnectionError)
            return b""
        self.received += len(data)
        return data

    def waiting(self) -> bytes | None:
        """Return what has come already: b"" at the end, None if nothing has."""
        timeout = self._connection.gettimeout()
        self._connection.settimeout(0)
        try:
            return self.receive()
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        finally:
            self._connection.settimeout(timeout)

    def ended(self) -> bool:
        """Whether the server has closed."""
        return is_closed_by_peer(self._connection)

    def finish_sending(self) -> None:
        with contextlib.suppress(OSError):  # it is closed already: to be seen by reading
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._connection.close()

    def makefile(self, mode: str) -> io.BufferedReader:
        """For http.client, which reads answers from whatever has this."""
        return io.BufferedReader(_Reader(self))


class _Reader(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._wire.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@dataclass
class Place:
    """An address to send requests to. Every request is for `path`; without one, each has its own.

    `timeout`: seconds that each step may take."""

    namespace: Namespace
    address: str
    port: int
    tls: Tls | None = None
    path: str | None = None
    timeout: float = 10.0
    _context: ssl.SSLContext | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._context = self.tls.context() if self.tls else None

    def connect(self, tally: Tally) -> Wire:
        """Raises FailedError."""
        wire = Wire.open(
            self.namespace,
            self.address,
            self.port,
            tls=self._context,
            server_name=self.tls.server_name if self.tls else None,
            timeout=self.timeout,
        )
        tally.connections += 1
        return wire

    def paths(self) -> Iterator[str]:
        return itertools.repeat(self.path) if self.path else (f"/{n}" for n in itertools.count())


class HttpVisitor:
    """Sends HTTP/1.1 requests one after the other, on one connection as long as it is kept."""

    def __init__(self, place: Place, *, kind: str = "HTTP/1.1") -> None:
        self.kind = kind
        self.tally = Tally()
        self._place = place
        self._paths = place.paths()
        self._wire: Wire | None = None

    def visit(self) -> None:
        begun = time.monotonic()
        path = next(self._paths)
        if self._wire is not None and self._wire.ended():
            self.tally.troubles[Trouble.IDLE_CLOSED] += 1
            self.leave()
        try:
            if self._wire is None or not self._ask(self._wire, path):
                if self._wire is not None:
                    self.tally.troubles[Trouble.SENT_AGAIN] += 1
                    self.leave()
                self._wire = self._place.connect(self.tally)
                if not self._ask(self._wire, path):
                    raise FailedError(Trouble.RESET, path)
        except BaseException:  # also an interruption leaves no connection open
            self.leave()
            raise
        self.tally.answer(time.monotonic() - begun)

    def leave(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _ask(self, wire: Wire, path: str) -> bool:
        """Send one request; return False if the connection closed before any byte of an answer."""
        before = wire.received
        wire.send(f"GET {path} HTTP/1.1\r\nHost: {self._place.address}\r\n\r\n".encode())
        with http.client.HTTPResponse(wire, method="GET") as response:  # type: ignore[arg-type]
            try:
                response.begin()
                body = response.read()
            except http.client.HTTPException as error:
                if wire.received == before:
                    return False
                words = f"{path} {type(error).__name__}: {error}"
                raise FailedError(Trouble.CUT_OFF, words) from error
            closing = response.will_close
        _examine(path, response.status, body)
        if closing:
            self.tally.troubles[Trouble.ANNOUNCED] += 1
            self.leave()
        return True


class TcpVisitor:
    """Sends lines on plain TCP that come back; ends each session after so many `lines`."""

    def __init__(self, place: Place, *, lines: int = 20, kind: str = "TCP") -> None:
        self.kind = kind
        self.tally = Tally()
        self._place = place
        self._lines = lines
        self._wire: Wire | None = None
        self._sent = 0

    def visit(self) -> None:
        begun = time.monotonic()
        try:
            if self._wire is None:
                self._sent = 0
                self._wire = self._place.connect(self.tally)
                self._line(self._wire, Trouble.RESET)  # the backend says its name
            self._sent += 1
            line = f"line {self._sent}\n".encode()
            self._wire.send(line)
            came = self._line(self._wire, Trouble.CUT_OFF)
            if came != line:
                raise FailedError(Trouble.WRONG, f"{came!r} for {line!r}")
            if self._sent == self._lines:
                self.leave()
        except BaseException:  # also an interruption leaves no connection open
            if self._wire is not None:
                self._wire.close()
                self._wire = None
            raise
        self.tally.answer(time.monotonic() - begun)

    def leave(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            with contextlib.closing(wire):
                wire.finish_sending()
                rest = wire.receive()
                if rest or wire.was_reset:
                    raise FailedError(Trouble.CUT_OFF, f"at the end of a session: {rest!r}")

    def _line(self, wire: Wire, when_closed: Trouble) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            piece = wire.receive()
            if not piece:
                raise FailedError(when_closed, f"after {self._sent} lines and {line!r}")
            line += piece
        return line


@dataclass
class _Stream:
    path: str
    status: int = 0
    body: bytearray = field(default_factory=bytearray)


class Http2Visitor:
    """Sends HTTP/2 requests over TLS, `streams` at once."""

    def __init__(self, place: Place, *, streams: int = 4, kind: str = "HTTP/2 over TLS") -> None:
        if place.tls is None or place.tls.alpn != ("h2",):
            raise ValueError("HTTP/2 over TLS wants ALPN h2")
        self.kind = kind
        self.tally = Tally()
        self._place = place
        self._paths = place.paths()
        self._streams = streams
        self._connection: _Http2Connection | None = None

    def visit(self) -> None:
        begun = time.monotonic()
        if self._connection is not None and not self._connection.look():
            self.leave()
        paths = list(itertools.islice(self._paths, self._streams))
        while paths:
            kept = self._connection is not None
            if self._connection is None:
                try:
                    wire = self._place.connect(self.tally)
                except FailedError as error:
                    for _ in paths:
                        self.tally.fail(error)
                    return
                self._connection = _Http2Connection(wire, self._place.address, self.tally)
            paths = self._connection.ask(paths, kept=kept, begun=begun)
            if self._connection.over:
                self.leave()

    def leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Http2Connection:
    """`over`: no more requests may be sent on it."""

    def __init__(self, wire: Wire, authority: str, tally: Tally) -> None:
        self._wire = wire
        self._authority = authority
        self._tally = tally
        self._unread = b""
        self._http = h2.connection.H2Connection(h2.config.H2Configuration())
        self._http.initiate_connection()
        self._open: dict[int, _Stream] = {}
        self._again: list[str] = []
        self._begun = 0.0
        self.over = False
        self._promised = -1
        """The last stream that a server which goes away promises to answer."""

    def look(self) -> bool:
        """Take what has come since; whether the connection may be used further."""
        while (data := self._wire.waiting()) is not None:
            if not data:
                if not self.over:
                    self._tally.troubles[Trouble.IDLE_CLOSED] += 1
                return False
            self._take(data)
        return not self.over

    def ask(self, paths: list[str], *, kept: bool, begun: float) -> list[str]:
        """Get these; answers those that are to be asked for again on another connection."""
        self._again, self._begun = [], begun
        for path in paths:
            stream_id = self._http.get_next_available_stream_id()
            head = [(":method", "GET"), (":scheme", "https"), (":path", path)]
            self._http.send_headers(
                stream_id, [*head, (":authority", self._authority)], end_stream=True
            )
            self._open[stream_id] = _Stream(path)
        self._wire.send(self._http.data_to_send())
        try:
            while self._open:
                data = self._wire.receive()
                if not data:
                    self._ended(kept)
                    break
                self._take(data)
        except FailedError as error:  # too late for all of them
            self.over = True
            for _ in self._open:
                self._tally.fail(error)
            self._open.clear()
        return self._again

    def close(self) -> None:
        if not self.over:
            self._http.close_connection()
            self._wire.send(self._http.data_to_send())
        self._wire.close()

    def _take(self, data: bytes) -> None:
        self._unread += data
        while len(self._unread) >= 9:
            size = 9 + int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < size:
                break
            frame, self._unread = self._unread[:size], self._unread[size:]
            # The library takes nothing more after a GOAWAY, but answers may still be on their way.
            if frame[3] == _GOAWAY:
                self._go_away(int.from_bytes(frame[9:13], "big") & 0x7FFFFFFF)
            else:
                for event in self._http.receive_data(frame):
                    self._happened(event)
        self._wire.send(self._http.data_to_send())

    def _happened(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=int(number), headers=headers):
                self._open[number].status = int(dict(headers or ())[b":status"])
            case h2.events.DataReceived(stream_id=int(number), data=data):
                self._open[number].body += data or b""
                self._http.acknowledge_received_data(event.flow_controlled_length or 0, number)
            case h2.events.StreamEnded(stream_id=int(number)):
                self._answered(self._open.pop(number))
            case h2.events.StreamReset(stream_id=int(number)) if number in self._open:
                stream = self._open.pop(number)
                if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
                    self._unprocessed(stream)
                else:
                    words = f"{stream.path} reset, error {event.error_code}"
                    self._tally.fail(FailedError(Trouble.CUT_OFF, words))

    def _answered(self, stream: _Stream) -> None:
        try:
            _examine(stream.path, stream.status, bytes(stream.body))
        except FailedError as error:
            self._tally.fail(error)
        else:
            self._tally.answer(time.monotonic() - self._begun)

    def _go_away(self, last: int) -> None:
        if not self.over:
            self._tally.troubles[Trouble.GOAWAY] += 1
        self.over = True
        self._promised = last
        for number in [number for number in self._open if number > last]:
            self._unprocessed(self._open.pop(number))

    def _unprocessed(self, stream: _Stream) -> None:
        self._tally.troubles[Trouble.UNPROCESSED] += 1
        self._again.append(stream.path)

    def _ended(self, kept: bool) -> None:
        self.over = True
        for number, stream in self._open.items():
            if stream.status or number <= self._promised:
                words = f"{stream.path} after status {stream.status}, {len(stream.body)} bytes"
                self._tally.fail(FailedError(Trouble.CUT_OFF, words))
            elif kept:
                self._tally.troubles[Trouble.SENT_AGAIN] += 1
                self._again.append(stream.path)
            else:
                self._tally.fail(FailedError(Trouble.RESET, stream.path))
        self._open.clear()


def _examine(path: str, status: int, body: bytes) -> None:
    """Raises FailedError unless this is a backend's answer to a GET of this path."""
    if status >= 500:
        raise FailedError(Trouble.SERVER_ERROR, f"{path} {status} {body[:200]!r}")
    if status != 200 or not (_is_stream if path.startswith("/stream") else _tells(path))(body):
        raise FailedError(Trouble.WRONG, f"{path} {status} {body[:200]!r}")


def _is_stream(body: bytes) -> bool:
    """Whether all pieces came in order, from one backend."""
    words = [line.split() for line in body.decode(errors="replace").splitlines()]
    name = words[0][0] if words and words[0] else ""
    return words == [[name, str(number)] for number in range(_STREAM_PIECES)]


def _tells(path: str) -> Callable[[bytes], bool]:
    def of(body: bytes) -> bool:
        try:
            return bool(json.loads(body)["path"] == path)
        except (ValueError, KeyError, TypeError):
            return False

    return of
