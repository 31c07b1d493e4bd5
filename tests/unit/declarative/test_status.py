"""Statuses in Octavia's words, and why, from what haproxy says."""

from typing import Any

import pytest

from amphora_agent.declarative import status
from amphora_agent.model.declared import LoadBalancerStatus
from tests.unit.declarative.balancers import balancer, decoded, listener, member, monitor, pool

HEADER = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,"
    "check_status,check_code,check_duration,last_chk,"
)


def row(proxy: str, service: str, word: str, *checked: str, scur: int = 0, slim: int = 100) -> str:
    columns = (proxy, service, 0, 0, scur, 0, slim, 0, word, 1, *(checked or ("", "", "", "")))
    return ",".join(map(str, columns)) + ","


def said(*rows: str) -> str:
    return "\n".join((HEADER, *rows, ""))


def found(
    *rows: str, members: tuple[Any, ...] = (), silent: bool = False, **more: Any
) -> LoadBalancerStatus:
    """Of a load balancer with a listener, a pool and a health monitor."""
    body = balancer(
        listener(default_pool_id="pool"),
        pools=(pool(members=list(members), healthmonitor=monitor(), **more),),
    )
    text = None if silent else said(row("listener", "FRONTEND", "OPEN"), *rows)
    return status.of(decoded(body), {"lb": text}, {})


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
    ],
)
def test_a_member(word: str, checked: tuple[str, ...], expected: str, reason: str) -> None:
    status_ = found(row("pool", "member", word, *checked), members=(member(),))
    (shown,) = status_.pools[0].members
    assert (shown.operating_status, shown.reason) == (expected, reason)


def test_a_member_that_is_to_take_no_requests() -> None:
    rows = (row("pool", "a", "UP", "L4OK", "", "0", ""), row("pool", "b", "MAINT"))
    members = (member("a", weight=0), member("b", admin_state_up=False))
    (drained, disabled) = found(*rows, members=members).pools[0].members
    assert (drained.operating_status, drained.reason) == ("DRAINING", "weight 0")
    assert (disabled.operating_status, disabled.reason) == ("OFFLINE", "administratively down")


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("UP", "UP"), "ONLINE"), (("UP", "DOWN"), "DEGRADED"), (("DOWN", "DOWN"), "ERROR")],
)
def test_what_members_do_to_all_above(words: tuple[str, str], expected: str) -> None:
    rows = [row("pool", name, word) for name, word in zip("ab", words, strict=True)]
    shown = found(*rows, members=(member("a"), member("b")))
    above = (shown.pools[0], shown.listeners[0], shown)
    assert {each.operating_status for each in above} == {expected}
    assert shown.reason == ("" if expected == "ONLINE" else "listener listener")


def test_one_that_says_nothing() -> None:
    shown = found(members=(member(),), silent=True)
    assert shown.operating_status == "ERROR"
    assert shown.listeners[0].reason == "haproxy does not answer"
    assert shown.pools[0].members[0].reason == "haproxy does not answer"


def test_a_listener_at_its_limit() -> None:
    body = decoded(balancer(listener()))
    text = said(row("listener", "FRONTEND", "OPEN", scur=10, slim=10))
    (shown,) = status.of(body, {"lb": text}, {}).listeners
    assert (shown.operating_status, shown.connections) == ("DEGRADED", 10)
    assert "10 of 10 connections" in shown.reason


def test_what_is_administratively_down() -> None:
    body = balancer(
        listener(admin_state_up=False), pools=(pool(admin_state_up=False, members=[member()]),)
    )
    shown = status.of(decoded({**body, "admin_state_up": False}), {}, {})
    parts = (shown, shown.listeners[0], shown.pools[0], shown.pools[0].members[0])
    assert {each.operating_status for each in parts} == {"OFFLINE"}
