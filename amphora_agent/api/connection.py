"""One TLS connection to the API, from its first packet to its last.

Everything that waits for the other side without a request (the handshake, the header, the pause
between requests) happens on a socket that does not block, under a deadline, and costs no thread.
"""

import enum
import selectors
import socket
import ssl
import time
from typing import Any

from gunicorn import http

from amphora_agent.model.changes import Caller

#: Bytes of a header, whole. gunicorn's own limits on lines and fields apply within.
LARGEST_HEADER = 64 * 1024

#: Seconds for the TLS handshake, for a whole header from its first byte or from the handshake,
#: and for the next request on a connection that is kept.
HANDSHAKE_TIMEOUT, HEADER_TIMEOUT, IDLE_TIMEOUT = 10.0, 10.0, 75.0

#: Seconds in which a body must bring its next byte, and in which an answer must be taken.
STALL_TIMEOUT = 30.0

_HEADER_END = b"\r\n\r\n"

#: The longest TLS record. No read brings more, and room for more costs more than the reading.
_RECORD = 16 * 1024


class Phase(enum.Enum):
    HANDSHAKE = enum.auto()
    HEADER = enum.auto()
    REQUEST = enum.auto()


class HeaderTooLarge(Exception):
    """More than LARGEST_HEADER bytes, and no end of the header."""


class Connection:
    """A connection and what has been read of it.

    In HANDSHAKE and HEADER it belongs to the poller and `deadline` is when it is closed; in
    REQUEST it belongs to one thread.
    """

    def __init__(
        self, accepted: socket.socket, context: ssl.SSLContext, client: Any, server: Any, cfg: Any
    ) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = context.wrap_socket(
            accepted, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        self.client = client
        self.server = server
        self.phase = Phase.HANDSHAKE
        self.deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        self.received = b""
        #: When the body that is being read must be complete, by time.monotonic().
        self.body_deadline = float("inf")
        self.parser = http.get_parser(cfg, self, client)

    # In the poller

    def advance(self) -> int:
        """Go on as far as possible without waiting; return the selector events to wait for, or 0
        when a whole header has been received.

        Raises:
            OSError: the connection is over (ssl.SSLError: the handshake failed).
            HeaderTooLarge
        """
        try:
            if self.phase is Phase.HANDSHAKE:
                self.sock.do_handshake()
                self.phase = Phase.HEADER
                self.deadline = time.monotonic() + HEADER_TIMEOUT
            while not self.has_header():
                if len(self.received) > LARGEST_HEADER:
                    raise HeaderTooLarge
                piece = self.sock.recv(_RECORD)
                if not piece:
                    raise ConnectionResetError("closed by the client")
                if not self.received:
                    self.deadline = min(self.deadline, time.monotonic() + HEADER_TIMEOUT)
                self.received += piece
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        return 0

    def has_header(self) -> bool:
        return _HEADER_END in self.received

    def only_reads(self) -> bool:
        """Whether the request whose header has arrived asks without changing anything."""
        return self.received.lstrip(b"\r\n").startswith((b"GET ", b"HEAD "))

    def begin_request(self) -> None:
        """Hand over to a thread: reading and writing block from now on."""
        self.phase = Phase.REQUEST
        self.sock.settimeout(STALL_TIMEOUT)

    def end_request(self) -> None:
        """Back from the thread, to wait for the next request."""
        self.received = self.parser.unreader.take_buffered() + self.received
        self.sock.setblocking(False)
        self.phase = Phase.HEADER
        self.deadline = time.monotonic() + IDLE_TIMEOUT

    # In a thread

    def recv(self, size: int) -> bytes:
        """What the HTTP parser reads from: the bytes received so far, then the socket.

        Raises:
            TimeoutError: nothing came in time.
        """
        if self.received:
            piece, self.received = self.received[:size], self.received[size:]
            return piece
        left = self.body_deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self.sock.settimeout(min(STALL_TIMEOUT, left))
        piece = self.sock.recv(min(size, _RECORD))
        self.sock.settimeout(STALL_TIMEOUT)
        return piece

    def caller(self) -> Caller:
        """Who the client is, by its certificate."""
        certificate = self.sock.getpeercert() or {}
        subject: Any = certificate.get("subject", ())
        names = [value for rdn in subject for kind, value in rdn if kind == "commonName"]
        return Caller(names[0] if names else "-", str(certificate.get("serialNumber", "")))

    def discard_input(self, *, seconds: float, most: int) -> None:
        """Take and drop what the client still sends, so that it gets to read the answer: closing
        with unread input resets the connection under the answer."""
        self.received = b""
        self.body_deadline = time.monotonic() + seconds
        try:
            self.sock.settimeout(seconds)
            while most > 0 and (piece := self.recv(1 << 16)):
                most -= len(piece)
        except OSError:
            pass  # gone, or silent: either way there is nothing left to do for it

    def close(self) -> None:
        self.sock.close()
