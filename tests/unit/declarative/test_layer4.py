"""UDP and SCTP listeners as keepalived's text: what is read from it is what the model says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from amphora_agent.declarative import layer4, rendering
from amphora_agent.keepalived.lvs_text import Endpoint, Member, parse
from amphora_agent.model import consistency, loadbalancer, meaning
from amphora_agent.model.loadbalancer import LoadBalancer
from tests.unit.declarative.balancers import balancer, decoded, listener, member, monitor, pool
from tests.unit.declarative.places import BASE, PLACES
from tests.unit.declarative.strategies import balancers
from tests.unit.declarative.test_rendering import is_up


def rendered(made: LoadBalancer) -> dict[str, str]:
    return {each.id: rendering.render_layer4(each, PLACES) for each in layer4.each(made)}


def text(protocol: str = "UDP", *, vips: tuple[str, ...] = (), **of_pool: Any) -> str:
    """Of one listener with a pool of two members."""
    members = [member("one"), member("two", monitor_address="203.0.113.9", monitor_port=99)]
    made = decoded(
        balancer(
            listener(protocol, "l", default_pool_id="pool", connection_limit=7),
            pools=(pool(protocol, members=members, **of_pool),),
            additional_vips=[{"ip_address": vip} for vip in vips],
        )
    )
    assert list(consistency.problems(made)) == []
    return rendered(made)["l"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(balancers())
def test_any_of_them_is_read_back(made: LoadBalancer) -> None:
    texts = rendered(made)
    wanted = {
        each.listener_id: each
        for each in made.listeners or ()
        if each.protocol in ("UDP", "SCTP") and is_up(each) and is_up(made)
    }
    assert texts.keys() == wanted.keys()
    pools = meaning.pools(made)
    vips = {made.vip_address, *(vip.ip_address for vip in made.additional_vips or ())}
    for name, a_listener in wanted.items():
        read = parse(texts[name], BASE)
        assert read.enabled
        a_pool = pools.get(a_listener.default_pool_id or "")
        if a_pool is None:
            assert (read.pool, read.virtuals) == (None, ())
            continue
        assert read.pool == (a_pool.pool_id if is_up(a_pool) else None)
        assert {each.protocol for each in read.virtuals} == {a_listener.protocol.value}
        assert {end for each in read.virtuals for end in each.endpoints} == {
            Endpoint(str(vip), a_listener.protocol_port) for vip in vips
        }
        members = a_pool.members or () if is_up(a_pool) else ()
        reached = [each for each in members if each.address.version in {v.version for v in vips}]
        assert set(read.members) == {expected(each, a_pool) for each in reached}


def expected(of: loadbalancer.Member, a_pool: loadbalancer.Pool) -> Member:
    if not is_up(of):
        return Member(of.member_id, None)
    checks = a_pool.healthmonitor
    endpoint = Endpoint(str(of.address), of.protocol_port)
    return Member(of.member_id, endpoint, checks is not None and is_up(checks))


@pytest.mark.parametrize(
    ("type_", "lines"),
    [
        (
            "UDP-CONNECT",
            [
                f'misc_path "{BASE}/lvs/check/udp_check.sh 198.51.100.1 8080"',
                f'misc_path "{BASE}/lvs/check/udp_check.sh 203.0.113.9 99"',
                "misc_timeout 3",
            ],
        ),
        (
            "SCTP",
            [
                'misc_path "amphora-health-checker sctp -t 3 203.0.113.9 99"',
                "misc_timeout 4",
            ],
        ),
        ("TCP", ["TCP_CHECK {", "connect_ip 203.0.113.9", "connect_port 99", "connect_timeout 3"]),
        ("HTTP", ["HTTP_GET {", 'path "/"', "status_code 200", "connect_ip 203.0.113.9"]),
    ],
)
@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_each_monitor(protocol: str, type_: str, lines: list[str]) -> None:
    found = [line.strip() for line in text(protocol, healthmonitor=monitor(type_)).splitlines()]
    for line in [*lines, "delay_loop 5", "delay_before_retry 5", "retry 3"]:
        assert line in found


def test_any_of_several_codes_will_do() -> None:
    """One request, whatever it is answered: keepalived wants all of several requests to pass."""
    found = text(healthmonitor=monitor(expected_codes="200,202", domain_name="www.example.org"))
    assert found.count("url {") == 2  # one for each member
    assert "status_code 200 202\n" in found
    assert "virtualhost www.example.org\n" in found


@pytest.mark.parametrize(
    ("algorithm", "lines"),
    [
        ("ROUND_ROBIN", "lb_algo wrr\n    lb_kind"),
        ("LEAST_CONNECTIONS", "lb_algo lc\n    lb_kind"),
        ("SOURCE_IP", "lb_algo sh\n    lb_kind"),
        ("SOURCE_IP_PORT", "lb_algo sh\n    sh-port\n    lb_kind"),
    ],
)
def test_each_algorithm(algorithm: str, lines: str) -> None:
    assert lines in text(lb_algorithm=algorithm)


@pytest.mark.parametrize(
    ("mask", "four", "six"),
    [
        (None, "255.255.255.255", "128"),
        ("255.255.255.0", "255.255.255.0", "128"),
        ("ffff:ffff::", "255.255.255.255", "32"),
    ],
)
def test_a_client_is_as_much_of_an_address_as_is_said(
    mask: str | None, four: str, six: str
) -> None:
    kept = {"type": "SOURCE_IP", "persistence_timeout": 10, "persistence_granularity": mask}
    found = text(session_persistence=kept, vips=("2001:db8::5",))
    first, second = found.split("virtual_server group ipv6-group")
    assert f"persistence_timeout 10\n    persistence_granularity {four}\n" in first
    assert f"persistence_timeout 10\n    persistence_granularity {six}\n" in second


def test_without_persistence_there_is_none() -> None:
    assert "persistence" not in text()


def test_a_limit_is_for_each_member() -> None:
    assert text().count("uthreshold 7\n") == 2
