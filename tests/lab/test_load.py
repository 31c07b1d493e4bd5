"""The load must never call traffic undisturbed that was disturbed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from lab.backend import Backend
from lab.http import Client, LostRequestError, spread
from lab.load import Load, Trouble
from lab.network import Lab, Namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

ADDRESS = "127.0.0.1"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Lab(f"load-{os.getpid()}") as lab:
        yield lab.namespace("web")


@pytest.fixture
def backend(namespace: Namespace) -> Iterator[Backend]:
    with Backend(namespace, "web1", [f"{ADDRESS}:80"]) as backend:
        yield backend


def test_a_load_on_a_healthy_server_counts_every_answer(
    namespace: Namespace, backend: Backend
) -> None:
    with Load(lambda: Client(namespace, ADDRESS, 80), clients=3) as load:
        load.wait_for(100)
    assert load.result.failed == 0
    assert load.result.total.answered >= 100
    assert load.result.total.answered == backend.requests


@pytest.mark.parametrize("keep_alive", [True, False])
def test_every_answer_but_200_is_an_error(
    namespace: Namespace, backend: Backend, keep_alive: bool
) -> None:
    backend.set_status(503)
    with Load(lambda: Client(namespace, ADDRESS, 80, keep_alive=keep_alive)) as load:
        load.wait_for(20)
    assert load.result.total.answered == 0
    assert load.result.failed >= 20
    assert ": 503 " in load.result.total.words[0]


@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_server_that_dies_is_an_error(
    namespace: Namespace, backend: Backend, keep_alive: bool
) -> None:
    with Load(lambda: Client(namespace, ADDRESS, 80, keep_alive=keep_alive)) as load:
        load.wait_for(20)
        backend.close()
        load.wait_for(20)
    assert load.result.failed >= 10
    assert "ConnectionRefusedError" in load.result.total.words[-1]


def test_an_answer_that_does_not_come_is_an_error(namespace: Namespace, backend: Backend) -> None:
    with Load(
        lambda: Client(namespace, ADDRESS, 80, timeout=0.1), clients=1, path="/slow?seconds=5"
    ) as load:
        load.wait_for(2)
    assert load.result.total.answered == 0
    assert "TimeoutError" in load.result.total.words[0]


class OneConnection:
    """A server that answers each request of its first connection with the next given bytes, and
    then closes that and every later connection at once."""

    def __init__(self, namespace: Namespace, *answers: bytes) -> None:
        self.listener = namespace.make_socket(ADDRESS)
        self.listener.bind((ADDRESS, 80))
        self.listener.listen()
        self._answers = answers
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        answers = list(self._answers)
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                while answers and connection.recv(4096):
                    connection.sendall(answers.pop(0))

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nonly this"


def test_an_answer_cut_off_on_a_kept_connection_is_an_error(namespace: Namespace) -> None:
    server = OneConnection(namespace, GOOD, CUT_OFF)
    with Load(lambda: Client(namespace, ADDRESS, 80), clients=1) as load:
        load.wait_for(2)
    server.close()
    assert "request 2 on a kept connection: IncompleteRead" in load.result.total.words[0]


def test_an_idle_connection_closed_is_a_reconnect(namespace: Namespace) -> None:
    server = OneConnection(namespace, GOOD)
    with Client(namespace, ADDRESS, 80) as client:
        assert client.get().status == 200
        # The server has closed by now, or does so at once: the new connection is refused its
        # answer in either case, and that is an error like any other.
        while client.connected:
            pass
        with pytest.raises(ConnectionError) as raised:
            client.get()
        assert not isinstance(raised.value, LostRequestError)
        assert client.reconnects == 1
    server.close()


def test_a_request_resent_without_success_is_one_error(namespace: Namespace) -> None:
    server = OneConnection(namespace, GOOD, b"")
    with Load(lambda: Client(namespace, ADDRESS, 80), clients=1) as load:
        load.wait_for(3)
    server.close()
    assert load.result.total.troubles[Trouble.SENT_AGAIN] == 1
    assert load.result.total.answered == 1
    second, third, *_ = load.result.total.words
    assert "request 2 on a new connection" in second
    assert "request 3 on a new connection" in third


def test_spread_counts_by_backend_and_refuses_other_answers(
    namespace: Namespace, backend: Backend
) -> None:
    with Client(namespace, ADDRESS, 80) as client:
        assert spread(client, 5) == {"web1": 5}
        backend.set_status(404)
        with pytest.raises(ValueError, match="404"):
            spread(client, 1)
