"""Answer scrapes at 127.0.0.1:9102 in the amphora's namespace, where PROMETHEUS listeners send
them (WIRE §3).

Whoever reaches such a listener gets here: one thread serves a few connections at a time, none of
which can make another wait, and an answer is made while it is taken, never held whole.
"""

import contextlib
import logging
import selectors
import socket
import time
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, Protocol

from amphora_agent.errors import OperationFailed
from amphora_agent.metrics.translate.exposition import (
    CONTENT_TYPE,
    Scrape,
    ScrapeRefused,
    parse_scrape,
)
from amphora_agent.metrics.translate.octavia import COLUMNS, Machine, families
from amphora_agent.model.status import Figures, Scope
from amphora_agent.namespace import Namespace

logger = logging.getLogger(__name__)

#: Seconds for which figures are as good as new: whoever scrapes costs haproxy no more than that.
FRESH = 1.0

#: Seconds for all instances to answer. The controller's text gives a scrape five.
_PATIENCE = 2.0


class FiguresSource(Protocol):
    """Where figures come from."""

    def read_figures(
        self, scopes: Collection[Scope], columns: Collection[str], *, timeout: float
    ) -> list[Figures | None]:
        """Return those of each instance, with these columns at least; None if it is silent."""


class _Known(NamedTuple):
    until: float
    figures: list[Figures] | OperationFailed


class Collector:
    """Collects for one scrape at a time."""

    def __init__(
        self,
        source: FiguresSource,
        machine: Callable[[], Machine],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._machine = machine
        self._clock = clock
        self._known: dict[frozenset[Scope], _Known] = {}

    def collect(self, scopes: frozenset[Scope]) -> Iterator[str]:
        """Return the metrics of these scopes, family by family; haproxy has been asked by then.

        Raises:
            OperationFailed: there are instances, and none answers.
        """
        figures = self._figures(scopes)
        if isinstance(figures, OperationFailed):
            raise figures
        return families(self._machine(), figures, scopes)

    def forget(self) -> None:
        """Drop what is too old to be used again: it may be large."""
        now = self._clock()
        self._known = {scopes: known for scopes, known in self._known.items() if now < known.until}

    def _figures(self, scopes: frozenset[Scope]) -> list[Figures] | OperationFailed:
        self.forget()
        for known_scopes, known in self._known.items():
            if scopes <= known_scopes:
                return known.figures
        asked = self._source.read_figures(scopes, COLUMNS, timeout=_PATIENCE)
        answered: list[Figures] | OperationFailed = [f for f in asked if f is not None]
        if asked and not answered:
            answered = OperationFailed("No load balancer answers")
        self._known[scopes] = _Known(self._clock() + FRESH, answered)
        return answered


#: Where the controller's configurations have it.
ADDRESS = ("127.0.0.1", 9102)

#: Connections at a time, of which the oldest is closed for one more; and those that wait for it.
_MOST_CONNECTIONS, _BACKLOG = 16, 128

#: Seconds for a connection, from its beginning to its end.
_CONNECTION_TIMEOUT = 30.0

#: Bytes of a request's header; of an answer that are made at least before more are sent.
_LARGEST_HEADER, _PIECE = 8 * 1024, 64 * 1024

#: Seconds between looks at the namespace and at connections that take too long, and after a
#: connection that could not be accepted.
_TICK, _PAUSE = 1.0, 0.05

_HEADER_END = b"\r\n\r\n"


class MetricsEndpoint:
    """Serves as long as the namespace is there; begins again when it is another one."""

    def __init__(self, collector: Collector, namespace: Namespace) -> None:
        self._collector = collector
        self._namespace = namespace
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._listens_in: int | None = None
        self._connections: dict[socket.socket, _Connection] = {}
        self._complaint = ""

    def run(self) -> None:
        """Serve until the process ends."""
        next_tick = 0.0
        while True:
            try:
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + _TICK
                    self._follow_namespace()
                    self._close_overdue()
                    self._collector.forget()
                for key, _ in self._selector.select(_TICK):
                    key.data()
            except Exception:  # the last resort of a thread that nobody would start again
                logger.exception("metrics were not served for a moment")
                time.sleep(_TICK)

    def _follow_namespace(self) -> None:
        """Listen in the namespace that has the name now."""
        present = _find_inode(self._namespace)
        if present == self._listens_in and (self._listener is not None or present is None):
            return
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        self._listens_in = present
        if present is None:
            return
        try:
            self._listener = self._namespace.run(_listen)
        except (OSError, OperationFailed) as error:
            if str(error) != self._complaint:  # it is tried again and again
                self._complaint = str(error)
                logger.warning("cannot serve metrics at %s:%d: %s", *ADDRESS, error)
            return
        self._complaint = ""
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            accepted, _ = self._listener.accept()
        except OSError:  # gone already; or out of descriptors, which it is for a while
            time.sleep(_PAUSE)
            return
        if len(self._connections) >= _MOST_CONNECTIONS:
            self._close(next(iter(self._connections.values())))
        accepted.setblocking(False)
        connection = _Connection(accepted, self._answer)
        self._connections[accepted] = connection
        self._selector.register(accepted, selectors.EVENT_READ, lambda: self._advance(connection))

    def _advance(self, connection: "_Connection") -> None:
        if connection.socket not in self._connections:
            return  # closed for another, after the selector told of it
        try:
            wanted = connection.advance()
        except OSError:  # gone
            wanted = 0
        except Exception:  # whatever a scrape meets, the next ones are answered
            logger.exception("a scrape was broken off")
            wanted = 0
        if not wanted:
            self._close(connection)
            return
        key = self._selector.get_key(connection.socket)
        if key.events != wanted:
            self._selector.modify(connection.socket, wanted, key.data)

    def _close(self, connection: "_Connection") -> None:
        self._selector.unregister(connection.socket)
        del self._connections[connection.socket]
        connection.socket.close()

    def _close_overdue(self) -> None:
        now = time.monotonic()
        for connection in [c for c in self._connections.values() if c.deadline < now]:
            self._close(connection)

    def _answer(self, header: bytes) -> Iterator[bytes]:
        try:
            request = parse_scrape(header)
            metrics = self._collector.collect(request.scopes)
        except ScrapeRefused as refusal:
            return _refuse(refusal.status, str(refusal))
        except OperationFailed as error:
            return _refuse("503 Service Unavailable", str(error))
        return _make_pieces(request, metrics)


class _Connection:
    """One request and its answer. `answer` makes the answer to a header."""

    def __init__(self, accepted: socket.socket, answer: Callable[[bytes], Iterator[bytes]]) -> None:
        self.socket = accepted
        self.deadline = time.monotonic() + _CONNECTION_TIMEOUT
        self._answer = answer
        self._received = b""
        self._pieces: Iterator[bytes] | None = None
        self._unsent = memoryview(b"")

    def advance(self) -> int:
        """Go on without waiting; return the selector events to wait for, or 0 at the end.

        Raises:
            OSError: the connection is over.
        """
        if self._pieces is None:
            piece = self.socket.recv(_LARGEST_HEADER)
            self._received += piece
            if len(self._received) >= _LARGEST_HEADER or not self._received:
                return 0
            if piece and _HEADER_END not in self._received:
                return selectors.EVENT_READ
            self._pieces = self._answer(self._received)
        if not self._unsent:
            self._unsent = memoryview(next(self._pieces, b""))
        if not self._unsent:
            return 0
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        return selectors.EVENT_WRITE


def _listen() -> socket.socket:
    listener = socket.create_server(ADDRESS, backlog=_BACKLOG)
    listener.setblocking(False)
    return listener


def _find_inode(namespace: Namespace) -> int | None:
    # A socket that listens keeps its namespace, and so another one has another number.
    try:
        return namespace.path.stat().st_ino
    except FileNotFoundError:
        return None


def _refuse(status: str, reason: str) -> Iterator[bytes]:
    yield _make_head(status) + f"{reason}\n".encode()


def _make_pieces(request: Scrape, metrics: Iterator[str]) -> Iterator[bytes]:
    yield _make_head("200 OK", chunked=request.chunked)
    if not request.body:
        return
    gathered: list[bytes] = []
    size = 0
    for family in metrics:
        gathered.append(family.encode())
        size += len(gathered[-1])
        if size >= _PIECE:
            yield _frame_piece(b"".join(gathered), request)
            gathered, size = [], 0
    if gathered:
        yield _frame_piece(b"".join(gathered), request)
    if request.chunked:
        yield b"0\r\n\r\n"


def _frame_piece(piece: bytes, request: Scrape) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece) if request.chunked else piece


def _make_head(status: str, *, chunked: bool = False) -> bytes:
    framing = "Transfer-Encoding: chunked\r\n" if chunked else ""
    return (
        f"HTTP/1.1 {status}\r\nConnection: close\r\nCache-Control: no-cache\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\n{framing}\r\n"
    ).encode()
