"""TERMINATED_HTTPS listeners and TLS to members."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from controller import loadbalancers, secrets
from controller.amphora import VIP, WEB1, WEB2, Amphora
from controller.health_manager import HealthManager
from controller.release import needs_hsts
from octavia.common import constants, data_models

from lab.backend import Backend
from lab.http import FAILURES, Response, Tls, get
from lab.network import Namespace
from lab.pki import Authority, Credentials

#: What a listener can tell its members about the client's certificate.
SSL_HEADERS = (
    "X-SSL-Client-Verify",
    "X-SSL-Client-Has-Cert",
    "X-SSL-Client-DN",
    "X-SSL-Client-CN",
    "X-SSL-Issuer",
    "X-SSL-Client-SHA1",
    "X-SSL-Client-Not-Before",
    "X-SSL-Client-Not-After",
)


def issue(authority: Authority, name: str) -> Credentials:
    return authority.issue(name, dns=[name])


def over_tls(
    client: Namespace, name: str, authority: Authority, credentials: Credentials | None = None
) -> Response:
    """A request to the listener, whose certificate must be one for `name`."""
    tls = Tls(server_name=name, ca=authority.certificate, credentials=credentials)
    return get(client, VIP, 443, host=name, tls=tls)


def tls_listener(amphora: Amphora, authority: Authority, **fields: Any) -> data_models.Listener:
    balancer = amphora.serve()
    reference = secrets.store(issue(authority, "www.example.com"))
    listener = loadbalancers.listener(
        balancer, "TERMINATED_HTTPS", 443, tls_certificate_id=reference, **fields
    )
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    return listener


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_clients_get_the_certificate_for_the_name_they_ask_for(
    version: ssl.TLSVersion,
    amphora: Amphora,
    health: HealthManager,
    client: Namespace,
    webs: dict[str, Backend],
    tenant_ca: Authority,
) -> None:
    behind_an_intermediate = issue(tenant_ca.intermediate("intermediate CA"), "api.example.com")
    listener = tls_listener(amphora, tenant_ca, sni=[secrets.store(behind_an_intermediate)])
    amphora.worker.deploy(listener.load_balancer)

    for asked, given in [
        ("www.example.com", "www.example.com"),
        ("api.example.com", "api.example.com"),
        ("else.example.com", "www.example.com"),
    ]:
        tls = Tls(server_name=asked, minimum=version, maximum=version)
        answer = get(client, VIP, 443, host=asked, tls=tls)
        assert answer.json()["name"] == "web1"
        assert answer.peer is not None
        assert answer.peer.names == (given,)
    # The chain is presented too: a client that knows the root only can follow it.
    assert over_tls(client, "api.example.com", tenant_ca).status == 200
    health.wait_for(lambda _: listener.operating_status == constants.ONLINE)


def test_client_certificates_are_required_and_revoked_ones_refused(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    clients = Authority.create("client CA")
    good, revoked = (clients.issue(name, server=False) for name in ("good", "revoked"))
    stranger = Authority.create("another CA").issue("stranger", server=False)
    listener = tls_listener(
        amphora,
        tenant_ca,
        client_authentication="MANDATORY",
        client_ca_tls_certificate_id=secrets.store_text(clients.certificate),
        client_crl_container_id=secrets.store_text(clients.revocation_list([revoked])),
        insert_headers={name: "true" for name in SSL_HEADERS},
    )
    amphora.worker.deploy(listener.load_balancer)

    answer = over_tls(client, "www.example.com", tenant_ca, good)
    seen = answer.json()["headers"]
    assert {name.lower() for name in SSL_HEADERS} <= seen.keys()
    assert seen["x-ssl-client-verify"] == "0"
    assert seen["x-ssl-client-has-cert"] == "1"
    assert seen["x-ssl-client-cn"] == "good"
    assert "client CA" in seen["x-ssl-issuer"]
    for refused in (None, revoked, stranger):
        with pytest.raises(FAILURES):
            over_tls(client, "www.example.com", tenant_ca, refused)


def test_optional_client_certificates_are_told_apart_by_policies(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    clients = Authority.create("client CA")
    listener = tls_listener(
        amphora,
        tenant_ca,
        client_authentication="OPTIONAL",
        client_ca_tls_certificate_id=secrets.store_text(clients.certificate),
        insert_headers={"X-SSL-Client-Has-Cert": "true"},
    )
    for common_name in ("evil one", "evil two"):
        loadbalancers.policy(
            listener,
            constants.L7POLICY_ACTION_REJECT,
            [
                ("SSL_CONN_HAS_CERT", "EQUAL_TO", "True"),
                ("SSL_VERIFY_RESULT", "EQUAL_TO", "0"),
                ("SSL_DN_FIELD", "EQUAL_TO", common_name, "CN"),
            ],
        )
    amphora.worker.deploy(listener.load_balancer)

    def status(common_name: str) -> int:
        credentials = clients.issue(common_name, server=False)
        return over_tls(client, "www.example.com", tenant_ca, credentials).status

    without = over_tls(client, "www.example.com", tenant_ca)
    assert without.json()["headers"]["x-ssl-client-has-cert"] == "0"
    assert (status("good one"), status("evil one"), status("evil two")) == (200, 403, 403)


@pytest.mark.api_1_0("sets versions of TLS")
def test_ciphers_versions_and_protocols_are_the_listeners(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    listener = tls_listener(
        amphora,
        tenant_ca,
        tls_versions=["TLSv1.2"],
        tls_ciphers="ECDHE-RSA-AES256-GCM-SHA384",
        alpn_protocols=["http/1.1"],
    )
    amphora.worker.deploy(listener.load_balancer)

    offered = Tls(server_name="www.example.com", alpn=("h2", "http/1.1"))
    peer = get(client, VIP, 443, tls=offered).peer
    assert peer is not None
    assert (peer.protocol, peer.alpn) == ("TLSv1.2", "http/1.1")
    with pytest.raises(FAILURES):
        get(client, VIP, 443, tls=Tls(minimum=ssl.TLSVersion.TLSv1_3))


def test_plain_http_on_the_tls_port_is_not_served(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    amphora.worker.deploy(tls_listener(amphora, tenant_ca).load_balancer)
    assert over_tls(client, "www.example.com", tenant_ca).status == 200
    with pytest.raises(FAILURES):
        get(client, VIP, 443)
    assert webs["web1"].requests == 1


@needs_hsts
def test_hsts_is_announced(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    listener = tls_listener(
        amphora,
        tenant_ca,
        hsts_max_age=31536000,
        hsts_include_subdomains=True,
        hsts_preload=True,
    )
    amphora.worker.deploy(listener.load_balancer)

    announced = over_tls(client, "www.example.com", tenant_ca).headers["strict-transport-security"]
    assert announced.split("; ") == ["max-age=31536000", "includeSubDomains", "preload;"]


def test_members_are_reached_over_tls_with_the_pools_certificate(
    amphora: Amphora,
    health: HealthManager,
    client: Namespace,
    backend: Callable[..., Backend],
    member_certificate: Path,
    directory: Path,
    tenant_ca: Authority,
) -> None:
    client_ca = Authority.create("CA of the members' clients")
    trusted = directory / "client-ca.pem"
    trusted.write_bytes(client_ca.certificate)
    backend("tls1", f"{WEB1}:443", tls=member_certificate, client_ca=trusted)
    backend("plain", f"{WEB2}:443")
    listener = loadbalancers.listener(amphora.serve(), "HTTP", 80)
    pool = loadbalancers.pool(
        listener,
        "HTTP",
        [(WEB1, 443), (WEB2, 443)],
        tls_enabled=True,
        tls_certificate_id=secrets.store(client_ca.issue("the pool", server=False)),
        ca_tls_certificate_id=secrets.store_text(tenant_ca.certificate),
        crl_container_id=secrets.store_text(tenant_ca.revocation_list()),
        alpn_protocols=["http/1.1"],
    )
    loadbalancers.monitor(pool, "HTTP", url_path="/health")
    good, plain = pool.members
    amphora.worker.deploy(listener.load_balancer)

    health.wait_for(
        lambda _: (
            (good.operating_status, plain.operating_status) == (constants.ONLINE, constants.ERROR)
        )
    )
    seen = get(client, VIP, 80).json()
    assert (seen["name"], seen["tls"], seen["client_certificate"]) == ("tls1", True, "the pool")


def test_tls_passes_through_an_https_listener(
    amphora: Amphora,
    client: Namespace,
    backend: Callable[..., Backend],
    member_certificate: Path,
    tenant_ca: Authority,
) -> None:
    backend("tls1", f"{WEB1}:443", tls=member_certificate)
    listener = loadbalancers.listener(amphora.serve(), "HTTPS", 443)
    pool = loadbalancers.pool(listener, "HTTPS", [(WEB1, 443)])
    loadbalancers.monitor(pool, "TLS-HELLO")
    amphora.worker.deploy(listener.load_balancer)

    answer = over_tls(client, "member.example.com", tenant_ca)
    assert answer.json()["name"] == "tls1"
