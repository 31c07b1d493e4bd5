"""Statuses are those that Octavia's health manager makes of what haproxy says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab.backend import Backend
from lab.waiting import until
from tests.builders import bodies
from tests.builders.bodies import Body
from tests.integration.amphora import Amphora
from tests.integration.declared import DeclaredBalancer, member, monitor, pool

#: Nobody listens there.
DEAD = 9

ALIVE, LOST = member(), member(DEAD)

#: A pool's members and more of it; the pool's status, its members', and the load balancer's.
CASES: dict[str, tuple[list[Body], Body, str, list[str], str]] = {
    "all are down": ([LOST], {"healthmonitor": monitor()}, "ERROR", ["ERROR"], "ERROR"),
    "one is down": (
        [ALIVE, LOST],
        {"healthmonitor": monitor()},
        "DEGRADED",
        ["ONLINE", "ERROR"],
        "DEGRADED",
    ),
    "none is down": ([ALIVE], {"healthmonitor": monitor()}, "ONLINE", ["ONLINE"], "ONLINE"),
    "no members": ([], {}, "ONLINE", [], "ONLINE"),
    "no members, monitored": ([], {"healthmonitor": monitor()}, "ONLINE", [], "ONLINE"),
    "no monitor": ([LOST], {}, "ONLINE", ["NO_MONITOR"], "ONLINE"),
    "a monitor that is down": (
        [LOST],
        {"healthmonitor": monitor(admin_state_up=False)},
        "ONLINE",
        ["NO_MONITOR"],
        "ONLINE",
    ),
    "weight 0 and a monitor": (
        [ALIVE | {"weight": 0}],
        {"healthmonitor": monitor()},
        "ERROR",
        ["DRAINING"],
        "ERROR",
    ),
    "weight 0 of one": (
        [ALIVE | {"weight": 0}, member(ALIVE["protocol_port"] + 1)],
        {"healthmonitor": monitor()},
        "ONLINE",
        ["DRAINING", "ONLINE"],
        "ONLINE",
    ),
    "weight 0 and no monitor": ([ALIVE | {"weight": 0}], {}, "ERROR", ["NO_MONITOR"], "ERROR"),
    "members that are disabled": (
        [ALIVE | {"admin_state_up": False}],
        {},
        "ERROR",
        ["OFFLINE"],
        "ERROR",
    ),
    "the pool is disabled": ([ALIVE], {"admin_state_up": False}, "OFFLINE", ["OFFLINE"], "ONLINE"),
}


@pytest.fixture(scope="module")
def balancer(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    made = DeclaredBalancer(amphora)
    made.push()
    yield made
    made.delete()


def to_pool(**more: Any) -> Body:
    return bodies.policy("REDIRECT_TO_POOL", redirect_pool_id="pool") | more


@pytest.mark.parametrize("way", ["default", "policy"])
@pytest.mark.parametrize("case", CASES)
def test_d6_a_pool_counts_as_the_controller_counts_it(
    balancer: DeclaredBalancer, case: str, way: str
) -> None:
    members, more, expected, of_members, whole = CASES[case]
    used = {"default_pool_id": "pool"} if way == "default" else {"l7policies": [to_pool()]}
    listener = {
        name: value
        for name, value in balancer.body["listeners"][0].items()
        if name not in ("default_pool_id", "l7policies")
    }
    balancer.body["listeners"] = [listener | used]
    made = pool("pool", **more)
    made["members"] = members
    balancer.body["pools"] = [made]
    balancer.push()

    def told() -> tuple[str, list[str], str]:
        status = balancer.get("/status").json()
        (shown,) = status["pools"]
        assert status["listeners"][0]["operating_status"] == "ONLINE"
        states = [each["operating_status"] for each in shown["members"]]
        return shown["operating_status"], states, status["operating_status"]

    until(lambda: told() == (expected, of_members, whole), f"{case}, by {way}")


def test_d6_a_policy_that_decides_nothing_leads_nowhere(balancer: DeclaredBalancer) -> None:
    balancer.body["listeners"][0] |= {"l7policies": [to_pool(admin_state_up=False)]}
    balancer.body["listeners"][0].pop("default_pool_id", None)
    balancer.body["pools"] = [pool("pool", LOST, healthmonitor=monitor())]
    balancer.push()
    status = balancer.get("/status").json()
    assert status["operating_status"] == "ONLINE"
    assert status["pools"][0]["reason"] == "no listener uses it"
