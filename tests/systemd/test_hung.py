"""A haproxy that hangs, under the confined agent: told, replaced, ended."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from amphora_agent.client.v2 import AmphoraClient, AmphoraError
from lab.heartbeats import HeartbeatReceiver
from lab.http import get
from lab.listeners import loadbalancer
from lab.network import Namespace
from lab.nspawn import Machine
from lab.waiting import until
from tests.systemd.conftest import HTTP, VIP, LoadBalancer


@contextmanager
def stopped(machine: Machine, pid: int) -> Iterator[None]:
    """A process that does nothing, and does not end."""
    machine.run(["kill", "-STOP", str(pid)])
    try:
        yield
    finally:
        machine.run(["kill", "-CONT", str(pid)], check=False)


def status(listeners: Any) -> str:
    return str(listeners.get(HTTP.id, {}).get("status"))


def instance(api: AmphoraClient, balancer: LoadBalancer) -> dict[str, Any]:
    found: dict[str, Any] = api.request("GET", f"/2.0/instances/{balancer.id}").json()
    return found


def alarms(api: AmphoraClient, balancer: LoadBalancer) -> list[str]:
    return [alarm["kind"] for alarm in instance(api, balancer)["alarms"]]


def answers(api: AmphoraClient, balancer: LoadBalancer) -> str:
    name = f'amphora_agent_haproxy_answers{{loadbalancer="{balancer.id}"}} '
    lines = api.request("GET", "/metrics").text.splitlines()
    (value,) = (line.removeprefix(name) for line in lines if line.startswith(name))
    return value


def refused(machine: Machine) -> list[str]:
    """What the confinement has kept the agent from, as it says."""
    said = machine.output("journalctl", "--boot", "--unit=amphora-agent", "--output=cat")
    return [line for line in said.splitlines() if "not permitted" in line]


def push(balancer: LoadBalancer, number: int, hard_stop_after: str = "4s") -> None:
    text = loadbalancer(balancer.id, vip=VIP, listeners=[HTTP], timeout_client=60000 + number)
    assert "    daemon\n" in text
    text = text.replace("    daemon\n", f"    daemon\n    hard-stop-after {hard_stop_after}\n")
    balancer.api.upload_haproxy(balancer.id, text)
    balancer.reload()


def test_op3_a_worker_that_hangs_is_told_replaced_and_killed(
    balancer: LoadBalancer,
    machine: Machine,
    api: AmphoraClient,
    client: Namespace,
    heartbeats: HeartbeatReceiver,
) -> None:
    push(balancer, 1)
    until(lambda: not balancer.workers().leaving, "the first worker has left")
    details = set(api.details())
    hung = balancer.workers().current
    assert hung is not None
    with stopped(machine, hung):
        heartbeats.drain()
        heartbeats.wait_for(lambda beat: status(beat.listeners) == "DOWN")
        assert answers(api, balancer) == "0"
        told = instance(api, balancer)
        assert told["state"] == "NOT_ANSWERING"
        assert "the worker has not answered since" in told["reason"]
        assert told["since"] > 1.7e9
        until(lambda: alarms(api, balancer) == ["silent"], "the alarm is set")
        assert set(api.details()) == details
        push(balancer, 2)
        # Its sockets are taken from it: no connection waits for the one that hangs.
        for _ in range(20):
            assert get(client, VIP, 80).status == 200
        assert balancer.workers().current not in (hung, None)
        heartbeats.drain()
        heartbeats.wait_for(lambda beat: status(beat.listeners) == "OPEN")
        place = machine.path(f"/proc/{hung}")
        until(lambda: not place.exists(), "it is killed", timeout=30)
    until(lambda: alarms(api, balancer) == [], "the alarm is over")
    assert answers(api, balancer) == "1"
    told_errors = machine.output(
        "journalctl", "--boot", "-t", "amphora-agent", "-p", "err", "--output=cat"
    )
    assert f"worker {hung} hung after a reload, outlived hard-stop-after" in told_errors
    entries = [
        json.loads(line)
        for line in machine.output("amphora-agent", "history", "--json").split("\n")
    ]
    assert "hung worker" in {entry["operation"] for entry in entries}
    assert refused(machine) == []
    assert get(client, VIP, 80).status == 200


def test_op3_a_master_that_hangs_is_told_and_changes_nothing(
    balancer: LoadBalancer,
    machine: Machine,
    api: AmphoraClient,
    client: Namespace,
    heartbeats: HeartbeatReceiver,
) -> None:
    master = int(balancer.properties()["MainPID"])
    before = balancer.configuration.read_bytes()
    balancer.upload()
    with stopped(machine, master):
        with pytest.raises(AmphoraError, match="systemctl restart haproxy-") as refusal:
            balancer.reload()
        assert refusal.value.status == 500
        assert balancer.configuration.read_bytes() == before
        assert get(client, VIP, 80).status == 200
        heartbeats.drain()
        heartbeats.wait_for(lambda beat: status(beat.listeners) == "OPEN")
        until(lambda: alarms(api, balancer) == ["master-silent"], "the alarm is set")
    until(lambda: balancer.properties()["ActiveState"] == "active", "systemd has it as active")
    balancer.push()
    until(lambda: alarms(api, balancer) == [], "the alarm is over")
    assert refused(machine) == []
