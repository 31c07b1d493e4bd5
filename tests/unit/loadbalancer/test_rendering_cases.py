"""Single features as they are rendered, where chance would seldom come by."""

from __future__ import annotations

from typing import Any

import pytest

from amphora_agent.loadbalancer import render
from lab import rendered
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
from tests.builders.places import PLACES
from tests.properties.loadbalancer.test_render import configuration


def text(name: str, *listeners: dict[str, Any], pools: Any = ()) -> str:
    return configuration(decoded(balancer(*listeners, pools=pools)))[name]


@pytest.mark.parametrize(
    ("action", "line"),
    [
        ({"redirect_url": "http://a/%20b"}, "redirect location 'http://a/%20b' if "),
        ({"redirect_prefix": "http://a/%20b"}, "redirect prefix 'http://a/%20b' if "),
    ],
)
def test_redirect_keeps_percent_signs(action: dict[str, str], line: str) -> None:
    """Percent signs and all: that of `redirect` is no log-format."""
    kind = "REDIRECT_TO_URL" if "redirect_url" in action else "REDIRECT_PREFIX"
    assert line in text("listener-listener.cfg", listener(l7policies=[policy(kind, **action)]))


def test_inverted_rule_negates_its_acl() -> None:
    rules = [rule(l7rule_id="a"), rule(l7rule_id="b", invert=True)]
    found = text("listener-listener.cfg", listener(l7policies=[policy("REJECT", *rules)]))
    assert "http-request deny if rule-a !rule-b\n" in found


def test_quotes_are_no_part_of_a_value() -> None:
    quoted = rule("HEADER", "EQUAL_TO", '"two words"', key="X-A")
    found = text("listener-listener.cfg", listener(l7policies=[policy("REJECT", quoted)]))
    assert "req.hdr(X-A)' -m str -- 'two words'\n" in found


def test_host_of_a_check_is_no_log_format() -> None:
    checked = pool(healthmonitor=monitor(domain_name="www.example.org"), members=[member()])
    found = text("pool-pool.cfg", listener(default_pool_id="pool"), pools=(checked,))
    assert "ver HTTP/1.0 hdr Host www.example.org\n" in found


def shared(**more: Any) -> str:
    """The file of a pool that an HTTP and a TCP listener have."""
    one = listener("HTTP", "one", default_pool_id="pool")
    two = listener("TCP", "two", protocol_port=81, default_pool_id="pool")
    members = [member(monitor_port=99, backup=True)]
    return text("pool-pool.cfg", one, two, pools=(pool("PROXY", **{"members": members} | more),))


def test_second_backend_of_a_pool_tracks_the_first() -> None:
    first, other = shared(healthmonitor=monitor()).split("backend pool:two")
    assert "weight 1 check inter 5s fall 3 rise 2 port 99 send-proxy backup\n" in first
    assert "weight 1 track pool/member send-proxy backup\n" in other
    assert "httpchk" not in other
    assert "load-server-state" not in other


def test_pool_without_monitor_tracks_nothing() -> None:
    assert "track" not in shared()
    assert "check" not in shared()


def test_cookie_persistence_needs_http() -> None:
    first, other = shared(session_persistence={"type": "HTTP_COOKIE"}).split("backend pool:two")
    assert "cookie SRV" in first
    assert "cookie" not in other


@pytest.mark.parametrize(
    ("protocol", "more", "sent"),
    [
        ("HTTP", {}, "send-proxy-v2"),
        ("TERMINATED_HTTPS", {"default_tls_container_ref": "x"}, "send-proxy-v2-ssl-cn"),
    ],
)
def test_proxy_protocol_tells_members_of_tls(
    protocol: str, more: dict[str, str], sent: str
) -> None:
    a_listener = listener(protocol, default_pool_id="pool") | more
    found = text("pool-pool.cfg", a_listener, pools=(pool("PROXYV2", members=[member()]),))
    assert found.endswith(f" weight 1 {sent}\n")


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        ("TCP", " check inter"),
        ("HTTP", " check inter"),
        ("HTTPS", " check check-ssl verify none inter"),
        ("TLS-HELLO", " check check-ssl verify none inter"),
        ("PING", " check inter"),
    ],
)
def test_monitor_becomes_its_check(type_: str, words: str) -> None:
    checked = pool(healthmonitor=monitor(type_), members=[member()])
    found = text("pool-pool.cfg", listener(default_pool_id="pool"), pools=(checked,))
    assert words in found
    assert ("option httpchk" in found) == type_.startswith("HTTP")
    assert ("option external-check" in found) == (type_ == "PING")


def test_checks_verify_certificates_as_traffic_does() -> None:
    checked = pool(
        healthmonitor=monitor("HTTPS"),
        members=[member()],
        tls_enabled=True,
        ca_tls_container_ref="x",
    )
    found = text("pool-pool.cfg", listener(default_pool_id="pool"), pools=(checked,))
    assert "verify required\n" in found
    assert "verify none" not in found


def test_check_address_has_brackets() -> None:
    members = [member(monitor_address="2001:db8::1")]
    checked = pool(healthmonitor=monitor("TCP"), members=members)
    found = text("pool-pool.cfg", listener(default_pool_id="pool"), pools=(checked,))
    assert " addr '[2001:db8::1]'\n" in found


def test_disabled_udp_member_is_named_in_a_comment() -> None:
    udp = pool("UDP", members=[member("on"), member("off", admin_state_up=False)])
    made = decoded(balancer(listener("UDP", default_pool_id="pool"), pools=(udp,)))
    (virtual,) = rendered.translate_layer4(made)
    found = render.render_layer4(virtual, PLACES).made()
    assert "# Member off is disabled\n" in found
    assert found.count("real_server") == 1


def test_load_balancer_that_is_down_has_no_listeners() -> None:
    made = decoded(balancer(listener(), listener("UDP", "udp"), admin_state_up=False))
    assert list(configuration(made)) == ["haproxy.cfg"]
    assert list(rendered.translate_layer4(made)) == []
