"""What several fields of a load balancer must be together: each rule, broken once."""

from typing import Any

import pytest

from amphora_agent.model import validation
from amphora_agent.model.resolved import merge_pools
from tests.builders.bodies import (
    balancer,
    decoded,
    listener,
    member,
    monitor,
    policy,
    pool,
    rule,
)

_PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
_CONTAINER = {"certificate": _PEM, "private_key": _PEM}


def _problems(body: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in validation.find_problems(decoded(body))]


def _with_rule(**more: Any) -> dict[str, Any]:
    return balancer(listener(l7policies=[policy("REJECT", rule(**more))]))


def _with_monitor(protocol: str = "HTTP", **more: Any) -> dict[str, Any]:
    return balancer(pools=(pool(protocol, healthmonitor=monitor(**more)),))


_RULE = "listeners[0].l7policies[0].rules[0]"
_POLICY = "listeners[0].l7policies[0]"
_MONITOR = "pools[0].healthmonitor"

_BROKEN: list[tuple[dict[str, Any], str]] = [
    # names and ports
    (balancer(listener(), listener(protocol_port=81)), "listeners[1].listener_id: listener is"),
    (balancer(listener(), listener(name="b")), "listeners[1].protocol_port: 80 is the TCP port"),
    (balancer(pools=(pool(), pool())), "pools[1].pool_id: pool is there twice"),
    (
        balancer(pools=(pool(members=[member(), member()]),)),
        "pools[0].members[1].member_id: member is there twice",
    ),
    (
        balancer(
            listener(default_pool=pool(members=[member(weight=2)])),
            listener(name="b", protocol_port=81, default_pool=pool(members=[member(weight=1)])),
        ),
        "listeners[1].default_pool.members[0].weight: pool pool is described differently elsewhere",
    ),
    (
        balancer(
            listener(default_pool=pool(members=[member()])),
            listener(name="b", protocol_port=81, default_pool=pool(members=[])),
        ),
        "listeners[1].default_pool.members: pool pool is described differently elsewhere",
    ),
    (
        balancer(pools=(pool(name="prometheus-exporter-internal"),)),
        "pools[0].pool_id: names that begin with prometheus-exporter-internal are the agent's own",
    ),
    (balancer(vip_address="0.0.0.0"), "vip_address: 0.0.0.0 is not the address of a host"),
    (
        balancer(additional_vips=[{"ip_address": "::"}]),
        "additional_vips[0].ip_address: :: is not the address of a host",
    ),
    # what uses what
    (balancer(listener(default_pool_id="no")), "listeners[0].default_pool_id: there is no pool no"),
    (
        balancer(listener("HTTPS", default_pool_id="pool"), pools=(pool(),)),
        "listeners[0].default_pool_id: a HTTPS listener cannot use a HTTP pool; allowed: HTTPS,",
    ),
    (balancer(listener("TCP", l7policies=[policy()])), "listeners[0].l7policies: a TCP listener"),
    (
        balancer(listener("TCP", insert_headers={"X-Real-IP": "true"})),
        "listeners[0].insert_headers: a TCP listener adds none",
    ),
    (
        balancer(listener(insert_headers={"X-SSL-Issuer": "true"})),
        "listeners[0].insert_headers.X-SSL-Issuer: only a TERMINATED_HTTPS listener",
    ),
    # policies
    (
        balancer(listener(l7policies=[policy("REDIRECT_TO_URL")])),
        f"{_POLICY}.redirect_url: REDIRECT_TO_URL needs it",
    ),
    (
        balancer(listener(l7policies=[policy("REJECT", redirect_url="http://a.example")])),
        f"{_POLICY}.redirect_url: REJECT does not use it",
    ),
    (
        balancer(listener(l7policies=[policy("REDIRECT_TO_POOL", redirect_pool_id="no")])),
        f"{_POLICY}.redirect_pool_id: there is no pool no",
    ),
    (
        balancer(
            listener(
                l7policies=[
                    policy(
                        "REDIRECT_TO_URL",
                        redirect_url="http://a.example",
                        redirect_http_code=304,
                    )
                ]
            )
        ),
        f"{_POLICY}.redirect_http_code: 304 is not one of 301, 302, 303, 307, 308",
    ),
    (
        balancer(
            listener(l7policies=[policy("REJECT", *[rule(l7rule_id=f"r{i}") for i in range(51)])])
        ),
        f"{_POLICY}.rules: are more than 50",
    ),
    # rules
    (
        _with_rule(type_="FILE_TYPE", compare="CONTAINS"),
        f"{_RULE}.compare_type: FILE_TYPE cannot be compared by CONTAINS; allowed: EQUAL_TO, REGEX",
    ),
    (_with_rule(type_="HEADER"), f"{_RULE}.key: HEADER needs it"),
    (_with_rule(key="X"), f"{_RULE}.key: PATH does not use it"),
    (_with_rule(type_="SSL_DN_FIELD", key="1"), f"{_RULE}.key: '1' is no field"),
    (
        _with_rule(type_="SSL_CONN_HAS_CERT", compare="EQUAL_TO", value="no"),
        f"{_RULE}.value: 'no' is not True",
    ),
    (
        _with_rule(type_="SSL_VERIFY_RESULT", compare="EQUAL_TO", value="x"),
        f"{_RULE}.value: 'x' is not a result",
    ),
    (_with_rule(compare="REGEX", value="(a"), f"{_RULE}.value: not a regular expression"),
    (_with_rule(compare="REGEX", value=r"(?<=a)b"), f"{_RULE}.value: only groups"),
    (_with_rule(compare="REGEX", value=r"(a)\1"), f"{_RULE}.value: only groups"),
    (_with_rule(compare="REGEX", value="a++"), f"{_RULE}.value: possessive"),
    *(
        (_with_rule(compare="REGEX", value=value), f"{_RULE}.value: possessive")
        for value in ("a{9999}", "a{,3}", "[[:alpha:]]", "[a[:alpha:]]", "[]a]", "[a&&b]", "(?!)b")
    ),
    (_with_rule(compare="REGEX", value="(ab{9}){999}"), f"{_RULE}.value: its groups are repeated"),
    (_with_rule(compare="EQUAL_TO", value='""'), f"{_RULE}.value: there is nothing in the quotes"),
    # TLS
    (balancer(listener("TERMINATED_HTTPS")), "listeners[0].default_tls_container_data: TERMINATED"),
    (
        balancer(listener(default_tls_container_data=_CONTAINER)),
        "listeners[0].default_tls_container_data: a HTTP listener does not use it",
    ),
    (
        balancer(
            listener(
                "TERMINATED_HTTPS",
                default_tls_container_data=_CONTAINER,
                client_authentication="MANDATORY",
            )
        ),
        "listeners[0].client_ca_tls_container_data: MANDATORY client_authentication needs it",
    ),
    (
        balancer(
            listener(
                "TERMINATED_HTTPS",
                default_tls_container_data=_CONTAINER,
                client_crl_container_data=_PEM,
            )
        ),
        "listeners[0].client_crl_container_data: a CRL needs a client CA",
    ),
    (
        balancer(
            listener(
                "TERMINATED_HTTPS",
                default_tls_container_data=_CONTAINER,
                tls_ciphers="TLS_NO_SUCH_SUITE",
            )
        ),
        "listeners[0].tls_ciphers: TLS_NO_SUCH_SUITE is no suite of TLS 1.3; allowed: TLS_AES_128",
    ),
    (
        balancer(
            listener(
                "TERMINATED_HTTPS",
                default_tls_container_data=_CONTAINER,
                tls_ciphers="NO-SUCH-CIPHER",
            )
        ),
        "listeners[0].tls_ciphers: OpenSSL knows none of these",
    ),
    (balancer(pools=(pool("UDP", tls_enabled=True),)), "pools[0].tls_enabled: a UDP pool speaks"),
    (
        balancer(pools=(pool(tls_enabled=True, tls_versions=[]),)),
        "pools[0].tls_versions: is empty",
    ),
    (
        balancer(pools=(pool(tls_enabled=True, tls_versions=["SSLv3"]),)),
        "pools[0].tls_versions: nothing but SSLv3, which haproxy does not speak",
    ),
    (
        balancer(
            listener(
                "TERMINATED_HTTPS",
                default_tls_container_data=_CONTAINER,
                tls_versions=["TLSv1.1", "TLSv1"],
            )
        ),
        "listeners[0].tls_versions: nothing but TLSv1, TLSv1.1, which haproxy does not speak",
    ),
    (balancer(pools=(pool(crl_container_data=_PEM),)), "pools[0].crl_container_data: a CRL needs"),
    # members and monitors
    (
        balancer(pools=(pool(members=[member(address="224.0.0.1")]),)),
        "pools[0].members[0].address: 224.0.0.1 is not the address of a host",
    ),
    (
        balancer(
            pools=(pool("UDP", members=[member(address="fe80::1")], healthmonitor=monitor("TCP")),)
        ),
        "pools[0].members[0].address: TCP of a UDP pool cannot check fe80::1, a link's own",
    ),
    (
        balancer(
            pools=(
                pool(
                    "SCTP",
                    members=[member(monitor_address="fe80::1")],
                    healthmonitor=monitor("HTTP"),
                ),
            )
        ),
        "pools[0].members[0].monitor_address: HTTP of a SCTP pool cannot check fe80::1",
    ),
    (_with_monitor(type_="UDP-CONNECT"), f"{_MONITOR}.type: a HTTP pool cannot have UDP-CONNECT"),
    (_with_monitor("UDP", type_="PING"), f"{_MONITOR}.type: a UDP pool cannot have PING"),
    (_with_monitor(http_version=1.05), f"{_MONITOR}.http_version: 1.05 is not one of 1.0, 1.1"),
    (_with_monitor("UDP", http_method="PUT"), f"{_MONITOR}.http_method: PUT is not GET"),
    (_with_monitor("UDP", url_path="/$a"), f"{_MONITOR}.url_path: a UDP pool's cannot have $"),
    # persistence
    (
        balancer(pools=(pool("UDP", session_persistence={"type": "HTTP_COOKIE"}),)),
        "pools[0].session_persistence.type: a UDP pool cannot have HTTP_COOKIE; allowed: SOURCE_IP",
    ),
    (
        balancer(
            pools=(
                pool(
                    "UDP",
                    session_persistence={
                        "type": "SOURCE_IP",
                        "persistence_granularity": "255.0.255.0",
                    },
                ),
            )
        ),
        "pools[0].session_persistence.persistence_granularity: 255.0.255.0 is no mask",
    ),
    (
        balancer(pools=(pool(session_persistence={"type": "APP_COOKIE"}),)),
        "pools[0].session_persistence.cookie_name: APP_COOKIE needs it",
    ),
    (
        balancer(pools=(pool(session_persistence={"type": "SOURCE_IP", "cookie_name": "a"}),)),
        "pools[0].session_persistence.cookie_name: SOURCE_IP does not use it",
    ),
    (
        balancer(
            pools=(pool(session_persistence={"type": "SOURCE_IP", "persistence_timeout": 1}),)
        ),
        "pools[0].session_persistence.persistence_timeout: a HTTP pool does not use it",
    ),
]


@pytest.mark.parametrize(("body", "problem"), _BROKEN, ids=[words for _, words in _BROKEN])
def test_broken_rule_is_reported_with_its_place(body: dict[str, Any], problem: str) -> None:
    assert [words for words in _problems(body) if words.startswith(problem)]


@pytest.mark.parametrize(
    "body",
    [
        balancer(),
        balancer(listener("TCP"), listener("UDP", "udp"), listener("SCTP", "sctp")),
        balancer(listener(default_pool_id="pool"), pools=(pool(members=[member()]),)),
        balancer(listener(default_pool=pool(), default_pool_id="pool"), pools=(pool(),)),
        _with_rule(compare="REGEX", value=r"^/a(?:b|c)\.\d+$"),
        _with_rule(type_="SSL_CONN_HAS_CERT", compare="EQUAL_TO", value="True"),
        _with_rule(compare="REGEX", value=r"(?i)^/(?!a)[^a-z]{2,}?\x41\t$"),
        _with_rule(compare="EQUAL_TO", value='"two words"'),
        _with_monitor(http_version=1.1, domain_name="www.example.org"),
        # what Octavia sends beside what is used
        balancer(listener(tls_ciphers="AES", client_authentication="NONE", alpn_protocols=["h2"])),
        balancer(listener("TCP", insert_headers={"X-Real-IP": "false"})),
        balancer(listener(l7policies=[policy("REJECT", redirect_http_code=302)])),
        balancer(listener("TERMINATED_HTTPS", sni_container_refs=["a"])),
        balancer(listener("PROMETHEUS", default_tls_container_data=_CONTAINER)),
        balancer(pools=(pool("TCP", session_persistence={"type": "HTTP_COOKIE"}),)),
        _with_monitor(timeout=6),
        _with_monitor(type_="TCP", url_path="/"),
    ],
)
def test_valid_load_balancer_has_no_problem(body: dict[str, Any]) -> None:
    assert _problems(body) == []


def test_all_problems_are_reported_at_once() -> None:
    body = balancer(listener("TCP", default_pool_id="no", l7policies=[policy()]))
    assert len(_problems(body)) == 2


def test_forms_of_a_pool_are_merged() -> None:
    whole = pool(
        members=[member("a"), member("b", weight=5)], healthmonitor=monitor(), description="long"
    )
    bare = pool(members=[member("b"), member("a", subnet_id="s")], description="short")
    made = decoded(
        balancer(
            listener(
                default_pool=whole, l7policies=[policy("REDIRECT_TO_POOL", redirect_pool=pool())]
            ),
            listener(name="b", protocol_port=81, default_pool=bare),
        )
    )
    assert list(validation.find_problems(made)) == []
    (found,) = merge_pools(made).pools.values()
    assert found.healthmonitor is not None
    assert [(each.member_id, each.weight) for each in found.members or ()] == [
        ("a", None),
        ("b", 5),
    ]
    assert (found.members or ())[0].subnet_id == "s"
