"""No string of a model says more in a configuration than one word.

The strings are found in the types: a field that is new is tried, too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import inspect

from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy.config.parser import parse_config
from amphora_agent.loadbalancer import render
from amphora_agent.model import validation
from amphora_agent.model.loadbalancer import LoadBalancer
from lab import rendered
from tests.builders.bodies import Body, decoded, member, monitor, policy, pool, rule
from tests.builders.loadbalancers import PEM
from tests.builders.places import PLACES

HOSTILE = [
    "\n", "\r", "\r\n", "\0", "\t", "\v", "\f", "\x1c", "\x7f", "\x85", "\u2028", "\u2029", "'",
    '"', "%", "%[env(HOME)]", "%%", "\\", "\\n", "\\\n", " ", "#", "$HOME", "${HOME}", "`", "{",
    "}", "!", ")", ",", ";", "é", "\ud7ff", " if TRUE", "\n    bind :1\n", "' if TRUE '",
]  # fmt: skip

#: Where in a body.
Path = tuple[str | int, ...]

_CONTAINER = {
    "id": "x",
    "primary_cn": "x",
    "certificate": PEM,
    "private_key": PEM,
    "intermediates": [PEM],
}
_ABOUT = {"name": "x", "description": "x", "project_id": "x"}


def body() -> Body:
    """A load balancer with every field that is a string."""
    checks = monitor(
        "HTTP",
        http_version=1.1,
        http_method="GET",
        url_path="/x",
        domain_name="x",
        expected_codes="200",
        name="x",
        pool_id="pool",
        project_id="x",
    )
    a_member = member(
        monitor_address="192.0.2.7", subnet_id="x", vnic_type="x", pool_id="x", project_id="x"
    ) | {"name": "x"}
    tls: Body = {"tls_versions": ["TLSv1.2"], "tls_ciphers": "HIGH", "alpn_protocols": ["h2"]}
    a_pool = (
        pool(
            members=[a_member],
            healthmonitor=checks,
            session_persistence={"type": "APP_COOKIE", "cookie_name": "x"},
            listener_id="x",
            loadbalancer_id="x",
            tls_enabled=True,
            tls_container_ref="x",
            tls_container_data=_CONTAINER,
            ca_tls_container_ref="x",
            ca_tls_container_data=PEM,
            crl_container_ref="x",
            crl_container_data=PEM,
            **tls,
        )
        | _ABOUT
    )
    rules = [
        rule("HEADER", value="/x", key="x", l7policy_id="x", project_id="x"),
        rule("PATH", "REGEX", "x", l7rule_id="regex"),
        rule("COOKIE", "EQUAL_TO", "x", l7rule_id="cookie", key="x"),
    ]
    policies = [
        policy("REDIRECT_TO_POOL", *rules, redirect_pool_id="pool", redirect_pool=a_pool)
        | {**_ABOUT, "listener_id": "x"},
        policy(
            "REDIRECT_TO_URL", rule(l7rule_id="url"), name="url", redirect_url="http://x.example/x"
        ),
        policy(
            "REDIRECT_PREFIX",
            rule(l7rule_id="prefix"),
            name="prefix",
            redirect_prefix="http://x.example",
        ),
    ]
    https = {
        "listener_id": "https",
        "protocol": "TERMINATED_HTTPS",
        "protocol_port": 443,
        "default_pool_id": "pool",
        "default_pool": a_pool,
        "l7policies": policies,
        "insert_headers": {"X-Forwarded-For": "true"},
        "allowed_cidrs": ["10.0.0.0/8"],
        "default_tls_container_ref": "x",
        "default_tls_container_data": _CONTAINER,
        "sni_container_refs": ["x"],
        "sni_container_data": [_CONTAINER],
        "client_authentication": "MANDATORY",
        "client_ca_tls_container_ref": "x",
        "client_ca_tls_container_data": PEM,
        "client_crl_container_ref": "x",
        "client_crl_container_data": PEM,
        "loadbalancer_id": "x",
        **_ABOUT,
        **tls,
    }
    udp_pool = pool(
        "UDP",
        "udp-pool",
        members=[member(monitor_address="192.0.2.8")],
        healthmonitor=checks | {"healthmonitor_id": "udp-monitor"},
        session_persistence={
            "type": "SOURCE_IP",
            "persistence_granularity": "255.255.255.0",
        },
    )
    udp = {
        "listener_id": "udp",
        "protocol": "UDP",
        "protocol_port": 53,
        "default_pool_id": "udp-pool",
    }
    return {
        "loadbalancer_id": "lb",
        "vip_address": "192.0.2.10",
        "additional_vips": [
            {
                "ip_address": "2001:db8::1",
                "load_balancer_id": "x",
                "network_id": "x",
                "port_id": "x",
                "subnet_id": "x",
            }
        ],
        "listeners": [https, udp],
        "pools": [a_pool, udp_pool],
        "availability_zone": "x",
        "flavor": "x",
        "vip_network_id": "x",
        "vip_port_id": "x",
        "vip_qos_policy_id": "x",
        "vip_sg_ids": ["x"],
        "vip_subnet_id": "x",
        **_ABOUT,
    }


def strings(found: Any, path: Path = ()) -> Iterator[Path]:
    """Where in a body strings are."""
    if isinstance(found, str):
        yield path
    for key, inner in found.items() if isinstance(found, dict) else ():
        yield from strings(inner, (*path, key))
    for index, inner in enumerate(found) if isinstance(found, list) else ():
        yield from strings(inner, (*path, index))


def fields(kind: inspect.Type, seen: set[type]) -> Iterator[tuple[str, str]]:
    """Every field of the types that may be a string, with the type that it is in."""
    for inner in _inside(kind):
        if isinstance(inner, inspect.StructType):
            if inner.cls in seen:
                continue
            seen.add(inner.cls)
            for field in inner.fields:
                if any(map(_is_a_string, _inside(field.type))):
                    yield inner.cls.__name__, field.encode_name
                yield from fields(field.type, seen)


def _inside(kind: inspect.Type) -> Iterator[inspect.Type]:
    """What a value may be, itself or in a list or dictionary."""
    for name in ("types", "item_type", "key_type", "value_type", "type"):
        inner = getattr(kind, name, None)
        for each in inner if isinstance(inner, tuple) else (inner,):
            if isinstance(each, inspect.Type):
                yield from _inside(each)
    yield kind


def _is_a_string(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.StrType | inspect.EnumType | inspect.CustomType)


def test_every_field_that_is_a_string_is_tried() -> None:
    tried = {path[-1] if isinstance(path[-1], str) else path[-2] for path in strings(body())}
    tried |= {"insert_headers"}
    known = {name for _, name in fields(inspect.type_info(LoadBalancer), set())}
    # Octavia's own: of any type, and never looked at.
    assert known - tried == {"load_balancer"}


def _at(made: Body, path: Path) -> Any:
    for step in path:
        made = made[step]  # type: ignore[index]
    return made


def with_string(path: Path, value: str) -> Body:
    made = copy.deepcopy(BODY)
    _at(made, path[:-1])[path[-1]] = value
    # The same pool would be there several times, and the others say something else.
    made["listeners"][0].pop("default_pool")
    made["listeners"][0]["l7policies"][0].pop("redirect_pool")
    return made


def texts(made: LoadBalancer) -> list[str]:
    files = rendered.render(rendered.translate_whole(made), PLACES)
    more = [render.render_layer4(each, PLACES).made() for each in rendered.translate_layer4(made)]
    return [text for name, text in sorted(files.items()) if name.endswith(".cfg")] + more


def words(found: list[str]) -> list[list[tuple[str, ...]]]:
    return [
        [
            directive.words
            for section in parse_config(text).sections
            for directive in section.directives
        ]
        for text in found
    ]


BODY = body()
#: Pools are looked at where they are on their own.
PATHS = [path for path in strings(BODY) if not {"redirect_pool", "default_pool"} & set(path)]
HARMLESS = texts(decoded(BODY))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_string_is_refused_or_one_word(path: Path) -> None:
    before = _at(BODY, path)
    for piece in HOSTILE:
        for value in (before[:1] + piece + before[1:], piece):
            try:
                made = decoded(with_string(path, value))
            except InvalidRequest:
                continue
            if list(validation.find_problems(made)):
                continue
            written = texts(made)
            if written == HARMLESS:
                continue
            harmless, found = words(HARMLESS), words(written)
            assert [len(lines) for lines in found] == [len(lines) for lines in harmless], value
            differing = [
                (old, new)
                for old_lines, new_lines in zip(harmless, found, strict=True)
                for old_words, new_words in zip(old_lines, new_lines, strict=True)
                for old, new in zip(old_words, new_words, strict=True)
                if old != new
            ]
            for old, new in differing:
                if (old, new) == ("req.hdr(x)", "req.fhdr(x)") and "," in value:
                    continue  # a value with a comma is looked for in the whole header
                assert value in new, (value, new)
                assert new.replace(value, before) == old, (value, new)


def test_text_for_people_is_in_no_configuration() -> None:
    made = body()
    for path in strings(made):
        if path[-1] in ("name", "description"):
            _at(made, path[:-1])[path[-1]] = "FOR-PEOPLE"
    made["listeners"][0].pop("default_pool")
    found = decoded(made)
    assert list(validation.find_problems(found)) == []
    assert not [text for text in texts(found) if "FOR-PEOPLE" in text]


def test_keys_are_in_no_configuration() -> None:
    assert not [text for text in texts(decoded(body())) if "BEGIN" in text]
