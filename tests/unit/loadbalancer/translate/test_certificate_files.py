"""A load balancer's certificates as files."""

from __future__ import annotations

from typing import Any

import pytest

from amphora_agent.haproxy.config.parser import parse_config
from amphora_agent.loadbalancer.translate import certificate_files
from amphora_agent.loadbalancer.translate.certificate_files import extract, without_keys
from amphora_agent.model.decode import encode
from amphora_agent.model.resolved import resolve
from lab import rendered
from tests.builders.bodies import balancer, decoded, listener, member, pool
from tests.builders.places import CURRENT, PLACES

KEY = "-----BEGIN PRIVATE KEY-----\nMAED\n-----END PRIVATE KEY-----\n"
_CA = "-----BEGIN CERTIFICATE-----\nMAEC\n-----END CERTIFICATE-----\n"


def pem(text: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"


def container(text: str = "MAA=", **more: Any) -> dict[str, Any]:
    return {"certificate": pem(text), "private_key": KEY, **more}


def https(**more: Any) -> dict[str, Any]:
    return listener("TERMINATED_HTTPS", "l") | more


def files(
    body: dict[str, Any], before: Any = None, stored: Any = None
) -> certificate_files.ExtractedFiles:
    return extract(
        resolve(decoded(body)),
        ["l", "l-default"],
        CURRENT,
        before=(before or {}).get,
        stored=stored or {},
    )


def test_file_has_certificate_key_and_chain() -> None:
    found = files(balancer(https(default_tls_container_data=container(intermediates=[_CA]))))
    assert found.problems == ()
    assert found.files == {
        "l.default.pem": (pem("MAA=") + KEY + _CA).encode(),
        "l.pem": f"{CURRENT}/l.default.pem\n".encode(),
    }


def test_default_certificate_is_first_in_the_list() -> None:
    sni = [container("MAEA", id="a"), container("MAEB", id="b")]
    body = balancer(https(default_tls_container_data=container(), sni_container_data=sni))
    lines = files(body).files["l.pem"].decode().splitlines()
    assert lines[0] == f"{CURRENT}/l.default.pem"
    assert len(lines) == len(set(lines)) == 3
    assert {line.removeprefix(f"{CURRENT}/") for line in lines} < files(body).files.keys()


def test_listener_needs_no_default_certificate() -> None:
    body = balancer(https(sni_container_data=[container(id="a")]))
    (line,) = files(body).files["l.pem"].decode().splitlines()
    assert line.startswith(f"{CURRENT}/l.sni-")
    assert files(body).problems == ()


def test_known_key_may_be_left_out() -> None:
    before = files(balancer(https(default_tls_container_data=container()))).files
    body = balancer(https(default_tls_container_data=container(private_key=None)))
    assert files(body, before=before).files == before
    (problem,) = files(body).problems
    assert problem.path == "listeners[0].default_tls_container_data.private_key"


def test_known_key_is_of_one_certificate_only() -> None:
    before = files(balancer(https(default_tls_container_data=container()))).files
    other = balancer(https(default_tls_container_data=container("MAEA", private_key=None)))
    assert files(other, before=before).problems


def test_reference_finds_the_stored_certificate() -> None:
    ref = "https://barbican/v1/containers/6a5d"
    body = balancer(https(default_tls_container_ref=ref))
    assert files(body, stored={"6a5d": b"PEM"}).files["l.default.pem"] == b"PEM"
    (problem,) = files(body).problems
    assert problem.path == "listeners[0].default_tls_container_ref"


def test_prometheus_listener_has_certificates() -> None:
    body = balancer(listener("PROMETHEUS", "l", default_tls_container_data=container()))
    assert files(body).files.keys() == {"l.default.pem", "l.pem"}


def test_objects_never_share_a_file() -> None:
    """Whatever they are called."""
    body = balancer(
        https(default_tls_container_data=container("MAEA")),
        listener("TERMINATED_HTTPS", "l-default", protocol_port=81)
        | {"default_tls_container_data": container("MAEB")},
        pools=(pool(name="l", tls_enabled=True, ca_tls_container_data=_CA),),
    )
    assert files(body).files.keys() == {
        "l.default.pem", "l.pem", "l-default.default.pem", "l-default.pem", "l.ca.pem",
    }  # fmt: skip


def all_of_them() -> dict[str, Any]:
    a_pool = pool(
        members=[member()],
        tls_enabled=True,
        tls_container_data=container(),
        ca_tls_container_data=_CA,
        crl_container_data=_CA,
    )
    return balancer(
        https(
            default_pool=a_pool,
            default_tls_container_data=container(),
            sni_container_data=[container(id="a")],
            client_ca_tls_container_data=_CA,
            client_crl_container_data=_CA,
            client_authentication="MANDATORY",
        ),
        pools=(a_pool,),
    )


def test_every_file_named_in_a_configuration_is_extracted() -> None:
    made = files(all_of_them())
    assert made.problems == ()
    texts = rendered.render(rendered.translate_whole(decoded(all_of_them())), PLACES)
    named = {
        word.removeprefix(f"{CURRENT}/")
        for text in texts.values()
        for section in parse_config(text).sections
        for directive in section.directives
        for word in directive.words
        if word.endswith(".pem")
    }
    listed = {line.removeprefix(f"{CURRENT}/") for line in made.files["l.pem"].decode().split()}
    assert made.files.keys() == named | listed


def test_keys_are_not_given_back() -> None:
    given = all_of_them()
    given["additional_vips"] = [{"ip_address": "192.0.2.9", "load_balancer": {"secret": KEY}}]
    assert b"PRIVATE KEY" in encode(decoded(given))
    assert b"PRIVATE KEY" not in encode(without_keys(decoded(given)))


@pytest.mark.parametrize("ref", ["", "/", "https://barbican/"])
def test_empty_reference_is_refused(ref: str) -> None:
    body = balancer(https(sni_container_refs=[ref], default_tls_container_data=container()))
    assert files(body).problems
