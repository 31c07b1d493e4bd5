"""Nobody waits for anybody: silent peers, slow ones, and changes that take long.

Nothing is measured here. What would be blocked is done while what would block it is there.
"""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.http import Tls
from lab.network import Lab
from lab.waiting import until
from tests.integration.amphora import (
    Amphora,
    LoadBalancer,
    differences,
    read_answer,
    request_bytes,
)

MANY = 100


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    """Closes whatever the test has opened."""
    with ExitStack() as stack:
        yield stack


def answers(amphora: Amphora) -> bool:
    """On a connection of its own, and for reading and for changing."""
    nobody = f"/1.0/listeners/{amphora.new_balancer().id}"
    return (
        amphora.request("GET", "/1.0/info").status == 200
        and amphora.request("DELETE", nobody).status == 200
    )


def silent_tcp(amphora: Amphora, ending: ExitStack) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", amphora.agent.port), 30)
    return ending.enter_context(raw)


def silent_tls(amphora: Amphora, ending: ExitStack) -> ssl.SSLSocket:
    return ending.enter_context(amphora.connect())


def silent_after_a_request(amphora: Amphora, ending: ExitStack) -> ssl.SSLSocket:
    connection = silent_tls(amphora, ending)
    connection.sendall(request_bytes("GET", "/"))
    assert read_answer(connection).status == 200
    return connection


def half_a_handshake(amphora: Amphora, ending: ExitStack) -> socket.socket:
    raw = silent_tcp(amphora, ending)
    raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    return raw


def half_a_header(amphora: Amphora, ending: ExitStack) -> ssl.SSLSocket:
    connection = silent_tls(amphora, ending)
    connection.sendall(b"GET /1.0/info HTTP/1.1\r\nHost: amp")
    return connection


SILENT: dict[str, Callable[[Amphora, ExitStack], Any]] = {
    "TCP and no more": silent_tcp,
    "half a handshake": half_a_handshake,
    "TLS and no more": silent_tls,
    "half a header": half_a_header,
    "idle after a request": silent_after_a_request,
}


@pytest.mark.parametrize("kind", SILENT)
def test_silent_connections_stop_nobody(amphora: Amphora, ending: ExitStack, kind: str) -> None:
    for _ in range(MANY):
        SILENT[kind](amphora, ending)
    assert answers(amphora)


def test_silent_connections_of_all_kinds_stop_nobody(amphora: Amphora, ending: ExitStack) -> None:
    connections = [
        (kind, SILENT[kind](amphora, ending)) for _ in range(MANY // 2) for kind in SILENT
    ]
    assert answers(amphora)
    # Those that begin to speak are served: nobody was thrown out for others.
    for kind, connection in connections[:5]:
        if kind == "half a header":
            connection.sendall(b"hora\r\n\r\n")
            assert read_answer(connection).status == 200
        if kind in ("TLS and no more", "idle after a request"):
            connection.sendall(request_bytes("GET", "/1.0/info"))
            assert read_answer(connection).status == 200


def test_more_connections_than_there_is_room_for_stop_nobody(
    amphora: Amphora, ending: ExitStack
) -> None:
    for _ in range(600):
        silent_tcp(amphora, ending)
    assert answers(amphora)


def test_a_header_that_comes_byte_by_byte_is_answered_and_stops_nobody(amphora: Amphora) -> None:
    with amphora.connect() as connection:
        request = request_bytes("GET", "/1.0/info")
        for number in range(len(request)):
            connection.sendall(request[number : number + 1])
            if number % 20 == 0:
                assert answers(amphora)
        assert read_answer(connection).status == 200


def test_a_body_that_comes_byte_by_byte_is_taken_and_stops_nobody(amphora: Amphora) -> None:
    body = amphora.agent.pki.client_authority.certificate
    target = f"/1.0/loadbalancer/{amphora.new_balancer().id}/certificates/x.pem"
    request = request_bytes("PUT", target, body)
    with amphora.connect() as connection:
        connection.sendall(request[: -len(body)])
        for number in range(len(body)):
            connection.sendall(body[number : number + 1])
            if number % 100 == 0:
                assert answers(amphora)
        assert read_answer(connection).status == 200
    amphora.api.delete(target.split("/")[3])


def test_as_many_waiting_uploads_as_a_controller_may_have_stop_no_reader(
    amphora: Amphora, ending: ExitStack
) -> None:
    for _ in range(MANY // 2):
        connection = silent_tls(amphora, ending)
        connection.sendall(
            request_bytes("PUT", "/1.0/config", headers={"Content-Length": "1000"}) + b"half"
        )
    assert amphora.request("GET", "/1.0/info").status == 200
    assert amphora.request("GET", "/1.0/details").status == 200


def test_a_client_that_does_not_read_its_answer_stops_nobody(
    amphora: Amphora, balancer: LoadBalancer, ending: ExitStack
) -> None:
    text = balancer.text() + "# a long comment\n" * 500_000
    amphora.api.upload_haproxy(balancer.id, text)
    for _ in range(3):
        connection = silent_tls(amphora, ending)
        connection.sendall(request_bytes("GET", f"/1.0/loadbalancer/{balancer.id}/haproxy"))
    assert answers(amphora)


@pytest.fixture
def impatient(boot: Callable[..., Amphora]) -> Iterator[Amphora]:
    """An agent that gives a body one second."""
    with ExitStack() as ending:
        yield boot(ending, settings={"amphora_agent": {"agent_request_read_timeout": "1"}})


def test_a_body_that_never_comes_is_refused_in_time(impatient: Amphora) -> None:
    before = impatient.files()
    with impatient.connect() as connection:
        connection.sendall(
            request_bytes("PUT", "/1.0/config", headers={"Content-Length": "1000"}) + b"half"
        )
        answer = read_answer(connection)
    assert answer.status == 400
    assert "was cut off" in answer.json()["details"]
    assert differences(before, impatient.files()) == set()


def sockets(amphora: Amphora) -> int:
    """Of the process that serves the API."""
    found = 0
    for link in Path(f"/proc/{amphora.agents()['api'].pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(link.readlink()).startswith("socket:")
    return found


def take_nothing(amphora: Amphora, ending: ExitStack, balancer: LoadBalancer) -> ssl.SSLSocket:
    """Ask for more than the kernel takes of an answer."""
    amphora.api.upload_haproxy(balancer.id, balancer.text() + "# a long comment\n" * 600_000)
    amphora.api.close()  # the connection that it keeps would end as well
    connection = silent_tls(amphora, ending)
    connection.sendall(request_bytes("GET", f"/1.0/loadbalancer/{balancer.id}/haproxy"))
    assert select.select([connection], [], [], 30)[0], "the answer has begun"
    return connection


def take_rest(connection: ssl.SSLSocket) -> bytes:
    taken = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(65536):
            taken += piece
    return taken


def test_e7_an_answer_that_is_not_taken_in_time_is_cut_off(
    impatient: Amphora, ending: ExitStack
) -> None:
    balancer = impatient.new_balancer()
    connection = take_nothing(impatient, ending, balancer)
    with_it = sockets(impatient)
    until(lambda: sockets(impatient) < with_it, "it is closed")
    assert len(take_rest(connection)) < len(balancer.configuration.read_bytes())
    impatient.api.delete(balancer.id)


def test_e7_who_takes_or_sends_nothing_for_half_a_minute_is_closed(
    own_amphora: Amphora, ending: ExitStack
) -> None:
    """By default: more than a request may take as a whole would be three minutes."""
    balancer = own_amphora.new_balancer()
    reader = take_nothing(own_amphora, ending, balancer)
    sender = silent_tls(own_amphora, ending)
    head = request_bytes("PUT", "/1.0/config", headers={"Content-Length": "1000"})
    sender.sendall(head + b"half")
    with_both = sockets(own_amphora)
    sender.settimeout(120)
    answer = read_answer(sender)
    assert (answer.status, "was cut off" in answer.json()["details"]) == (400, True)
    until(lambda: sockets(own_amphora) <= with_both - 2, "both are closed", timeout=60)
    assert len(take_rest(reader)) < len(balancer.configuration.read_bytes())
    own_amphora.api.delete(balancer.id)


# Changes that take long. A real haproxy is quick with the small configurations of a test, so a
# stand-in is put before it that waits first, for as long as the test wants, and then becomes it.
STAND_IN = """\
#!/bin/sh
held="{held}"
case "$*" in
    *"$(cat "$held" 2>/dev/null || echo nobody)"*)
        : > "$held.waiting"
        while [ -e "$held" ]; do sleep 0.02; done ;;
esac
exec /usr/sbin/haproxy "$@"
"""


class SlowHaproxy:
    """Holds up every haproxy whose command line has a certain word."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "haproxy"
        self._held = directory / "held"
        self._waiting = directory / "held.waiting"
        self.program.write_text(STAND_IN.format(held=self._held))
        self.program.chmod(0o755)

    @contextlib.contextmanager
    def held(self, word: str) -> Iterator[None]:
        self._waiting.unlink(missing_ok=True)
        self._held.write_text(word)
        try:
            yield
        finally:
            self._held.unlink()

    def await_one(self) -> None:
        until(self._waiting.exists, "a haproxy is held up")


@pytest.fixture(scope="module")
def slow_haproxy(lab: Lab) -> SlowHaproxy:
    return SlowHaproxy(lab.directory())


@pytest.fixture(scope="module")
def slow(boot: Callable[..., Amphora], slow_haproxy: SlowHaproxy) -> Iterator[Amphora]:
    with ExitStack() as ending:
        yield boot(ending, settings={"haproxy_amphora": {"haproxy_cmd": str(slow_haproxy.program)}})


class Later:
    """A request whose answer is asked for later."""

    def __init__(self, amphora: Amphora, method: str, target: str, body: bytes = b"") -> None:
        self.status: int | None = None
        self._thread = threading.Thread(
            target=lambda: setattr(self, "status", amphora.request(method, target, body).status)
        )
        self._thread.start()

    def wait(self) -> int | None:
        self._thread.join(30)
        return self.status


def test_a_start_that_takes_long_delays_neither_readers_nor_other_load_balancers(
    slow: Amphora, slow_haproxy: SlowHaproxy
) -> None:
    starting, other = slow.new_balancer(), slow.new_balancer()
    starting.upload()
    with slow_haproxy.held(f"{starting.id}.master"):
        reload = Later(slow, "PUT", f"/1.0/loadbalancer/{starting.id}/reload")
        slow_haproxy.await_one()
        assert slow.api.info()
        assert slow.api.details()["listeners"]
        statuses = {row["uuid"]: row["status"] for row in slow.api.listeners()}
        assert statuses[starting.listener.id] != "ACTIVE"
        assert slow.api.haproxy(starting.id)
        other.push()
        assert other.get() in ("web1", "web2")
        other.delete()
        slow.heartbeats.drain()
        # What has never run is not told, and keeps no heartbeat from being sent.
        assert starting.listener.id not in slow.heartbeats.next().listeners
        assert reload.status is None
    assert reload.wait() == 202
    assert starting.get() in ("web1", "web2")
    starting.delete()


def test_a_check_that_takes_long_delays_neither_readers_nor_other_load_balancers(
    slow: Amphora, slow_haproxy: SlowHaproxy
) -> None:
    checked, other = slow.new_balancer(), slow.new_balancer()
    target = f"/1.0/loadbalancer/{slow.agent.amphora_id}/{checked.id}/haproxy"
    with slow_haproxy.held(f"-c -f /dev/stdin -f {checked.directory}"):
        upload = Later(slow, "PUT", target, checked.text().encode())
        slow_haproxy.await_one()
        assert slow.api.info()
        assert slow.api.details()
        assert slow.request("GET", f"/1.0/loadbalancer/{checked.id}/haproxy").status == 404
        other.push()
        other.delete()
        assert upload.status is None
    assert upload.wait() == 202
    checked.delete()


def test_changes_of_one_load_balancer_follow_one_another(
    slow: Amphora, slow_haproxy: SlowHaproxy
) -> None:
    made = slow.new_balancer()
    made.push()
    target = f"/1.0/loadbalancer/{slow.agent.amphora_id}/{made.id}/haproxy"
    last = made.text()
    with slow_haproxy.held(f"-c -f /dev/stdin -f {made.directory}"):
        upload = Later(slow, "PUT", target, last.encode())
        slow_haproxy.await_one()
        reload = Later(slow, "PUT", f"/1.0/loadbalancer/{made.id}/reload")
        assert slow.api.info()
        assert (upload.status, reload.status) == (None, None)
    assert (upload.wait(), reload.wait()) == (202, 202)
    assert slow.api.haproxy(made.id).decode() == last
    assert made.workers().reloads == 1
    made.delete()


def test_an_unknown_client_costs_the_agent_no_thread(amphora: Amphora, ending: ExitStack) -> None:
    """Handshakes that fail, many at a time."""
    stranger = Tls(server_name=amphora.agent.amphora_id)
    for _ in range(MANY):
        with contextlib.suppress(OSError):
            ending.enter_context(amphora.connect(stranger))
    assert answers(amphora)
