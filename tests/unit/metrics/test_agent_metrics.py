"""The agent's own metrics, read back by Prometheus' own client."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amphora_agent.metrics.agent import AgentMetrics, WorkersOf
from amphora_agent.metrics.shared import (
    API_WORKER,
    HEARTBEAT_WORKER,
    SERVICES_WORKER,
    HeartbeatBoard,
    WorkerDeaths,
)
from amphora_agent.model.events import Alarm
from amphora_agent.model.status import (
    NO_HEARTBEATS,
    Conntrack,
    ControllerFigures,
    HeartbeatFigures,
    Silence,
)
from amphora_agent.x509.validity import FileExpiry
from tests.builders.samples import parsed, values


@dataclass
class Agent:
    heartbeat: HeartbeatFigures = NO_HEARTBEATS
    workers: Mapping[str, WorkersOf | None] = field(default_factory=dict)
    expiry: float | None = None
    authority_expiry: float | None = None
    expiries: tuple[FileExpiry, ...] = ()
    conntrack: Conntrack | None = None
    alarms: tuple[Alarm, ...] = ()
    now: float = 1000.0
    deaths: WorkerDeaths = field(default_factory=WorkerDeaths)

    def __post_init__(self) -> None:
        self.metrics = AgentMetrics(
            heartbeat=lambda: self.heartbeat,
            workers=lambda timeout: self.workers,
            certificate_expiry=lambda: self.expiry,
            authority_expiry=lambda: self.authority_expiry,
            expiries=lambda: self.expiries,
            conntrack=lambda: self.conntrack,
            alarms=lambda: self.alarms,
            deaths=self.deaths.read,
            clock=lambda: self.now,
        )

    def told(self, name: str) -> dict[tuple[str, ...], float]:
        family = parsed([self.metrics.text()])[f"amphora_agent_{name}"]
        return values(family)


def test_counts_deaths_of_workers_from_zero() -> None:
    agent = Agent()
    agent.deaths.count(API_WORKER, hung=True)
    agent.deaths.count(HEARTBEAT_WORKER, hung=False)
    agent.deaths.count(HEARTBEAT_WORKER, hung=False)
    assert agent.told("worker_deaths_total") == {
        (API_WORKER, "died"): 0,
        (API_WORKER, "hung"): 1,
        (HEARTBEAT_WORKER, "died"): 2,
        (HEARTBEAT_WORKER, "hung"): 0,
        (SERVICES_WORKER, "died"): 0,
        (SERVICES_WORKER, "hung"): 0,
    }


def test_leaves_out_values_that_are_not_known() -> None:
    agent = Agent()
    for name in (
        "heartbeat_age_seconds",
        "heartbeat_size_bytes",
        "certificate_expiry_timestamp_seconds",
        "authority_expiry_timestamp_seconds",
        "conntrack_entries",
        "haproxy_workers",
    ):
        assert agent.told(name) == {}, name


def test_an_alarm_tells_its_start_and_escapes_its_subject() -> None:
    subject = 'a "file"\n'
    alarm = Alarm(kind="expiry", subject=subject, text="it expires", level="WARNING", since=12.0)
    agent = Agent(alarms=(alarm,))
    assert agent.told("alarm") == {("expiry", subject, "WARNING"): 12}


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
    agent = Agent(
        HeartbeatFigures(
            sent=5,
            failed=1,
            at=990.5,
            size=4321,
            listeners=17,
            members_left_out=30,
            pools_left_out=9,
            statistics_left_out=4,
        )
    )
    assert agent.told("heartbeats_total") == {("yes",): 5, ("no",): 1}
    assert agent.told("heartbeat_age_seconds") == {(): 9.5}
    assert agent.told("heartbeat_size_bytes") == {(): 4321}
    assert agent.told("heartbeat_listeners") == {(): 17}
    assert agent.told("heartbeat_members_left_out") == {(): 30}
    assert agent.told("heartbeat_pools_left_out") == {(): 9}
    assert agent.told("heartbeat_statistics_left_out") == {(): 4}


def test_operator_3_who_is_told_as_down_does_not_answer() -> None:
    """The worker counts: its master may hang while it serves, and answer while it hangs."""
    serving = WorkersOf(1, 0, 0, 0)
    figures = HeartbeatFigures(
        silences={"worker hangs": Silence(1.0, "why")}, masters_silent=("master hangs",)
    )
    workers = {"worker hangs": serving, "master hangs": None, "well": serving, "ended": None}
    assert Agent(figures, workers).told("haproxy_answers") == {
        ("worker hangs",): 0,
        ("master hangs",): 1,
        ("well",): 1,
        ("ended",): 0,
    }


def test_operator_7_each_controller_has_its_figures() -> None:
    figures = HeartbeatFigures(
        controllers=(
            ControllerFigures("192.0.2.1:5555", sent=3, last_sent=12.0),
            ControllerFigures("192.0.2.2:5555", errors=2, last_error=13.5, error="refused"),
        )
    )
    agent = Agent(figures)
    assert agent.told("heartbeat_controller_sent_total") == {
        ("192.0.2.1:5555",): 3,
        ("192.0.2.2:5555",): 0,
    }
    assert agent.told("heartbeat_controller_last_sent_timestamp_seconds") == {
        ("192.0.2.1:5555",): 12
    }
    assert agent.told("heartbeat_controller_errors_total") == {
        ("192.0.2.1:5555",): 0,
        ("192.0.2.2:5555",): 2,
    }
    assert agent.told("heartbeat_controller_last_error_timestamp_seconds") == {
        ("192.0.2.2:5555",): 13.5
    }


def test_the_certificate_and_the_kernels_table_are_told() -> None:
    agent = Agent(expiry=1.8e9, authority_expiry=1.9e9, conntrack=Conntrack(12, 262144))
    assert agent.told("certificate_expiry_timestamp_seconds") == {(): 1.8e9}
    assert agent.told("authority_expiry_timestamp_seconds") == {(): 1.9e9}
    assert agent.told("conntrack_entries") == {(): 12}
    assert agent.told("conntrack_entries_limit") == {(): 262144}


def test_an_empty_table_is_told_too() -> None:
    assert Agent(conntrack=Conntrack(0, 1024)).told("conntrack_entries") == {(): 0}


def test_board_shows_a_process_what_another_has_written() -> None:
    board = HeartbeatBoard()
    assert board.read() == NO_HEARTBEATS
    child = os.fork()
    if child == 0:
        for sent in range(1, 4):
            board.write(HeartbeatFigures(sent=sent, silences={"lb": Silence(1.5, "why")}))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert board.read() == HeartbeatFigures(sent=3, silences={"lb": Silence(1.5, "why")})


def test_files_of_load_balancers_that_expire() -> None:
    agent = Agent(expiries=(FileExpiry("lb", "site.pem", "certificate", 1.9e9),))
    told = agent.told("loadbalancer_certificate_expiry_timestamp_seconds")
    assert told == {("lb", "site.pem", "certificate"): 1.9e9}
