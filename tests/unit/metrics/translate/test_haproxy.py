"""haproxy's figures as Octavia's metrics, read back by Prometheus' own client."""

from pathlib import Path

import pytest

from amphora_agent.model.status import Scope
from tests.builders.samples import INFO, parse, row, stat, told, values

#: Every name of Octavia's metrics endpoint with its type.
NAMES = dict(
    line.split() for line in Path(__file__).with_name("names.txt").read_text().splitlines()
)


def test_every_name_that_octavia_documents_is_there_with_its_type() -> None:
    assert len(NAMES) == 144
    assert {name: family.type for name, family in told().items()} == NAMES


def test_every_name_has_words_of_explanation() -> None:
    for family in told().values():
        assert family.documentation.endswith(".")


@pytest.mark.parametrize("scope", Scope)
def test_a_scope_has_its_own_names_and_no_others(scope: Scope) -> None:
    names = told(scopes=[scope])
    assert set(names) == {name for name in NAMES if name.startswith(f"octavia_{scope.value}_")}


def test_ids_are_labels_by_octavias_names() -> None:
    given = stat(
        row("l1", "FRONTEND", scur="3"),
        row("p1:l1", "m1", scur="1"),
        row("p1:l1", "BACKEND", scur="2"),
    )
    families = told(parse("", given))
    (listener,) = families["octavia_listener_current_sessions"].samples
    assert (listener.labels, listener.value) == ({"listener": "l1"}, 3)
    (pool,) = families["octavia_pool_current_sessions"].samples
    assert (pool.labels, pool.value) == ({"pool": "p1:l1"}, 2)
    (member,) = families["octavia_member_current_sessions"].samples
    assert (member.labels, member.value) == ({"pool": "p1:l1", "member": "m1"}, 1)


def test_a_figure_that_does_not_apply_is_no_sample() -> None:
    families = told(parse("", stat(row("p", "m1", slim=""), row("p", "m2", slim="9"))))
    assert values(families["octavia_member_limit_sessions"]) == {("p", "m2"): 9}
    # haproxy's text has no such column: it is too old.
    assert families["octavia_member_idle_connections_limit"].samples == []


def test_milliseconds_are_told_in_seconds() -> None:
    given = stat(row("p", "m1", qtime="1"), row("p", "m2", qtime="12345"), row("p", "m3"))
    family = told(parse("", given))["octavia_member_queue_time_average_seconds"]
    assert values(family) == {("p", "m1"): 0.001, ("p", "m2"): 12.345}


def test_responses_are_told_by_their_class() -> None:
    given = stat(row("l1", "FRONTEND", hrsp_2xx="5", hrsp_other="1"))
    family = told(parse("", given))["octavia_listener_http_responses_total"]
    assert values(family) == {("l1", "2xx"): 5, ("l1", "other"): 1}


@pytest.mark.parametrize(
    ("service", "words", "state"),
    [
        ("FRONTEND", "OPEN", "UP"),
        ("FRONTEND", "FULL", "UP"),
        ("FRONTEND", "STOP", "DOWN"),
        ("BACKEND", "UP", "UP"),
        ("BACKEND", "DOWN", "DOWN"),
        ("m1", "UP", "UP"),
        ("m1", "UP 1/3", "UP"),
        ("m1", "no check", "UP"),
        ("m1", "DOWN", "DOWN"),
        ("m1", "DOWN 1/2", "DOWN"),
        ("m1", "MAINT", "MAINT"),
        ("m1", "MAINT (via p/m2)", "MAINT"),
        ("m1", "MAINT(resolution)", "MAINT"),
        ("m1", "DRAIN", "DRAIN"),
        ("m1", "NOLB 2/3", "NOLB"),
    ],
)
def test_exactly_one_state_is_present(service: str, words: str, state: str) -> None:
    scope = {"FRONTEND": "listener", "BACKEND": "pool"}.get(service, "member")
    family = told(parse("", stat(row("p", service, status=words))))
    samples = family[f"octavia_{scope}_status"].samples
    states = {sample.labels["state"]: sample.value for sample in samples}
    assert [name for name, value in states.items() if value] == [state]
    assert states.keys() >= {"UP", "DOWN"}


def test_the_machine_is_told_in_percent() -> None:
    families = told()
    assert values(families["octavia_loadbalancer_cpu"]) == {(): 12.3}
    assert values(families["octavia_loadbalancer_memory"]) == {(): 56.8}


def test_several_processes_are_one_load_balancer() -> None:
    first = parse(INFO, stat(row("l1", "FRONTEND", bin="1")))
    second = parse(
        INFO.replace("CurrConns: 7", "CurrConns: 2").replace("pct: 40", "pct: 60"),
        stat(row("l2", "FRONTEND", bin="2")),
    )
    families = told(first, second)
    assert values(families["octavia_loadbalancer_current_connections"]) == {(): 9}
    assert values(families["octavia_loadbalancer_frontend_ssl_reuse"]) == {(): 60}
    assert values(families["octavia_listener_bytes_in_total"]) == {("l1",): 1, ("l2",): 2}


def test_no_figure_loses_a_digit() -> None:
    given = stat(row("l1", "FRONTEND", bin="9007199254740991"))
    family = told(parse("", given))["octavia_listener_bytes_in_total"]
    assert values(family) == {("l1",): 9007199254740991}


def test_a_name_cannot_leave_its_label() -> None:
    odd = 'a"} 1\\'
    given = stat(row('"a""} 1\\"', "FRONTEND", bin="1"))
    family = told(parse("", given))["octavia_listener_bytes_in_total"]
    assert values(family) == {(odd,): 1}
