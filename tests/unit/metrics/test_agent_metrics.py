"""The agent's own metrics, read back by Prometheus' own client."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amphora_agent.metrics.agent import AgentMetrics, WorkersOf
from amphora_agent.metrics.shared import NO_HEARTBEATS, HeartbeatBoard, HeartbeatFigures
from amphora_agent.model.figures import Conntrack
from tests.unit.metrics.samples import parsed, values


@dataclass
class Agent:
    heartbeat: HeartbeatFigures = NO_HEARTBEATS
    workers: Mapping[str, WorkersOf | None] = field(default_factory=dict)
    expiry: float | None = None
    conntrack: Conntrack | None = None
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.metrics = AgentMetrics(
            heartbeat=lambda: self.heartbeat,
            workers=lambda timeout: self.workers,
            certificate_expiry=lambda: self.expiry,
            conntrack=lambda: self.conntrack,
            clock=lambda: self.now,
        )

    def told(self, name: str) -> dict[tuple[str, ...], float]:
        family = parsed([self.metrics.text()])[f"amphora_agent_{name}"]
        return values(family)


def test_what_is_not_known_is_not_told() -> None:
    agent = Agent()
    for name in (
        "heartbeat_age_seconds",
        "heartbeat_size_bytes",
        "certificate_expiry_timestamp_seconds",
        "conntrack_entries",
        "haproxy_workers",
    ):
        assert agent.told(name) == {}, name


def test_requests_are_counted_by_route_and_answer() -> None:
    agent = Agent()
    counts = agent.metrics.requests
    for status in (200, 200, 404):
        counts.request("GET", "/1.0/info", status)
    assert agent.told("requests_total") == {
        ("GET", "/1.0/info", "200"): 2,
        ("GET", "/1.0/info", "404"): 1,
    }


def test_changes_are_counted_by_kind_end_and_duration() -> None:
    agent = Agent()
    counts = agent.metrics.requests
    for status, seconds in ((202, 0.01), (202, 0.02), (202, 500.0), (400, 0.2), (500, 0.2)):
        counts.change("loadbalancers.reload", status, seconds)
    family = parsed([agent.metrics.text()])["amphora_agent_change_duration_seconds"]
    assert family.type == "histogram"
    done: dict[str, Any] = {}
    results = set()
    for sample in family.samples:
        assert sample.labels["kind"] == "loadbalancers.reload"
        results.add(sample.labels["result"])
        if sample.labels["result"] == "done":
            done[sample.labels.get("le", sample.name.rpartition("_")[2])] = sample.value
    assert results == {"done", "refused", "failed"}
    assert (done["0.01"], done["0.03"], done["60"], done["+Inf"]) == (1, 2, 2, 3)
    assert (done["count"], done["sum"]) == (3, 500.03)


def test_workers_are_told_of_whoever_answers() -> None:
    agent = Agent(workers={"lb1": WorkersOf(1, 2, 7, 3), "lb2": None})
    assert agent.told("haproxy_answers") == {("lb1",): 1, ("lb2",): 0}
    assert agent.told("haproxy_workers") == {("lb1", "serving"): 1, ("lb1", "leaving"): 2}
    assert agent.told("haproxy_reloads_total") == {("lb1",): 7}
    assert agent.told("haproxy_failed_reloads") == {("lb1",): 3}


def test_the_last_heartbeat_is_told() -> None:
    agent = Agent(HeartbeatFigures(5, 1, 990.5, 4321, 17, 30, 9, 4))
    assert agent.told("heartbeats_total") == {("yes",): 5, ("no",): 1}
    assert agent.told("heartbeat_age_seconds") == {(): 9.5}
    assert agent.told("heartbeat_size_bytes") == {(): 4321}
    assert agent.told("heartbeat_listeners") == {(): 17}
    assert agent.told("heartbeat_members_left_out") == {(): 30}
    assert agent.told("heartbeat_pools_left_out") == {(): 9}
    assert agent.told("heartbeat_statistics_left_out") == {(): 4}


def test_the_certificate_and_the_kernels_table_are_told() -> None:
    agent = Agent(expiry=1.8e9, conntrack=Conntrack(12, 262144))
    assert agent.told("certificate_expiry_timestamp_seconds") == {(): 1.8e9}
    assert agent.told("conntrack_entries") == {(): 12}
    assert agent.told("conntrack_entries_limit") == {(): 262144}


def test_an_empty_table_is_told_too() -> None:
    assert Agent(conntrack=Conntrack(0, 1024)).told("conntrack_entries") == {(): 0}


def test_one_process_writes_and_another_reads() -> None:
    board = HeartbeatBoard()
    assert board.read() == NO_HEARTBEATS
    child = os.fork()
    if child == 0:
        for sent in range(1, 4):
            board.write(HeartbeatFigures(sent, 0, 1.5, 2**40, 3, 4, 5, 6))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert board.read() == HeartbeatFigures(3, 0, 1.5, 2**40, 3, 4, 5, 6)
