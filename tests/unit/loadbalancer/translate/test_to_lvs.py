"""UDP and SCTP listeners as keepalived's text: what is read from it is what the model says."""

from __future__ import annotations

from typing import Any

import pytest

from amphora_agent.loadbalancer import render
from amphora_agent.model import validation
from amphora_agent.model.loadbalancer import LoadBalancer
from lab.rendered import translate_layer4
from tests.builders.bodies import balancer, decoded, listener, member, monitor, pool
from tests.builders.places import BASE, PLACES


def rendered(made: LoadBalancer) -> dict[str, str]:
    return {each.id: render.render_layer4(each, PLACES).made() for each in translate_layer4(made)}


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
    assert list(validation.find_problems(made)) == []
    return rendered(made)["l"]


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
def test_monitor_becomes_its_check(protocol: str, type_: str, lines: list[str]) -> None:
    found = [line.strip() for line in text(protocol, healthmonitor=monitor(type_)).splitlines()]
    for line in [*lines, "delay_loop 5", "delay_before_retry 5", "retry 3"]:
        assert line in found


def test_any_expected_code_passes() -> None:
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
def test_algorithm_becomes_its_scheduler(algorithm: str, lines: str) -> None:
    assert lines in text(lb_algorithm=algorithm)


@pytest.mark.parametrize(
    ("mask", "four", "six"),
    [
        (None, "255.255.255.255", "128"),
        ("255.255.255.0", "255.255.255.0", "128"),
        ("ffff:ffff::", "255.255.255.255", "32"),
    ],
)
def test_granularity_says_what_one_client_is(mask: str | None, four: str, six: str) -> None:
    kept = {"type": "SOURCE_IP", "persistence_timeout": 10, "persistence_granularity": mask}
    found = text(session_persistence=kept, vips=("2001:db8::5",))
    first, second = found.split("virtual_server group ipv6-group")
    assert f"persistence_timeout 10\n    persistence_granularity {four}\n" in first
    assert f"persistence_timeout 10\n    persistence_granularity {six}\n" in second


def test_pool_without_persistence_has_no_timeout() -> None:
    assert "persistence" not in text()


def test_connection_limit_is_for_each_member() -> None:
    assert text().count("uthreshold 7\n") == 2
