"""Certificates are what they say: a mutual TLS test must fail for the reason it names."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab.backend import Backend
from lab.http import Response, Tls, get
from lab.network import Lab, Namespace
from lab.pki import AmphoraPki, Authority, Credentials, write_private

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

NAME = "www.example.org"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Lab(f"pki-{os.getpid()}") as lab:
        yield lab.namespace("web")


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority.create("root", key="ec")


def ask(
    namespace: Namespace,
    directory: Path,
    server: Credentials,
    trusted: Authority,
    *,
    client_ca: Authority | None = None,
    client: Credentials | None = None,
) -> Response:
    write_private(directory / "server.pem", server.pem)
    if client_ca:
        write_private(directory / "ca.pem", client_ca.certificate)
    with Backend(
        namespace,
        "web",
        ["127.0.0.1:443"],
        tls=directory / "server.pem",
        client_ca=directory / "ca.pem" if client_ca else None,
    ):
        tls = Tls(server_name=NAME, ca=trusted.certificate, credentials=client)
        return get(namespace, "127.0.0.1", 443, tls=tls)


def test_an_intermediate_authority_is_trusted_through_its_root(
    namespace: Namespace, root: Authority, tmp_path: Path
) -> None:
    server = root.intermediate("below", key="ec").issue(NAME, dns=[NAME], key="rsa")
    answer = ask(namespace, tmp_path, server, root)
    assert answer.peer is not None
    assert answer.peer.serial == server.serial
    assert answer.peer.names == (NAME,)


def test_a_server_takes_client_certificates_of_its_authority_alone(
    namespace: Namespace, root: Authority, tmp_path: Path
) -> None:
    server = root.issue(NAME, dns=[NAME], key="ec")
    clients = Authority.create("clients", key="ec")
    alice = clients.issue("alice", server=False, key="ec")
    answer = ask(namespace, tmp_path, server, root, client_ca=clients, client=alice)
    assert answer.json()["client_certificate"] == "alice"
    for stranger in (None, root.issue("mallory", key="ec")):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(namespace, tmp_path, server, root, client_ca=clients, client=stranger)


def test_a_client_refuses_a_wrong_server_certificate_with_the_reason(
    namespace: Namespace, root: Authority, tmp_path: Path
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    cases = {
        "expired": root.issue(
            NAME,
            dns=[NAME],
            key="ec",
            not_before=yesterday - timedelta(days=1),
            not_after=yesterday,
        ),
        "Hostname mismatch": root.issue(NAME, dns=["other.example.org"], key="ec"),
        "(unsuitable|unsupported) certificate purpose": root.issue(
            NAME, dns=[NAME], key="ec", server=False
        ),
        "unable to get local issuer": Authority.create("other", key="ec").issue(
            NAME, dns=[NAME], key="ec"
        ),
    }
    for reason, server in cases.items():
        with pytest.raises(ssl.SSLCertVerificationError, match=reason):
            ask(namespace, tmp_path, server, root)


def test_files_of_an_amphora_are_for_the_owner_alone(tmp_path: Path) -> None:
    pki = AmphoraPki.create(tmp_path / "pki", "amphora-1", key="ec")
    for path in (pki.server_pem, pki.client_ca, pki.server_ca, pki.controller_pem):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    context = ssl.create_default_context(cafile=pki.client_ca)
    context.load_cert_chain(pki.server_pem)
    assert pki.server_authority.certificate != pki.client_authority.certificate
