"""What happens to requests is told apart, in every protocol, and nothing is called undisturbed that
was disturbed."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from lab.backend import Backend
from lab.http import Tls
from lab.load import Tally, Traffic, Trouble, Visitor, attempt
from lab.network import Lab, Namespace
from lab.pki import Authority, Credentials
from lab.traffic_clients import Http2Visitor, HttpVisitor, Place, TcpVisitor

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

ADDRESS, PORT = "127.0.0.1", 80
#: A resource that two requests can be for, unlike those of other paths.
STREAM = "/stream?seconds=0"
BODY = b"".join(b"web %d\n" % number for number in range(20))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(BODY)
GOOD = HEAD + b"\r\n" + BODY

Script = Callable[[socket.socket], None]


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Lab(f"load-{os.getpid()}") as lab:
        yield lab.namespace("web")


@pytest.fixture
def place(namespace: Namespace) -> Place:
    return Place(namespace, ADDRESS, PORT, path=STREAM, timeout=0.5)


class Server:
    """Does with each connection what the next of the scripts says, and refuses further ones.

    `closed` can be acquired once for each connection that it has closed.
    """

    def __init__(
        self, namespace: Namespace, scripts: Sequence[Script], tls: ssl.SSLContext | None = None
    ) -> None:
        self.closed = threading.Semaphore(0)
        self._listener = namespace.make_socket(ADDRESS)
        self._listener.bind((ADDRESS, PORT))
        if scripts:
            self._listener.listen()
        self._scripts = scripts
        self._tls = tls
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        for number, script in enumerate(self._scripts, 1):
            connection, _ = self._listener.accept()
            if number == len(self._scripts):
                self._listener.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                script(connection)
            connection.close()
            self.closed.release()


def answer(*answers: bytes) -> Script:
    """To each request one of these, then close."""

    def script(connection: socket.socket) -> None:
        for each in answers:
            connection.recv(4096)
            connection.sendall(each)

    return script


def reset(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def wait_for_the_end(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def visit(visitor: Visitor, times: int = 1) -> Tally:
    for _ in range(times):
        attempt(visitor, visitor.visit)
    return visitor.tally


def visit_and_leave(visitor: Visitor, times: int = 1) -> Tally:
    visit(visitor, times)
    attempt(visitor, visitor.leave)
    return visitor.tally


# HTTP/1.1


def test_answers_on_one_connection_are_no_trouble(namespace: Namespace) -> None:
    with Backend(namespace, "web1", [f"{ADDRESS}:{PORT}"]) as backend:
        tally = visit_and_leave(HttpVisitor(Place(namespace, ADDRESS, PORT)), 20)
        assert (tally.answered, tally.connections, tally.failed) == (20, 1, 0)
        assert not tally.troubles
        assert backend.counts.requests == 20
        assert backend.counts.connections == 1


def test_a_long_answer_is_read_whole(namespace: Namespace) -> None:
    with Backend(namespace, "web1", [f"{ADDRESS}:{PORT}"]):
        tally = visit_and_leave(
            HttpVisitor(Place(namespace, ADDRESS, PORT, path="/stream?seconds=0.1")), 3
        )
    assert (tally.answered, tally.connections) == (3, 1)
    assert not tally.troubles


@pytest.mark.parametrize(
    ("scripts", "visits", "answered", "troubles"),
    [
        ([answer(GOOD, GOOD)], 2, 2, []),
        ([answer(GOOD), answer(GOOD)], 2, 2, [Trouble.IDLE_CLOSED]),
        ([answer(HEAD + b"Connection: close\r\n\r\n" + BODY)], 1, 1, [Trouble.ANNOUNCED]),
        ([answer(GOOD, b""), answer(GOOD)], 2, 2, [Trouble.SENT_AGAIN]),
        ([answer(GOOD, b""), answer(b"")], 2, 1, [Trouble.SENT_AGAIN, Trouble.RESET]),
        ([answer(b"")], 1, 0, [Trouble.RESET]),
        ([reset], 1, 0, [Trouble.RESET]),
        ([], 1, 0, [Trouble.REFUSED]),
        ([answer(GOOD[:-3])], 1, 0, [Trouble.CUT_OFF]),
        ([answer(GOOD, GOOD[:-3])], 2, 1, [Trouble.CUT_OFF]),
        ([wait_for_the_end], 1, 0, [Trouble.LATE]),
        ([answer(GOOD.replace(b"200 OK", b"503 No"))], 1, 0, [Trouble.SERVER_ERROR]),
        ([answer(GOOD.replace(b"200 OK", b"404 No"))], 1, 0, [Trouble.WRONG]),
        ([answer(GOOD.replace(b"web 7", b"web 8"))], 1, 0, [Trouble.WRONG]),
        ([answer(GOOD.replace(b"web 7", b"wob 7"))], 1, 0, [Trouble.WRONG]),
    ],
    ids=[
        *("kept", "closed", "announced", "lost", "lost twice", "nothing", "reset", "refused"),
        *("cut off", "cut off later", "late", "error", "not found", "out of order", "mixed"),
    ],
)
def test_troubles_of_http(
    namespace: Namespace,
    place: Place,
    scripts: list[Script],
    visits: int,
    answered: int,
    troubles: list[Trouble],
) -> None:
    with Server(namespace, scripts) as server:
        visitor = HttpVisitor(place)
        for number in range(visits):
            if number and Trouble.IDLE_CLOSED in troubles:
                server.closed.acquire()
            tally = visit(visitor)
        visitor.leave()
    assert tally.answered == answered
    assert list(tally.troubles.elements()) == troubles
    assert tally.finished == visits


def test_an_answer_to_somebody_elses_request_is_wrong(namespace: Namespace) -> None:
    other = b'{"path": "/other"}'
    wrong = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(other) + other
    with Server(namespace, [answer(wrong)]):
        tally = visit_and_leave(HttpVisitor(Place(namespace, ADDRESS, PORT)), 1)
    assert list(tally.troubles) == [Trouble.WRONG]


# TCP


def test_sessions_that_end_in_order_are_no_trouble(namespace: Namespace) -> None:
    with Backend(namespace, "web1", [f"{ADDRESS}:{PORT}"], mode="tcp") as backend:
        tally = visit_and_leave(TcpVisitor(Place(namespace, ADDRESS, PORT), lines=5), 12)
        assert (tally.answered, tally.connections) == (12, 3)
        assert not tally.troubles
        assert backend.counts.connections == 3


@pytest.mark.parametrize(
    ("scripts", "answered", "troubles"),
    [
        ([], 0, [Trouble.REFUSED]),
        ([lambda connection: None], 0, [Trouble.RESET]),
        ([lambda connection: connection.sendall(b"web1\n")], 0, [Trouble.CUT_OFF]),
        ([lambda connection: _greet(connection, b"line 1\n")], 1, [Trouble.CUT_OFF]),
        ([lambda connection: _greet(connection, b"line 1\n", b"line 3\n")], 1, [Trouble.WRONG]),
        ([lambda connection: _greet(connection, b"line 1\n", b"line 2\n")], 2, []),
        ([wait_for_the_end], 0, [Trouble.LATE]),
    ],
    ids=["refused", "closed", "closed later", "closed much later", "wrong", "well", "late"],
)
def test_troubles_of_tcp(
    namespace: Namespace,
    place: Place,
    scripts: list[Script],
    answered: int,
    troubles: list[Trouble],
) -> None:
    with Server(namespace, scripts):
        visitor = TcpVisitor(place, lines=2)
        tally = visit(visitor)
        if not tally.failed:
            visit(visitor)
    assert tally.answered == answered
    assert list(tally.troubles.elements()) == troubles


def _greet(connection: socket.socket, *lines: bytes) -> None:
    connection.sendall(b"web1\n")
    answer(*lines)(connection)
    if lines[-1] == b"line 2\n":
        wait_for_the_end(connection)


# HTTP/2


class Http2:
    """The server's side of one HTTP/2 connection, for a script."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.http.initiate_connection()
        self.streams: list[int] = []
        self._acknowledged = False

    def await_streams(self, count: int) -> None:
        """And the settings' acknowledgement: what comes to a closed socket would reset it, and
        take away what the client has not read yet."""
        self.flush()
        while len(self.streams) < count or not self._acknowledged:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError
            for event in self.http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived) and event.stream_id:
                    self.streams.append(event.stream_id)
                self._acknowledged |= isinstance(event, h2.events.SettingsAcknowledged)
            self.flush()

    def answer(self, stream: int) -> None:
        self.http.send_headers(stream, [(":status", "200")])
        self.http.send_data(stream, BODY, end_stream=True)
        self.flush()

    def go_away(self, last: int) -> None:
        """Not by the library, which ends the connection with it."""
        payload = struct.pack("!II", last, 0)
        self._socket.sendall(struct.pack("!I", len(payload))[1:] + bytes([7, 0, 0, 0, 0, 0]))
        self._socket.sendall(payload)

    def flush(self) -> None:
        self._socket.sendall(self.http.data_to_send())


def well(count: int = 2) -> Script:
    """So many answers, on a connection that stays."""

    def script(connection: socket.socket) -> None:
        http = Http2(connection)
        for number in range(count):
            http.await_streams(number + 1)
            http.answer(http.streams[number])
        wait_for_the_end(connection)

    return script


def going_away(last: int) -> Script:
    """While two requests are there; those that it promises to answer it does."""

    def script(connection: socket.socket) -> None:
        http = Http2(connection)
        http.await_streams(2)
        http.go_away(last)
        for stream in http.streams:
            if stream <= last:
                http.answer(stream)
        wait_for_the_end(connection)

    return script


def going_away_at_leisure(connection: socket.socket) -> None:
    http = Http2(connection)
    http.await_streams(2)
    for stream in http.streams:
        http.answer(stream)
    http.go_away(http.streams[-1])


def breaking_a_promise(connection: socket.socket) -> None:
    http = Http2(connection)
    http.await_streams(2)
    http.go_away(_BOTH)


def cutting_off(connection: socket.socket) -> None:
    http = Http2(connection)
    http.await_streams(2)
    http.answer(http.streams[0])
    http.http.send_headers(http.streams[1], [(":status", "200")])
    http.http.send_data(http.streams[1], BODY[:10])
    http.flush()


def closing_without_a_word(connection: socket.socket) -> None:
    Http2(connection).await_streams(2)


def closing_on_the_next(connection: socket.socket) -> None:
    http = Http2(connection)
    http.await_streams(2)
    for stream in http.streams:
        http.answer(stream)
    http.await_streams(4)


def resetting(code: int) -> Script:
    """The second stream; a third is answered."""

    def script(connection: socket.socket) -> None:
        http = Http2(connection)
        http.await_streams(2)
        http.answer(http.streams[0])
        http.http.reset_stream(http.streams[1], code)
        http.await_streams(3)
        http.answer(http.streams[2])
        wait_for_the_end(connection)

    return script


def silent(connection: socket.socket) -> None:
    Http2(connection).await_streams(2)
    wait_for_the_end(connection)


@pytest.fixture(scope="module")
def site() -> tuple[Authority, Credentials]:
    authority = Authority.create("authority of the site", key="ec")
    return authority, authority.issue("site", dns=["site.example"], key="ec")


_REFUSED_STREAM, _INTERNAL_ERROR = 7, 2
_NONE, _FIRST, _BOTH = 0, 1, 0x7FFFFFFF


@pytest.mark.parametrize(
    ("scripts", "visits", "answered", "troubles"),
    [
        ([well(4)], 2, 4, []),
        ([going_away(_BOTH), well()], 2, 4, [Trouble.GOAWAY]),
        ([going_away(_FIRST), well(1)], 1, 2, [Trouble.GOAWAY, Trouble.UNPROCESSED]),
        ([going_away(_NONE), well()], 1, 2, [Trouble.GOAWAY, *[Trouble.UNPROCESSED] * 2]),
        ([going_away_at_leisure, well()], 2, 4, [Trouble.GOAWAY]),
        ([breaking_a_promise], 1, 0, [Trouble.GOAWAY, *[Trouble.CUT_OFF] * 2]),
        ([cutting_off], 1, 1, [Trouble.CUT_OFF]),
        ([closing_without_a_word], 1, 0, [Trouble.RESET] * 2),
        ([closing_on_the_next, well()], 2, 4, [Trouble.SENT_AGAIN] * 2),
        ([closing_on_the_next], 2, 2, [*[Trouble.SENT_AGAIN] * 2, *[Trouble.REFUSED] * 2]),
        ([resetting(_REFUSED_STREAM)], 1, 2, [Trouble.UNPROCESSED]),
        ([resetting(_INTERNAL_ERROR)], 1, 1, [Trouble.CUT_OFF]),
        ([silent], 1, 0, [Trouble.LATE] * 2),
        ([], 1, 0, [Trouble.REFUSED] * 2),
    ],
    ids=[
        *("well", "goes away", "promises one", "promises none", "goes away at leisure"),
        *("breaks a promise", "cuts off", "closes", "closes later", "closes and is gone"),
        *("refuses a stream", "resets a stream", "late", "refused"),
    ],
)
def test_troubles_of_http2(
    namespace: Namespace,
    site: tuple[Authority, Credentials],
    tmp_path: Path,
    scripts: list[Script],
    visits: int,
    answered: int,
    troubles: list[Trouble],
) -> None:
    authority, credentials = site
    pem = tmp_path / "site.pem"
    pem.write_bytes(credentials.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["h2"])
    tls = Tls("site.example", authority.certificate, alpn=("h2",))
    place = Place(namespace, ADDRESS, PORT, tls, path=STREAM, timeout=0.5)
    with Server(namespace, scripts, context) as server:
        visitor = Http2Visitor(place, streams=2)
        for number in range(visits):
            if number and going_away_at_leisure in scripts:
                server.closed.acquire()
            tally = visit(visitor)
        visitor.leave()
    assert tally.answered == answered
    assert list(tally.troubles.elements()) == troubles


# All at once


def test_traffic_sums_up_by_kind_and_keeps_within_its_bounds(namespace: Namespace) -> None:
    place = Place(namespace, ADDRESS, PORT)
    nowhere = Place(namespace, ADDRESS, PORT + 1)
    with Backend(namespace, "web1", [f"{ADDRESS}:{PORT}"]) as backend:
        visitors: list[Visitor] = [
            *(HttpVisitor(place), HttpVisitor(place)),
            TcpVisitor(nowhere),
        ]
        with Traffic(visitors, most_visits=30) as traffic:
            traffic.finish()
        assert backend.counts.requests == 60
    result = traffic.result
    assert result.exhausted
    assert result.kinds["HTTP/1.1"].answered == 60
    assert result.kinds["HTTP/1.1"].connections == 2
    assert result.kinds["TCP"].troubles == {Trouble.REFUSED: 30}
    assert result.failed == 30
    assert "30 connection refused" in str(result)


def test_traffic_that_is_stopped_in_time_is_not_exhausted(namespace: Namespace) -> None:
    with Backend(namespace, "web1", [f"{ADDRESS}:{PORT}"]):
        with Traffic([HttpVisitor(Place(namespace, ADDRESS, PORT))]) as traffic:
            traffic.wait_for(5)
        assert not traffic.result.exhausted
        assert traffic.result.total.answered >= 5
        assert traffic.result.failed == 0


class Odd:
    kind = "odd"

    def __init__(self) -> None:
        self.tally = Tally()

    def visit(self) -> None:
        raise LookupError("nobody thought of it")

    def leave(self) -> None:
        pass


def test_an_unexpected_exception_is_a_failure() -> None:
    with Traffic([Odd()], most_visits=2) as traffic:
        traffic.finish()
    assert traffic.result.total.troubles == {Trouble.BROKEN: 2}
    assert "nobody thought of it" in str(traffic.result)
