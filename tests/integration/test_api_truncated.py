"""Uploads that break off: whatever of them has come, nothing of it is used."""

import json
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from lab.listeners import http_listener
from lab.pki import Authority
from lab.waiting import until
from tests.integration.amphora import (
    Amphora,
    LoadBalancer,
    request_bytes,
    with_setting,
)


@dataclass(frozen=True)
class Upload:
    """A request that would be accepted if it were whole. `part` is what comes of its body."""

    method: str
    target: str
    body: bytes
    part: int

    @property
    def cut(self) -> bytes:
        """Announced whole, and not sent whole."""
        whole = request_bytes(self.method, self.target, self.body)
        return whole[: len(whole) - len(self.body) + self.part]

    @property
    def cut_in_a_chunk(self) -> bytes:
        return b"%s%x\r\n%s" % (self._chunked_head, len(self.body), self.body[: self.part])

    @property
    def cut_between_chunks(self) -> bytes:
        return b"%s%x\r\n%s\r\n" % (self._chunked_head, self.part, self.body[: self.part])

    @property
    def cut_in_the_size_of_a_chunk(self) -> bytes:
        return self.cut_between_chunks + b"5"

    @property
    def cut_before_the_end(self) -> bytes:
        """All of the body, and not the mark that it is all."""
        return b"%s%x\r\n%s\r\n" % (self._chunked_head, len(self.body), self.body)

    @property
    def _chunked_head(self) -> bytes:
        return (
            f"{self.method} {self.target} HTTP/1.1\r\nHost: amphora\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        ).encode()


pytestmark = pytest.mark.usefixtures("nothing_changes")


@pytest.fixture(scope="module")
def served(amphora: Amphora, authorities: tuple[Authority, Authority]) -> Iterator[LoadBalancer]:
    made = amphora.new_balancer()
    amphora.api.upload_certificate(made.id, "site.pem", authorities[0].certificate)
    made.push()
    yield made
    made.delete()


SECOND = http_listener("second", port=10000, members=[])
KINDS = ["configuration", "certificate", "agent certificate", "agent configuration", "VIP", "port"]


@pytest.fixture(params=KINDS)
def upload(
    request: pytest.FixtureRequest,
    amphora: Amphora,
    served: LoadBalancer,
    authorities: tuple[Authority, Authority],
) -> Upload:
    agent = amphora.agent
    kind: str = request.param
    if kind == "configuration":
        text = served.text(SECOND).encode()
        # At the border of two listeners: what has come is a good configuration.
        part = text.rindex(b"\nfrontend") + 1
        target = f"/1.0/loadbalancer/{agent.amphora_id}/{served.id}/haproxy"
        return Upload("PUT", target, text, part)
    if kind == "certificate":
        # What has come would do by itself.
        data = authorities[1].certificate + b"\n\n"
        return Upload(
            "PUT", f"/1.0/loadbalancer/{served.id}/certificates/site.pem", data, len(data) - 1
        )
    if kind == "agent certificate":
        renewed = authorities[0].issue(agent.amphora_id, dns=[agent.amphora_id], key="ec")
        # What has come would do by itself.
        return Upload("PUT", "/1.0/certificate", renewed.pem + b"\n\n", len(renewed.pem))
    if kind == "agent configuration":
        text = agent.config_file.read_bytes()
        # Without the topology: what has come is a good configuration.
        return Upload("PUT", "/1.0/config", text, text.index(b"[controller_worker]"))
    mac = {"mac_address": "fa:16:3e:00:00:01"}
    if kind == "VIP":
        body = {**mac, "subnet_cidr": "192.0.2.0/24", "gateway": "192.0.2.1"}
        return Upload("POST", "/1.0/plug/vip/192.0.2.5", _spaced(body), 80)
    return Upload("POST", "/1.0/plug/network", _spaced(mac), 40)


def _spaced(body: dict[str, str]) -> bytes:
    """JSON, and blanks behind it that it could do without."""
    return json.dumps(body).encode() + b" " * 100


WAYS: dict[str, Callable[[Upload], bytes]] = {
    "of known length": lambda upload: upload.cut,
    "in a chunk": lambda upload: upload.cut_in_a_chunk,
    "between chunks": lambda upload: upload.cut_between_chunks,
    "in the size of a chunk": lambda upload: upload.cut_in_the_size_of_a_chunk,
    "before the end of chunks": lambda upload: upload.cut_before_the_end,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_half_closed_upload_is_refused(amphora: Amphora, upload: Upload, way: str) -> None:
    answer = amphora.send_all(WAYS[way](upload))
    assert answer.status == 400
    assert "was cut off" in answer.json()["details"]


@pytest.mark.parametrize("way", WAYS)
def test_an_upload_whose_connection_is_closed_is_dropped(
    amphora: Amphora, upload: Upload, way: str
) -> None:
    said = len(amphora.agent.log)
    with amphora.connect() as connection:
        connection.sendall(WAYS[way](upload))
    until(lambda: "was cut off" in amphora.agent.log[said:], "the agent has noticed")


def test_an_upload_whose_sender_died_behind_a_proxy_is_dropped(
    amphora: Amphora, upload: Upload
) -> None:
    """TCP ends in one direction, and TLS was not told."""
    said = len(amphora.agent.log)
    with amphora.connect() as connection:
        connection.sendall(upload.cut)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        until(lambda: "was cut off" in amphora.agent.log[said:], "the agent has noticed")


def test_an_upload_whose_connection_is_reset_is_dropped(amphora: Amphora, upload: Upload) -> None:
    said = len(amphora.agent.log)
    with amphora.connect() as connection:
        expecting = upload.cut.replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1)
        connection.sendall(expecting)
        # Until then a reset might be all that the agent ever sees.
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
        # Closing with this option set sends a reset instead of an end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: "was cut off" in amphora.agent.log[said:], "the agent has noticed")


def test_an_upload_without_a_body_is_refused(amphora: Amphora, upload: Upload) -> None:
    answer = amphora.request(upload.method, upload.target)
    assert answer.status == 400
    assert "the body is empty" in answer.json()["details"]


def test_what_has_come_of_them_would_have_been_accepted(
    own_amphora: Amphora, authorities: tuple[Authority, Authority]
) -> None:
    """Or else their refusal above would prove little."""
    agent, balancer = own_amphora.agent, own_amphora.new_balancer()
    text = balancer.text(SECOND)
    own_amphora.api.upload_haproxy(balancer.id, text[: text.rindex("\nfrontend") + 1])
    config = agent.config_file.read_text()
    own_amphora.api.upload_config(config[: config.index("[controller_worker]")])
    assert own_amphora.api.info()
    own_amphora.api.upload_config(with_setting(config, "heartbeat_interval", "2"))
    renewed = authorities[0].issue(agent.amphora_id, dns=[agent.amphora_id], key="ec")
    own_amphora.api.upload_agent_certificate(renewed.pem)
