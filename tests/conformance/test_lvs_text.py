"""What the controller writes for UDP and SCTP listeners is what the agent reads."""

from __future__ import annotations

import uuid
from types import SimpleNamespace as Row
from typing import Any

import pytest

from amphora_agent.keepalived.config.lvs import Endpoint, ParsedListener, describe, rewrite

jinja_cfg = pytest.importorskip("octavia.common.jinja.lvs.jinja_cfg")

BASE = "/var/lib/octavia"
UDP_CHECK = f"{BASE}/lvs/check/udp_check.sh"
# The oldest releases write only the first for keepalived, and leave out the others.
MONITORS_OF_ALL = ["UDP-CONNECT"]
MONITORS = [*MONITORS_OF_ALL, "SCTP", "TCP", "HTTP", None]


def row(**values: Any) -> Row:
    return Row(id=str(uuid.uuid4()), provisioning_status="ACTIVE", enabled=True, **values)


def member(address: str, **values: Any) -> Row:
    made = row(ip_address=address, protocol_port=5300, weight=1, monitor_address=None)
    made.monitor_port = None
    vars(made).update(values)
    return made


def listener(*members: Row, monitor: str | None, more_vips: tuple[str, ...] = ()) -> Row:
    persistence = Row(type="SOURCE_IP", persistence_timeout=None, persistence_granularity=None)
    checked = row(type=monitor, delay=3, timeout=2, fall_threshold=3, rise_threshold=2)
    vars(checked).update(url_path="/{a}?b=c", http_method="GET", expected_codes="200-202")
    pool = row(protocol="UDP", lb_algorithm="ROUND_ROBIN", members=list(members))
    vars(pool).update(health_monitor=checked if monitor else None, session_persistence=persistence)
    balancer = row(vip=Row(ip_address="10.1.0.5"))
    balancer.additional_vips = [Row(ip_address=address) for address in more_vips]
    made = row(protocol_port=53, protocol="UDP", connection_limit=1000, default_pool=pool)
    made.load_balancer = balancer
    return made


def rendered(made: Row) -> str:
    text: str = jinja_cfg.LvsJinjaTemplater(base_amp_path=BASE).build_config(made)
    return text


def parse(text: str) -> ParsedListener:
    """The listener of a text that is allowed."""
    rewrite(text.encode(), UDP_CHECK)
    return describe(text.encode())


@pytest.mark.parametrize("monitor", MONITORS)
def test_members_are_known_by_their_ids(monitor: str | None) -> None:
    one, two = member("10.2.0.11"), member("10.2.0.12", weight=0)
    off = member("10.2.0.13", enabled=False)
    made = listener(one, two, off, monitor=monitor)
    text = rendered(made)
    checked = any(checker in text for checker in ("MISC_CHECK", "TCP_CHECK", "HTTP_GET"))
    assert checked or monitor not in MONITORS_OF_ALL
    found = parse(text)
    assert (found.enabled, found.pool) == (True, made.default_pool.id)
    assert [(each.id, each.endpoint, each.checked) for each in found.members] == [
        (one.id, Endpoint("10.2.0.11", 5300), checked),
        (two.id, Endpoint("10.2.0.12", 5300), checked),
        (off.id, None, False),
    ]
    assert [virtual.endpoints for virtual in found.virtuals] == [(Endpoint("10.1.0.5", 53),)]


def test_additional_vips_of_both_ip_versions() -> None:
    four, six = member("10.2.0.11"), member("2001:db8:2::11")
    made = listener(four, six, monitor="UDP-CONNECT", more_vips=("10.1.0.6", "2001:db8:1::5"))
    text = rendered(made)
    if "group" not in text:
        pytest.skip("this release has one VIP for a load balancer")
    assert [
        (virtual.endpoints, [each.id for each in virtual.members])
        for virtual in parse(text).virtuals
    ] == [
        ((Endpoint("10.1.0.5", 53), Endpoint("10.1.0.6", 53)), [four.id]),
        ((Endpoint("2001:db8:1::5", 53),), [six.id]),
    ]


def test_a_listener_that_is_disabled() -> None:
    made = listener(member("10.2.0.11"), monitor=None)
    made.enabled = False
    text = rendered(made)
    found = parse(text)
    # The oldest releases do not say so, and expect it in heartbeats.
    assert (found.enabled, found.virtuals) == ("is disabled" not in text, ())


def test_a_pool_that_is_disabled() -> None:
    made = listener(member("10.2.0.11"), monitor=None)
    made.default_pool.enabled = False
    found = parse(rendered(made))
    assert (found.enabled, found.pool, found.members) == (True, None, ())


def test_a_listener_without_a_pool() -> None:
    made = listener(monitor=None)
    made.default_pool = None
    found = parse(rendered(made))
    assert (found.enabled, found.pool, found.virtuals) == (True, None, ())
