"""What Octavia hands a provider driver is what API 2.0 takes.

Load balancers of its database are turned into its provider data model by its own code; the agent
must find nothing wrong with them, in any of the forms in which a driver may send them.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controller import loadbalancers, texts
from controller.release import known_to
from octavia.common import constants, data_models

from amphora_agent.keepalived.config.lvs import describe, rewrite
from lab.pki import Authority

utils = pytest.importorskip("octavia.api.drivers.utils", exc_type=ImportError)
if not hasattr(utils, "_get_secret_data"):
    pytest.skip("providers of this release are given no CAs", allow_module_level=True)

BALANCERS = 120
#: The forms of one model: null or missing where nothing is said, pools in listeners or apart.
FORMS = ("unset", "null", "no pools in listeners")

#: What Octavia's API would not have let into the database, as the texts' generator does.
NOT_ASCII = "été"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("tenant CA")


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    """Any reference to a secret is one to a certificate, or to what is public of an authority."""
    issued = authority.issue("www.example.com", dns=["www.example.com"])
    revoked = authority.revocation_list()  # once: it has the time in it
    container = data_models.TLSContainer(
        id="5f0c3a1e",
        primary_cn="www.example.com",
        certificate=issued.certificate,
        private_key=issued.key,
        intermediates=[authority.certificate],
    )

    class Manager:
        driver = None

        def __init__(self, **_: Any) -> None:
            pass

    def load(_: Any, of: Any, *_more: Any) -> dict[str, Any]:
        sni = [container for _ in getattr(of, "sni_containers", ())]
        return {"tls_cert": container if of.tls_certificate_id else None, "sni_certs": sni}

    def secret(_manager: Any, _project: Any, reference: str, **_: Any) -> str:
        of_crl = "crl" in reference.lower()
        return (revoked if of_crl else authority.certificate).decode()

    monkeypatch.setattr(utils.stevedore_driver, "DriverManager", Manager)
    monkeypatch.setattr(utils.cert_parser, "load_certificates_data", load)
    monkeypatch.setattr(utils, "_get_secret_data", secret)


def as_the_api_would(balancer: data_models.LoadBalancer) -> data_models.LoadBalancer:
    """Without what the generator makes up and Octavia's API refuses."""
    allowed = constants.VALID_LISTENER_POOL_PROTOCOL_MAP
    for listener in balancer.listeners:
        pool = listener.default_pool
        if pool and pool.protocol not in allowed[listener.protocol]:
            listener.default_pool = listener.default_pool_id = None
        encrypted = listener.protocol == "TERMINATED_HTTPS"
        if listener.protocol not in ("HTTP", "TERMINATED_HTTPS"):
            listener.insert_headers = {}
        elif not encrypted:
            listener.insert_headers = {
                name: value
                for name, value in listener.insert_headers.items()
                if not name.startswith("X-SSL")
            }
        if not getattr(listener, "client_ca_tls_certificate_id", None):
            listener.client_authentication = "NONE"
        for policy in listener.l7policies:
            for rule in policy.l7rules:
                if rule.type == "FILE_TYPE" and rule.compare_type != "REGEX":
                    rule.compare_type = "EQUAL_TO"
                if rule.value == NOT_ASCII:
                    rule.value = "plain"
    for pool in balancer.pools:
        if not getattr(pool, "ca_tls_certificate_id", None):
            pool.crl_container_id = None
    return balancer


def generated() -> Iterator[data_models.LoadBalancer]:
    made_up = texts._MadeUp(1)
    for _ in range(BALANCERS):
        yield as_the_api_would(made_up.load_balancer())


def layer4() -> Iterator[data_models.LoadBalancer]:
    """UDP and SCTP, with every monitor and persistence."""
    monitors = ("UDP-CONNECT", "SCTP", "TCP", "HTTP", None)
    masks = ("255.255.255.0", "ffff:ffff::", None)
    for protocol, monitor, mask in itertools.product(("UDP", "SCTP"), monitors, masks):
        balancer = loadbalancers.load_balancer(
            texts._amphora("10.1.0.11"),
            "10.1.0.5",
            additional_vips=("2001:db8::5",) if hasattr(data_models, "AdditionalVip") else (),
        )
        listener = loadbalancers.listener(balancer, protocol, 53)
        members = [("10.2.0.11", 53), ("2001:db8:2::11", 53)]
        pool = loadbalancers.pool(listener, protocol, members)
        if monitor:
            loadbalancers.monitor(pool, monitor)
        pool.session_persistence = data_models.SessionPersistence(
            pool_id=pool.id,
            type="SOURCE_IP",
            **known_to(
                data_models.SessionPersistence,
                {"persistence_timeout": 100, "persistence_granularity": mask},
            ),
        )
        yield balancer


def bodies(balancer: data_models.LoadBalancer) -> Iterator[str]:
    """The forms in FORMS."""
    provided = utils.db_loadbalancer_to_provider_loadbalancer(balancer)
    body = provided.to_dict(recurse=True)
    yield _json(body)
    yield _json(provided.to_dict(recurse=True, render_unsets=True))
    for listener in body.get("listeners") or ():
        if listener.pop("default_pool", None):
            assert listener["default_pool_id"]
    yield _json(body)


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, default=bytes.decode)


def answers(balancers: list[data_models.LoadBalancer]) -> list[dict[str, Any]]:
    """What the agent says of all forms of all of them."""
    lines = [line for balancer in balancers for line in bodies(balancer)]
    # Relative, it is found from the root of the source, where these tests run.
    agent = Path(os.environ["AMPHORA_AGENT"]).absolute()
    said = subprocess.run(
        [agent.with_name("python"), "-m", "tests.conformance.decode_models"],
        cwd=Path(__file__).parents[2],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    found = [json.loads(line) for line in said.stdout.splitlines()]
    assert len(found) == len(lines)
    for line, answer in zip(lines, found, strict=True):
        assert answer["problems"] == [], line
    return found


def test_there_is_nothing_wrong_with_any_of_them() -> None:
    balancers = list(generated())
    found = answers(balancers)
    for number, balancer in enumerate(balancers):
        same = found[number * len(FORMS) : (number + 1) * len(FORMS)]
        assert all(each == same[0] for each in same)
        expected = [
            listener.id
            for listener in balancer.listeners
            if balancer.enabled and listener.enabled and listener.protocol not in ("UDP", "SCTP")
        ]
        assert same[0]["frontends"] == expected
    assert sum(len(each["backends"]) for each in found) > BALANCERS


def test_udp_and_sctp() -> None:
    balancers = list(layer4())
    found = answers(balancers)
    for number, balancer in enumerate(balancers):
        (listener,) = balancer.listeners
        for answer in found[number * len(FORMS) : (number + 1) * len(FORMS)]:
            text = answer["layer4"][listener.id].encode()
            rewrite(text, "/var/lib/octavia/lvs/check/udp_check.sh")
            described = describe(text)
            assert described.pool == listener.default_pool.id
            on = {virtual.endpoints[0].address for virtual in described.virtuals}
            assert {"10.1.0.5"} <= on
            assert {each.id for each in described.members} >= {listener.default_pool.members[0].id}
            assert {each.checked for each in described.members} == {
                listener.default_pool.health_monitor is not None
            }
