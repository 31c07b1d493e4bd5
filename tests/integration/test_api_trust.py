"""Who may speak to the agent: only a controller with a certificate of the controllers' CA."""

import dataclasses
import http.client
import socket
import ssl
import warnings
from collections.abc import Iterator
from typing import Any, cast

import pytest

from amphora_agent.api.app import create_app
from amphora_agent.api.services import Services
from lab.http import Tls
from lab.pki import Authority, Credentials
from tests.integration.amphora import Amphora, Answer, read_answer, request_bytes

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def routes() -> Iterator[tuple[str, str]]:
    """Every method and path that the application has."""
    # Only its routes are looked at: what they would call is not needed.
    nothing: Any = [None] * len(dataclasses.fields(Services))
    app = create_app(Services(*nothing))
    for rule in app.url_map.iter_rules():
        values = {name: "x.pem" if name == "filename" else "192.0.2.1" for name in rule.arguments}
        _, path = cast(tuple[str, str], rule.build(values))
        for method in sorted(rule.methods or ()):
            yield method, path


ROUTES = sorted(set(routes()))


def ask(amphora: Amphora, tls: Tls, method: str, path: str) -> Answer:
    with amphora.connect(tls) as connection:
        connection.sendall(request_bytes(method, path, headers={"Connection": "close"}))
        return read_answer(connection, method)


def as_(amphora: Amphora, credentials: Credentials | None, version: ssl.TLSVersion) -> Tls:
    """A client that trusts the amphora, with these credentials."""
    return Tls(
        server_name=amphora.agent.amphora_id,
        ca=amphora.agent.pki.server_authority.certificate,
        credentials=credentials,
        minimum=version,
        maximum=version,
    )


def test_the_routes_are_all_there() -> None:
    paths = {path for _, path in ROUTES}
    assert len(paths) > 15
    assert {"/", "/1.0/info", "/1.0/config", "/1.0/plug/network", "/1.0/certificate"} <= paths


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{m} {p}" for m, p in ROUTES])
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
def test_every_route_refuses_a_client_without_a_certificate(
    amphora: Amphora, method: str, path: str, version: ssl.TLSVersion
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask(amphora, as_(amphora, None, version), method, path)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{m} {p}" for m, p in ROUTES])
def test_every_route_refuses_a_client_of_another_authority(
    amphora: Amphora, method: str, path: str
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask(amphora, as_(amphora, STRANGER, TLS_1_3), method, path)


STRANGER = Authority.create("controller client CA", key="ec").issue("octavia-controller", key="ec")


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
def test_strangers_of_every_kind_are_refused(
    amphora: Amphora, authorities: tuple[Authority, Authority], version: ssl.TLSVersion
) -> None:
    server_authority, client_authority = authorities
    strangers = {
        "of an authority with the same name": STRANGER,
        "another amphora": server_authority.issue("amphora", dns=["amphora"], key="ec"),
        "not for clients": client_authority.issue("octavia-controller", client=False, key="ec"),
    }
    for name, credentials in strangers.items():
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            pytest.fail(f"{name}: {ask(amphora, as_(amphora, credentials, version), 'GET', '/')}")


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
def test_the_controller_is_served_with_tls_1_2_and_1_3(
    amphora: Amphora, version: ssl.TLSVersion
) -> None:
    tls = as_(amphora, amphora.agent.pki.controller, version)
    assert ask(amphora, tls, "GET", "/1.0/info").status == 200


def test_the_certificate_names_the_amphora_and_no_address(amphora: Amphora) -> None:
    peer = amphora.agent.get("/1.0/info").peer
    assert peer is not None
    assert peer.names == (amphora.agent.amphora_id,)


def old_client(amphora: Amphora) -> ssl.SSLContext:
    """A client that would speak TLS 1.1, which this machine's OpenSSL does only when asked to."""
    context = as_(amphora, amphora.agent.pki.controller, TLS_1_2).context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def test_tls_1_1_is_refused(amphora: Amphora) -> None:

    with (
        socket.create_connection(("127.0.0.1", amphora.agent.port)) as raw,
        pytest.raises(ssl.SSLError) as refusal,
    ):
        old_client(amphora).wrap_socket(raw, server_hostname=amphora.agent.amphora_id)
    assert refusal.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


def test_the_old_client_would_be_served_by_an_old_server(amphora: Amphora) -> None:
    """Or else the refusal above would prove nothing."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.minimum_version = ssl.TLSVersion.TLSv1_1
    server.load_cert_chain(amphora.agent.pki.server_pem)
    assert shake_hands(old_client(amphora), server, amphora.agent.amphora_id) == "TLSv1.1"


def test_plain_http_gets_no_answer(amphora: Amphora) -> None:
    with socket.create_connection(("127.0.0.1", amphora.agent.port)) as raw:
        raw.sendall(request_bytes("GET", "/"))
        answer = b""
        try:
            while piece := raw.recv(4096):
                answer += piece
        except ConnectionResetError:
            pass
    assert b"HTTP" not in answer
    assert amphora.request("GET", "/").status == 200


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> str | None:
    """The protocol that two contexts agree on."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return sides[0].version()
