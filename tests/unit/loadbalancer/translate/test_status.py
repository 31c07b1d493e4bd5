"""Statuses in Octavia's words, and why, from what haproxy says."""

from typing import Any

import pytest

from amphora_agent.loadbalancer.translate import status
from amphora_agent.model.resolved import resolve
from amphora_agent.model.responses import LoadBalancerStatus
from tests.builders.bodies import (
    balancer,
    decoded,
    listener,
    member,
    monitor,
    policy,
    pool,
)

HEADER = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,"
    "check_status,check_code,check_duration,last_chk,"
)


def row(
    proxy: str,
    service: str,
    word: str,
    *checked: str,
    scur: int = 0,
    slim: int = 100,
    weight: int = 1,
) -> str:
    columns = (proxy, service, 0, 0, scur, 0, slim, 0, word, weight)
    return ",".join(map(str, (*columns, *(checked or ("", "", "", ""))))) + ","


def said(*rows: str) -> str:
    return "\n".join((HEADER, *rows, ""))


def found(
    *rows: str,
    members: tuple[Any, ...] = (),
    silent: bool = False,
    backend: str = "UP",
    **more: Any,
) -> LoadBalancerStatus:
    """Of a load balancer with a listener, a pool and a health monitor; `backend` is the word for
    the pool."""
    body = balancer(
        listener(default_pool_id="pool"),
        pools=(pool(members=list(members), healthmonitor=monitor(), **more),),
    )
    own = (row("listener", "FRONTEND", "OPEN"), row("pool", "BACKEND", backend))
    return status.find_status(
        resolve(decoded(body)), {"lb": None if silent else said(*own, *rows)}, {}
    )


@pytest.mark.parametrize(
    ("word", "checked", "expected", "reason"),
    [
        ("UP", ("L7OK", "200", "2", "OK"), "ONLINE", "answered: 200 OK, 2 ms (L7OK)"),
        ("UP 1/3", ("L4OK", "", "0", ""), "ONLINE", "connected, 0 ms (L4OK)"),
        ("DOWN", ("L7STS", "503", "1", ""), "ERROR", "a wrong status: 503, 1 ms (L7STS)"),
        (
            "DOWN",
            ("L4CON", "", "0", "Connection refused"),
            "ERROR",
            "no connection: Connection refused, 0 ms (L4CON)",
        ),
        ("DOWN", ("* L4TOUT", "", "5000", ""), "ERROR", "no connection in time, 5000 ms (L4TOUT)"),
        ("MAINT", ("", "", "", ""), "OFFLINE", "in maintenance"),
        ("NOLB", ("", "", "", ""), "OFFLINE", "not checked yet"),
    ],
)
def test_member_status_follows_its_check(
    word: str, checked: tuple[str, ...], expected: str, reason: str
) -> None:
    status_ = found(row("pool", "member", word, *checked), members=(member(),))
    (shown,) = status_.pools[0].members
    assert (shown.operating_status, shown.reason) == (expected, reason)


def test_drained_and_disabled_members_are_named_so() -> None:
    rows = (row("pool", "a", "UP", "L4OK", "", "0", "", weight=0), row("pool", "b", "MAINT"))
    members = (member("a", weight=0), member("b", admin_state_up=False))
    (drained, disabled) = found(*rows, members=members).pools[0].members
    assert (drained.operating_status, drained.reason) == ("DRAINING", "weight 0")
    assert (disabled.operating_status, disabled.reason) == ("OFFLINE", "administratively down")


#: What haproxy says of a pool and its members, with their weights; then what Octavia's health
#: manager makes of it: of the pool, of its members, and of the load balancer.
RULES: tuple[tuple[str, list[tuple[str, int]], str, list[str], str], ...] = (
    ("UP", [("UP", 1), ("UP", 1)], "ONLINE", ["ONLINE", "ONLINE"], "ONLINE"),
    ("UP", [("UP", 1), ("DOWN", 1)], "DEGRADED", ["ONLINE", "ERROR"], "DEGRADED"),
    ("UP", [("UP 1/3", 1), ("DOWN 1/2", 1)], "DEGRADED", ["ONLINE", "ERROR"], "DEGRADED"),
    ("DOWN", [("DOWN", 1), ("DOWN", 1)], "ERROR", ["ERROR", "ERROR"], "ERROR"),
    ("UP", [], "ONLINE", [], "ONLINE"),
    ("UP", [("no check", 1)], "ONLINE", ["NO_MONITOR"], "ONLINE"),
    ("DOWN", [("no check", 0)], "ERROR", ["NO_MONITOR"], "ERROR"),
    ("DOWN", [("UP", 0)], "ERROR", ["DRAINING"], "ERROR"),
    ("UP", [("UP", 0), ("UP", 1)], "ONLINE", ["DRAINING", "ONLINE"], "ONLINE"),
    ("UP", [("DRAIN", 1), ("UP", 1)], "ONLINE", ["DRAINING", "ONLINE"], "ONLINE"),
    ("DOWN", [("MAINT", 1)], "ERROR", ["OFFLINE"], "ERROR"),
    ("UP", [("MAINT", 1), ("UP", 1)], "ONLINE", ["OFFLINE", "ONLINE"], "ONLINE"),
    ("UP", [("MAINT (via pool/a)", 1), ("UP", 1)], "ONLINE", ["OFFLINE", "ONLINE"], "ONLINE"),
    ("UP", [("NOLB", 1), ("UP", 1)], "ONLINE", ["OFFLINE", "ONLINE"], "ONLINE"),
)


@pytest.mark.parametrize("by_policy", [False, True])
@pytest.mark.parametrize(("backend", "words", "pool_", "members", "whole"), RULES)
def test_pool_counts_however_it_is_reached(
    backend: str,
    words: list[tuple[str, int]],
    pool_: str,
    members: list[str],
    whole: str,
    by_policy: bool,
) -> None:
    names = [f"m{number}" for number in range(len(words))]
    uses = {"l7policies": [policy("REDIRECT_TO_POOL", redirect_pool_id="pool")]}
    body = balancer(
        listener(**(uses if by_policy else {"default_pool_id": "pool"})),
        pools=(pool(members=[member(name) for name in names]),),
    )
    rows = [
        row("pool", name, word, weight=weight)
        for name, (word, weight) in zip(names, words, strict=True)
    ]
    own = (row("listener", "FRONTEND", "OPEN"), row("pool", "BACKEND", backend))
    shown = status.find_status(resolve(decoded(body)), {"lb": said(*own, *rows)}, {})
    assert shown.pools[0].operating_status == pool_
    assert [each.operating_status for each in shown.pools[0].members] == members
    assert shown.operating_status == whole
    # It takes connections, whatever becomes of them; its reason tells of the pool.
    assert shown.listeners[0].operating_status == "ONLINE"
    assert (shown.listeners[0].reason == "") == (whole == "ONLINE")
    assert shown.reason == shown.listeners[0].reason


def test_unused_pool_does_not_count() -> None:
    body = balancer(listener(), pools=(pool(members=[member()]),))
    shown = status.find_status(
        resolve(decoded(body)), {"lb": said(row("listener", "FRONTEND", "OPEN"))}, {}
    )
    assert (shown.operating_status, shown.pools[0].operating_status) == ("ONLINE", "OFFLINE")
    assert shown.pools[0].members[0].operating_status == "OFFLINE"


def test_full_listener_degrades_and_a_pool_that_is_down_is_worse() -> None:
    body = decoded(
        balancer(listener(), listener(name="b", default_pool_id="pool"), pools=(pool(),))
    )
    full = row("listener", "FRONTEND", "OPEN", scur=100), row("b", "FRONTEND", "OPEN")
    for backend, expected in (("UP", "DEGRADED"), ("DOWN", "ERROR")):
        text = said(*full, row("pool", "BACKEND", backend))
        assert status.find_status(resolve(body), {"lb": text}, {}).operating_status == expected


def test_silent_haproxy_is_an_error() -> None:
    shown = found(members=(member(),), silent=True)
    assert shown.operating_status == "ERROR"
    assert shown.listeners[0].reason == "haproxy does not answer"
    assert shown.pools[0].members[0].reason == "haproxy does not answer"


def test_listener_at_its_limit_is_degraded() -> None:
    body = decoded(balancer(listener()))
    text = said(row("listener", "FRONTEND", "OPEN", scur=10, slim=10))
    (shown,) = status.find_status(resolve(body), {"lb": text}, {}).listeners
    assert (shown.operating_status, shown.connections) == ("DEGRADED", 10)
    assert "10 of 10 connections" in shown.reason


def test_parts_that_are_administratively_down_are_offline() -> None:
    body = balancer(
        listener(admin_state_up=False), pools=(pool(admin_state_up=False, members=[member()]),)
    )
    shown = status.find_status(resolve(decoded({**body, "admin_state_up": False})), {}, {})
    parts = (shown, shown.listeners[0], shown.pools[0], shown.pools[0].members[0])
    assert {each.operating_status for each in parts} == {"OFFLINE"}


def test_listeners_of_a_load_balancer_that_is_down_are_offline() -> None:
    body = {**balancer(listener()), "admin_state_up": False}
    shown = status.find_status(resolve(decoded(body)), {}, {})
    assert shown.listeners[0].operating_status == "OFFLINE"
    assert shown.listeners[0].reason == "administratively down"
