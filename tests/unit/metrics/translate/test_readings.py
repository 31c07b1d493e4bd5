"""UDP and SCTP listeners among the metrics: what IPVS knows of them."""

from amphora_agent.metrics.translate import octavia
from amphora_agent.model.status import (
    Counters,
    InstanceReading,
    ListenerReading,
    PoolReading,
    WorkerReading,
)
from tests.builders.samples import told, values


def test_a_listener_of_ipvs_is_told_as_far_as_it_is_known() -> None:
    members = {"m1": "UP", "m2": "DOWN", "m3": "no check", "m4": "RESTARTING"}
    current = WorkerReading(
        "ipvs",
        {"l1": ListenerReading("OPEN", 3, Counters(tx=4, rx=5, totconns=6, ereq=0))},
        {"p1:l1": PoolReading("UP", members)},
    )
    (figures,) = octavia.figures([InstanceReading(("l1",), current, ())])
    assert figures is not None
    families = told(figures)
    assert values(families["octavia_listener_status"]) == {("l1", "DOWN"): 0, ("l1", "UP"): 1}
    assert values(families["octavia_listener_current_sessions"]) == {("l1",): 3}
    assert values(families["octavia_listener_bytes_out_total"]) == {("l1",): 4}
    assert values(families["octavia_listener_bytes_in_total"]) == {("l1",): 5}
    assert values(families["octavia_listener_sessions_total"]) == {("l1",): 6}
    assert values(families["octavia_listener_http_requests_total"]) == {}
    assert values(families["octavia_pool_status"])["p1:l1", "UP"] == 1
    assert values(families["octavia_pool_current_sessions"]) == {}
    states = values(families["octavia_member_status"])
    assert {key[1:] for key, value in states.items() if value} == {
        ("m1", "UP"),
        ("m2", "DOWN"),
        ("m3", "UP"),
    }


def test_an_instance_that_was_not_read_does_not_answer() -> None:
    assert octavia.figures([InstanceReading(("l1",), None, ())]) == [None]
