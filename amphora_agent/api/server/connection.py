"""One TLS connection to the API, from its first packet to its last.

Everything that waits for the other side (the handshake, the header, the body, the taking of the
answer, the pause between requests) happens on a socket that does not block, under a deadline, and
costs no thread.
"""

import enum
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from amphora_agent.agent.reconfiguration import Peer
from amphora_agent.api.http import limit_body
from amphora_agent.api.server.answers import AnswerPart
from amphora_agent.api.server.bodies import Body, Room
from amphora_agent.model.events import Caller

#: Bytes of a whole header. gunicorn's own limits on lines and fields apply within.
LARGEST_HEADER = 64 * 1024

#: Seconds for the TLS handshake, for a whole header from its first byte or from the handshake,
#: and for the next request on a kept connection.
HANDSHAKE_TIMEOUT, HEADER_TIMEOUT, IDLE_TIMEOUT = 10.0, 10.0, 75.0

#: Seconds in which the next byte of a body must come, or a part of an answer must be received.
STALL_TIMEOUT = 30.0

#: Seconds and bytes that an answered client may still send before the connection is closed.
_DISCARD_SECONDS, _DISCARD_BYTES = 10.0, 1 << 30

_HEADER_END = b"\r\n\r\n"

#: The longest TLS record. No read returns more, and a larger buffer costs more than the reading.
_RECORD = 16 * 1024

#: Bytes that one connection receives or sends before others have their turn.
_TURN = 256 * 1024


class Phase(enum.Enum):
    HANDSHAKE = enum.auto()
    HEADER = enum.auto()
    BODY = enum.auto()
    REQUEST = enum.auto()
    ANSWER = enum.auto()
    DISCARD = enum.auto()


class Need(enum.Enum):
    """What a connection waits for."""

    READ = selectors.EVENT_READ
    WRITE = selectors.EVENT_WRITE
    #: Its next turn: it can go on at once.
    TURN = enum.auto()
    #: A thread that writes received bytes to the disk.
    DISK = enum.auto()
    #: A thread that answers the complete request.
    ANSWER = enum.auto()
    #: Its end.
    CLOSE = enum.auto()


class HeaderTooLarge(Exception):
    """More than LARGEST_HEADER bytes, and no end of the header."""


class Connection:
    """A connection and what has been read from it.

    It belongs to the poller, except in REQUEST, when it belongs to one thread or waits for one. At
    `deadline` it is closed. `patience` returns the seconds for a whole body, and for a whole
    answer.
    """

    def __init__(
        self,
        accepted: socket.socket,
        context: ssl.SSLContext,
        client: Any,
        server: Any,
        cfg: Any,
        room: Room,
        patience: Callable[[], float],
    ) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = context.wrap_socket(
            accepted, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        self.client = client
        self.server = server
        self._cfg = cfg
        self._room = room
        self._patience = patience
        self.phase = Phase.HANDSHAKE
        self.deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        #: The time until which the next byte must be received or sent.
        self.stalled_at = float("inf")
        #: Whether a thread has it, and writes its body to the disk.
        self.is_lent = False
        self.received = b""
        self.request: Any = None
        self.body = Body(room, 0, 0)
        self._parts: deque[AnswerPart] = deque()
        self._interim = b""
        self._kept = False
        self._discarded = 0
        self._caller: Caller | None = None
        self._peer: Peer | None = None

    # In the poller

    def advance(self) -> Need:
        """Go on as far as possible without waiting, for one turn at most.

        Raises:
            OSError: the connection is over (ssl.SSLError: the handshake failed).
            HeaderTooLarge, ParseException: the request is not valid.
        """
        try:
            while True:
                match self.phase:
                    case Phase.HANDSHAKE:
                        self.sock.do_handshake()
                        # Now: a connection that is over has lost them.
                        self.caller()
                        self.peer()
                        self._enter(Phase.HEADER, HEADER_TIMEOUT)
                    case Phase.HEADER:
                        self._receive_header()
                        self._begin_body()
                    case Phase.BODY:
                        return self._receive_body()
                    case Phase.ANSWER:
                        if (need := self._send()) is not None:
                            return need
                    case Phase.DISCARD:
                        return self._discard()
                    case Phase.REQUEST:
                        return Need.ANSWER
        except ssl.SSLWantReadError:
            return Need.READ
        except ssl.SSLWantWriteError:
            return Need.WRITE

    def give_up(self) -> bool:
        """Handle that the deadline has passed. Return whether a request must be refused for it;
        otherwise the connection must be closed."""
        if self.phase is not Phase.BODY:
            return False
        self.body.fail("nothing came in time")
        self.phase = Phase.REQUEST
        return True

    def is_overdue(self, now: float) -> bool:
        is_ours = self.phase is not Phase.REQUEST and not self.is_lent
        return is_ours and min(self.deadline, self.stalled_at) < now

    def answer(self, parts: deque[AnswerPart], *, keep: bool) -> None:
        """Send an answer, and then keep the connection for a next request, or close it."""
        self._parts = parts
        self._kept = keep and not self.body.cut
        self.body.close()
        self._enter(Phase.ANSWER, self._patience())
        self._note_progress()

    def close(self) -> None:
        self.sock.close()
        self.body.close()
        while self._parts:
            self._parts.popleft().close()

    def _enter(self, phase: Phase, seconds: float) -> None:
        self.phase = phase
        self.deadline = time.monotonic() + seconds
        self.stalled_at = float("inf")

    def _note_progress(self) -> None:
        self.stalled_at = time.monotonic() + STALL_TIMEOUT

    def _receive_header(self) -> None:
        while _HEADER_END not in self.received:
            if len(self.received) > LARGEST_HEADER:
                raise HeaderTooLarge
            piece = self.sock.recv(_RECORD)
            if not piece:
                raise ConnectionResetError("closed by the client")
            if not self.received:
                self.deadline = min(self.deadline, time.monotonic() + HEADER_TIMEOUT)
            self.received += piece

    def _begin_body(self) -> None:
        """Read the header. Raises ParseException."""
        head, end, self.received = self.received.partition(_HEADER_END)
        self.request = Request(self._cfg, IterUnreader([head + end]), self.client)
        length = _read_length(self.request)
        self.body = Body(self._room, length, limit_body(self.request.path))
        # gunicorn would write this to what it takes for the socket.
        expected, self.request._expected_100_continue = self.request._expected_100_continue, False
        if expected and not self.body.complete:
            self._interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        self._enter(Phase.BODY, self._patience())
        self._note_progress()

    def _receive_body(self) -> Need:
        taken = 0
        try:
            if self._interim:
                self.sock.send(self._interim)  # it is small, and nothing else is being sent
                self._interim = b""
            while not self.body.complete:
                if self.body.must_wait:
                    return Need.DISK
                if not self.received:
                    if taken >= _TURN:
                        return Need.TURN
                    self.received = self.sock.recv(_RECORD)
                    taken += len(self.received)
                    self._note_progress()
                    if not self.received:
                        self.body.fail("the connection was closed")
                        break
                self.received = self.body.feed(self.received)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:  # reading the body raises it
            self.body.fail(str(error))
        if self.body.must_wait:
            return Need.DISK
        self.phase = Phase.REQUEST
        return Need.ANSWER

    def _send(self) -> Need | None:
        """Send the parts; return None when all are sent and the connection goes on."""
        sent = 0
        while self._parts:
            block = self._parts[0].peek()
            if not block:
                self._parts.popleft().close()
                continue
            if sent >= _TURN:
                return Need.TURN
            count = self.sock.send(block)
            self._parts[0].skip(count)
            sent += count
            self._note_progress()
        if self._kept:
            self._enter(Phase.HEADER, IDLE_TIMEOUT)
        elif self.body.cut:
            self._enter(Phase.DISCARD, _DISCARD_SECONDS)
        else:
            return Need.CLOSE
        return None

    def _discard(self) -> Need:
        """Drop what the client still sends, so that it can read the answer: closing with unread
        input would reset the connection."""
        self.received = b""
        taken = 0
        while taken < _TURN:
            piece = self.sock.recv(_RECORD)
            taken += len(piece)
            self._discarded += len(piece)
            if not piece or self._discarded > _DISCARD_BYTES:
                return Need.CLOSE
        return Need.TURN

    # In a thread

    def caller(self) -> Caller:
        """Return the client, by its certificate and its address."""
        if self._caller is None:
            certificate = self.sock.getpeercert() or {}
            subject: Any = certificate.get("subject", ())
            names = [value for rdn in subject for kind, value in rdn if kind == "commonName"]
            serial, address = str(certificate.get("serialNumber", "")), str(self.client[0])
            address = address.removeprefix("::ffff:")
            self._caller = Caller(names[0] if names else "-", serial, address)
        return self._caller

    def peer(self) -> Peer:
        """Return the client's end, as the handshake has shown it."""
        if self._peer is None:
            self._peer = Peer(
                version=self.sock.version() or "",
                chain=_verified_chain(self.sock),
                reached=str(self.server[0]).partition("%")[0],
            )
        return self._peer


def _verified_chain(sock: ssl.SSLSocket) -> tuple[bytes, ...]:
    """Return the certificates (DER) that verified the client, its own first."""
    if hasattr(sock, "get_verified_chain"):
        chain = tuple(sock.get_verified_chain())
    else:
        # Python 3.13 has given this a public name; it is there since 3.10.
        verified = sock._sslobj.get_verified_chain()  # type: ignore[attr-defined]
        chain = tuple(ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in verified or ())
    # A resumed session has the client's own certificate alone.
    own = sock.getpeercert(binary_form=True)
    return chain or ((own,) if own else ())


def _read_length(request: Any) -> int | None:
    """Return the length of a request's body; None if it comes in chunks."""
    headers = dict(request.headers)
    if "TRANSFER-ENCODING" in headers:
        return None  # gunicorn has refused all others than chunked
    # gunicorn has checked that this is one number.
    return int(headers.get("CONTENT-LENGTH", 0))
