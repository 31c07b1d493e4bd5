"""The channel between the worker that receives and the one that has the routes."""

import contextlib
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec
import pytest

from amphora_agent.agent.reconfiguration import Peer
from amphora_agent.api.server import channel
from amphora_agent.api.server.bodies import Body, Room
from amphora_agent.api.server.channel import Channel, ChannelServer, OpenFile, Refresh
from amphora_agent.api.server.requests import Answer, InvalidMessage, Refused, Request
from amphora_agent.api.server.tls import WorkerSettings
from amphora_agent.errors import Unavailable
from amphora_agent.model.events import Caller

REQUEST = Request(
    "PUT", "/1.0/x", "", (("HOST", "a"),), Caller("c"), Peer("TLSv1.3", (b"der",)), ("::1", 9443)
)
SETTINGS = WorkerSettings(1, b"", b"", False, 60, False)


class Services:
    """What has the routes: each answer is the body of its request, unless `answer` is replaced."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.seen: list[Request] = []
        self.answer: Callable[[Request, Any], tuple[Answer, bytes] | Refused] = self.echo

    def echo(self, request: Request, body: Any) -> tuple[Answer, bytes]:
        self.seen.append(request)
        return Answer("200 OK", (), 1), body.read()

    def worker_settings(self) -> WorkerSettings:
        return SETTINGS

    def note_failed_handshake(self, reason: str) -> None:
        self.failed.append(reason)

    def open_file(self) -> BinaryIO:
        return tempfile.TemporaryFile(buffering=0)


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
def listener(services: Services) -> Iterator[socket.socket]:
    """Where the services are reached."""
    with channel.listen() as listening:
        room = Room(services.open_file)
        server = ChannelServer(services, os.geteuid(), room)  # type: ignore[arg-type]  # a double

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept(listening)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.fixture
def front(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    monkeypatch.setattr(channel, "make_context_of", lambda settings: object())
    made = Channel(listener.getsockname(), lambda: True)
    made.refresh()
    yield made
    made.close()


def received(data: bytes) -> Body:
    body = Body(Room(tempfile.TemporaryFile), len(data), 1 << 20)
    body.feed(data)
    return body


@pytest.fixture
def raw(listener: socket.socket) -> Iterator[socket.socket]:
    """A connection of a worker that somebody else has taken over."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(listener.getsockname())
        assert sock.recv(1) == b"\x01"
        yield sock


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_request_is_answered_with_its_body(front: Channel, services: Services) -> None:
    content = b"x" * 500_000
    assert front.answer(REQUEST, received(content)) == (Answer("200 OK", (), 1), content)
    assert services.seen == [REQUEST]


def test_a_body_on_disk_goes_as_a_file(front: Channel) -> None:
    body = received(b"")
    body.file = front.open_file()
    body.file.write(b"on disk")
    assert front.answer(REQUEST, body) == (Answer("200 OK", (), 1), b"on disk")
    body.close()


@pytest.mark.parametrize(
    ("problem", "error"), [(OSError("cut"), OSError), (Unavailable("a", "b"), Unavailable)]
)
def test_the_problem_of_a_body_is_found_when_it_is_read(
    front: Channel, services: Services, problem: Exception, error: type[Exception]
) -> None:
    raised: list[BaseException] = []

    def answer(request: Request, body: Any) -> Refused:
        with pytest.raises(error) as found:
            body.read()
        raised.append(found.value)
        return Refused()

    services.answer = answer
    body = received(b"")
    body.problem = problem
    assert front.answer(REQUEST, body) == Refused()
    assert str(raised[0]) in ("cut", "The agent has no room for this request: b")


def test_failed_handshakes_are_told_with_the_next_refresh(
    front: Channel, services: Services
) -> None:
    for _ in range(3):
        front.note_failed_handshake("NO_CERT")
    front.refresh()
    front.refresh()
    assert services.failed == ["NO_CERT"] * 3


def test_whoever_has_no_services_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_GREETING_TIMEOUT", 0.05)
    with channel.listen() as nobody:  # connections wait for the next one, but not for ever
        alone = Channel(nobody.getsockname(), lambda: True)
        with pytest.raises(Unavailable, match="do not answer"):
            alone.answer(REQUEST, received(b""))


def test_services_that_end_during_a_request_are_not_asked_again(
    front: Channel, services: Services
) -> None:
    asked = []

    def end(request: Request, body: Any) -> Refused:
        asked.append(request)
        raise OSError("as if the process had ended")

    services.answer = end
    with pytest.raises(Unavailable, match="has ended during the request"):
        front.answer(REQUEST, received(b""))
    assert len(asked) == 1
    services.answer = services.echo
    assert front.answer(REQUEST, received(b"again")) == (Answer("200 OK", (), 1), b"again")


def test_another_user_is_not_served(services: Services) -> None:
    with channel.listen() as listening, socket.socket(socket.AF_UNIX) as sock:
        server = ChannelServer(services, os.geteuid() + 1, Room(services.open_file))  # type: ignore[arg-type]
        sock.settimeout(10)
        sock.connect(listening.getsockname())
        server.accept(listening)
        assert is_closed(sock)


LENGTHS = struct.Struct("=II")
PUT = msgspec.msgpack.encode(REQUEST)


@pytest.mark.parametrize(
    "data",
    [
        LENGTHS.pack((512 << 10) + 1, 0),
        LENGTHS.pack(len(PUT), (1 << 20) + (64 << 10) + 1) + PUT,
        LENGTHS.pack(3, 0) + b"abc",
        LENGTHS.pack(len(b"\x81\xa4type\xa1x"), 0) + b"\x81\xa4type\xa1x",
        LENGTHS.pack(len(PUT[:-3]), 0) + PUT[:-3],
    ],
    ids=["long head", "long body", "no struct", "unknown type", "cut struct"],
)
def test_what_is_no_message_ends_the_connection(
    raw: socket.socket, services: Services, data: bytes
) -> None:
    raw.sendall(data)
    assert is_closed(raw)
    assert services.seen == []


def test_a_request_that_is_cut_off_is_not_carried_out(
    raw: socket.socket, services: Services, front: Channel
) -> None:
    raw.sendall(LENGTHS.pack(len(PUT), 10) + PUT + b"only 9 b."[:9])
    raw.shutdown(socket.SHUT_WR)
    assert is_closed(raw)
    front.answer(REQUEST, received(b"the next one"))
    assert len(services.seen) == 1


@pytest.mark.parametrize("path", ["/dev/zero", __file__])
def test_no_other_file_than_one_that_was_opened_for_it_is_read(
    raw: socket.socket, services: Services, path: str
) -> None:
    with open(path, "rb") as file:
        channel.send(raw, REQUEST, descriptor=file.fileno())
        assert is_closed(raw)
    assert services.seen == []


def test_a_file_is_given_without_a_name(raw: socket.socket) -> None:
    channel.send(raw, OpenFile())
    _, _, descriptor = channel.receive(raw, channel._replies, lambda message, size: None)
    assert descriptor is not None
    with os.fdopen(descriptor, "r+b") as file:
        assert os.fstat(file.fileno()).st_nlink == 0


def test_settings_are_given(raw: socket.socket) -> None:
    channel.send(raw, Refresh({}))
    reply, body, _ = channel.receive(raw, channel._replies, lambda message, size: None)
    assert (reply, body) == (SETTINGS, b"")


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET /"},
        {"method": ""},
        {"path": "/1.0\r\nX: y"},
        {"query": "a\x00"},
        {"headers": (("A B", "c"),)},
        {"headers": (("A", "b\nc"),)},
    ],
)
def test_a_request_has_only_what_http_has(change: dict[str, Any]) -> None:
    REQUEST.require_valid()
    with pytest.raises(InvalidMessage):
        msgspec.structs.replace(REQUEST, **change).require_valid()
