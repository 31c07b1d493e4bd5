"""Certificates of declared load balancers: checked before anything changes, in order, replaced
while haproxy runs, and never given back with their keys."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from lab.backend import Backend
from lab.http import Tls
from lab.pki import Authority, Credentials
from tests.builders.bodies import Body
from tests.integration.amphora import Amphora, Answer
from tests.integration.declared import DeclaredBalancer

ROOT = Authority.create("tenant root", key="ec")
MIDDLE = ROOT.intermediate("tenant middle", key="ec")
SITE = "www.example.org"


def issued(name: str = SITE, key: str = "ec") -> Credentials:
    return MIDDLE.issue(name, dns=[name], key=key)  # type: ignore[arg-type]


def container(credentials: Credentials, **more: object) -> Body:
    return {
        "certificate": credentials.certificate.decode(),
        "private_key": credentials.key.decode(),
        "intermediates": [credentials.chain.decode()] if credentials.chain else [],
        **more,
    }


def key_as(credentials: Credentials, form: serialization.PrivateFormat) -> bytes:
    key = serialization.load_pem_private_key(credentials.key, password=None)
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@pytest.fixture
def balancer(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    """One that terminates TLS."""
    made = DeclaredBalancer(amphora)
    made.body["listeners"][0] |= {
        "protocol": "TERMINATED_HTTPS",
        "default_tls_container_data": container(issued()),
    }
    made.push()
    yield made
    made.delete()


def shown(balancer: DeclaredBalancer, name: str = SITE) -> int:
    """The serial number of what a client gets to see, whose chain it can verify."""
    tls = Tls(server_name=name, ca=ROOT.certificate)
    with balancer.client(tls=tls) as client:
        peer = client.get("/").peer
    assert peer is not None
    return peer.serial


def put_certificate(balancer: DeclaredBalancer, name: str, pem: bytes) -> Answer:
    return balancer.amphora.request("PUT", f"{balancer.url}/certificates/{name}", pem)


def test_a_certificate_is_replaced_while_haproxy_runs(balancer: DeclaredBalancer) -> None:
    worker = balancer.worker()
    new = issued()
    balancer.body["listeners"][0]["default_tls_container_data"] = container(new)
    assert balancer.push()["step"] == "runtime"
    assert balancer.worker() == worker
    assert shown(balancer) == new.serial


def test_a_key_that_the_amphora_has_need_not_come_again(balancer: DeclaredBalancer) -> None:
    del balancer.body["listeners"][0]["default_tls_container_data"]["private_key"]
    assert balancer.push()["step"] == "nothing"
    balancer.body["listeners"][0]["default_tls_container_data"] = container(issued())
    del balancer.body["listeners"][0]["default_tls_container_data"]["private_key"]
    answer = balancer.put()
    assert answer.status == 400
    (error,) = answer.json()["errors"]
    assert error["path"] == "listeners[0].default_tls_container_data.private_key"


def test_no_answer_and_no_log_has_a_key(balancer: DeclaredBalancer) -> None:
    balancer.body["listeners"][0]["default_tls_container_data"]["certificate"] = "-----BEGIN X-----"
    said = [
        balancer.get(),
        balancer.get("/status"),
        balancer.put(),
        balancer.put("?dry_run=1"),
        balancer.amphora.request("GET", f"/2.0/instances/{balancer.id}/changes"),
    ]
    key = balancer.body["listeners"][0]["default_tls_container_data"]["private_key"]
    secret = key.splitlines()[1]
    texts = [answer.body.decode() for answer in said] + [balancer.amphora.agent.log]
    assert not any(secret in text or "PRIVATE KEY" in text for text in texts)
    model = balancer.get().json()["listeners"][0]["default_tls_container_data"]
    assert "private_key" not in model


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("rsa", serialization.PrivateFormat.PKCS8),
        ("rsa", serialization.PrivateFormat.TraditionalOpenSSL),
        ("ec", serialization.PrivateFormat.PKCS8),
        ("ec", serialization.PrivateFormat.TraditionalOpenSSL),
    ],
)
def test_keys_of_every_form_serve(
    balancer: DeclaredBalancer, key: str, form: serialization.PrivateFormat
) -> None:
    new = issued(key=key)
    body = container(new, private_key=key_as(new, form).decode())
    balancer.body["listeners"][0]["default_tls_container_data"] = body
    balancer.push()
    assert shown(balancer) == new.serial


def test_a_chain_is_put_in_order(balancer: DeclaredBalancer) -> None:
    new = issued()
    upside_down = [ROOT.certificate.decode(), new.chain.decode()]
    body = container(new, intermediates=upside_down)
    balancer.body["listeners"][0]["default_tls_container_data"] = body
    balancer.push()
    assert shown(balancer) == new.serial
    current = balancer.amphora.agent.base_path / balancer.id / "current" / "certificates"
    (file,) = current.glob("*default*")
    assert file.read_bytes() == new.certificate + new.key + new.chain + ROOT.certificate


SHAPES: dict[str, Callable[[str], str]] = {
    "END and BEGIN on one line": lambda pem: pem.replace("-----\n-----", "----------"),
    "carriage returns": lambda pem: pem.replace("\n", "\r"),
    "indented": lambda pem: pem.replace("\n", "\n  "),
    "text around": lambda pem: f"Bag Attributes\n{pem}the end\n",
    "twice": lambda pem: pem * 2,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_c1_declared_certificates_are_kept_in_one_form(
    balancer: DeclaredBalancer, shape: str
) -> None:
    new, change = issued(), SHAPES[shape]
    chain = (new.certificate + new.chain).decode()
    body = {"certificate": change(chain), "private_key": change(new.key.decode())}
    balancer.body["listeners"][0]["default_tls_container_data"] = body
    assert balancer.push()["step"] == "runtime"
    current = balancer.amphora.agent.base_path / balancer.id / "current" / "certificates"
    (file,) = current.glob("*default*")
    assert file.read_bytes() == new.pem
    put = put_certificate(balancer, "site", change(new.pem.decode()).encode())
    assert put.status == 201
    assert shown(balancer) == new.serial


NOW, DAY = datetime.now(UTC), timedelta(days=1)
UNFIT = {
    "another key": (container(issued(), private_key=issued().key.decode()), "not that of"),
    "a stranger in the chain": (
        container(issued(), intermediates=[Authority.create("x", key="ec").certificate.decode()]),
        "the chain is broken",
    ),
    "no PEM": (
        container(issued(), certificate="-----BEGIN CERTIFICATE-----\nAAAA\n"),
        "has no end",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_serve_is_refused_with_the_reason(
    balancer: DeclaredBalancer, name: str
) -> None:
    body, reason = UNFIT[name]
    before = shown(balancer)
    balancer.body["listeners"][0]["default_tls_container_data"] = body
    answer = balancer.put()
    assert answer.status == 400
    (error,) = answer.json()["errors"]
    assert error["path"] == "listeners[0].default_tls_container_data"
    assert reason in error["message"]
    assert shown(balancer) == before


@pytest.mark.parametrize(
    ("before", "after"), [(NOW - 2 * DAY, NOW - DAY), (NOW + DAY, NOW + 2 * DAY)]
)
def test_c4_a_load_balancer_begins_with_a_certificate_that_is_not_valid_now(
    amphora: Amphora, webs: dict[str, Backend], before: datetime, after: datetime
) -> None:
    """As after a failover."""
    made = DeclaredBalancer(amphora)
    invalid = MIDDLE.issue(SITE, dns=[SITE], key="ec", not_before=before, not_after=after)
    made.body["listeners"][0] |= {
        "protocol": "TERMINATED_HTTPS",
        "default_tls_container_data": container(invalid),
    }
    assert made.push()["step"] == "start"
    with made.client(tls=Tls(server_name=SITE)) as client:
        peer = client.get("/").peer
    assert peer is not None
    assert peer.serial == invalid.serial
    told = made.get("/status").json()
    assert told["listeners"][0]["operating_status"] == told["operating_status"] == "DEGRADED"
    words = "has expired" if after < NOW else "is not valid before"
    assert f"its certificate {words}" in told["listeners"][0]["reason"]
    assert f"its certificate {words}" in told["reason"]
    made.delete()


def test_c3_a_revocation_list_of_clients_that_has_expired_is_told(
    balancer: DeclaredBalancer,
) -> None:
    listener = balancer.body["listeners"][0]
    listener["client_authentication"] = "MANDATORY"
    listener["client_ca_tls_container_data"] = ROOT.certificate.decode()
    listener["client_crl_container_data"] = ROOT.revocation_list(days=-0.001).decode()
    balancer.push()
    (told,) = balancer.get("/status").json()["listeners"]
    assert told["operating_status"] == "ERROR"
    assert told["reason"].startswith("its revocation list has expired, at 20")
    listener["client_crl_container_data"] = ROOT.revocation_list(days=5).decode()
    balancer.push()
    (told,) = balancer.get("/status").json()["listeners"]
    assert told["operating_status"] == "ONLINE"
    assert told["reason"].startswith("its revocation list expires within 7 days, at 20")


def test_a_certificate_that_was_put_before_is_referred_to(balancer: DeclaredBalancer) -> None:
    new = issued("other.example.org")
    answer = put_certificate(balancer, "site-1", new.key + new.chain + new.certificate)
    assert answer.status == 201
    listener = balancer.body["listeners"][0]
    listener["sni_container_refs"] = ["https://keys.example.org/v1/containers/site-1"]
    assert balancer.push()["step"] == "runtime"
    assert shown(balancer, "other.example.org") == new.serial
    again = issued("other.example.org")
    assert put_certificate(balancer, "site-1", again.pem).status == 200
    assert balancer.push()["step"] == "runtime"
    assert shown(balancer, "other.example.org") == again.serial
    listener["sni_container_refs"] = ["nowhere"]
    (error,) = balancer.put().json()["errors"]
    assert error["path"] == "listeners[0].sni_container_refs[0]"


def test_a_stored_certificate_is_told_without_its_key(amphora: Amphora) -> None:
    balancer = DeclaredBalancer(amphora)
    new = issued()
    assert put_certificate(balancer, "site", new.pem).status == 201
    told = balancer.get("/certificates/site")
    about = told.json()
    assert about["names"] == [SITE]
    assert about["subject"] == new.subject
    assert about["chain"] == ["CN=tenant middle"]
    assert len(about["fingerprint"]) == 64
    assert b"PRIVATE" not in told.body
    assert set(balancer.get("/certificates").json()["certificates"]) == {"site"}
    broken = put_certificate(balancer, "site", new.certificate + issued().key)
    assert broken.status == 400
    assert "not that of the certificate" in json.dumps(broken.json())
    assert balancer.get("/certificates/site").json() == about
    path = f"{balancer.url}/certificates/site"
    assert amphora.request("DELETE", path).status == 204
    assert amphora.request("DELETE", path).status == 404
    assert balancer.get("/certificates/site").status == 404
