"""A haproxy that hangs: one fact in everybody's words, and a reload that helps."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from amphora_agent.client.v2 import AmphoraError
from amphora_agent.keepalived import probe
from lab.waiting import until
from tests.integration.amphora import Amphora, LoadBalancer, stopped


@pytest.fixture
def own_amphora(boot: Callable[..., Amphora], program: Path) -> Iterator[Amphora]:
    """Of each version of haproxy."""
    with ExitStack() as ending:
        yield boot(ending, settings={"haproxy_amphora": {"haproxy_cmd": str(program)}})


@pytest.fixture
def balancer(own_amphora: Amphora) -> LoadBalancer:
    made = own_amphora.new_balancer()
    made.push()
    own_amphora.heartbeats.wait_for(lambda beat: _status(made, beat.listeners) == "OPEN")
    return made


def _status(balancer: LoadBalancer, listeners: Any) -> str:
    return str(listeners.get(balancer.listener.id, {}).get("status"))


def instance(balancer: LoadBalancer) -> dict[str, Any]:
    found: dict[str, Any] = balancer.amphora.request("GET", f"/2.0/instances/{balancer.id}").json()
    return found


def answers(balancer: LoadBalancer) -> float:
    text = balancer.amphora.request("GET", "/metrics").body.decode()
    (value,) = (
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "amphora_agent_haproxy_answers"
    )
    return float(value)


def probe_says(balancer: LoadBalancer) -> bool:
    """What VRRP's check says."""
    socket = str(balancer.amphora.agent.base_path / f"{balancer.id}.sock")

    return probe.main([socket]) == 0


def test_operator_3_a_worker_that_hangs_is_one_fact_in_everybodys_words(
    balancer: LoadBalancer,
) -> None:
    amphora, worker = balancer.amphora, balancer.processes()[1]
    details = amphora.api.details()
    with stopped([worker], signal.SIGSTOP, signal.SIGCONT):
        amphora.heartbeats.drain()
        amphora.heartbeats.wait_for(lambda beat: _status(balancer, beat.listeners) == "DOWN")
        assert answers(balancer) == 0
        told = instance(balancer)
        assert told["state"] == "NOT_ANSWERING"
        assert "the worker has not answered since" in told["reason"]
        assert told["since"] > 1.7e9
        until(
            lambda: [alarm["kind"] for alarm in instance(balancer)["alarms"]] == ["silent"],
            "the alarm is set",
        )
        assert not probe_says(balancer)
        assert set(amphora.api.details()) == set(details)
    amphora.heartbeats.wait_for(lambda beat: _status(balancer, beat.listeners) == "OPEN")
    until(lambda: instance(balancer)["alarms"] == [], "the alarm is over")
    assert instance(balancer)["state"] == "ACTIVE"
    assert answers(balancer) == 1
    assert probe_says(balancer)


def test_haproxy_d_a_worker_that_hangs_is_asked_once(balancer: LoadBalancer) -> None:
    """Each question that is not answered holds one of the ten places at the master's socket."""
    amphora, worker = balancer.amphora, balancer.processes()[1]
    with stopped([worker], signal.SIGSTOP, signal.SIGCONT):
        for _ in range(14):
            amphora.heartbeats.next()
            amphora.request("GET", "/metrics")
            instance(balancer)
        assert balancer.ask("show proc")


def test_haproxy_d_a_reload_gives_a_new_worker_and_the_hung_one_ends(
    balancer: LoadBalancer,
) -> None:
    amphora = balancer.amphora
    text = balancer.text().replace("    daemon\n", "    daemon\n    hard-stop-after 4s\n")
    amphora.api.upload_haproxy(balancer.id, text)
    balancer.reload()
    until(lambda: len(balancer.processes()) == 2, "the first worker has left")
    hung = balancer.processes()[1]
    hung.send(signal.SIGSTOP)
    text = balancer.text().replace("    daemon\n", "    daemon\n    hard-stop-after 4s\n")
    amphora.api.upload_haproxy(balancer.id, text)
    balancer.reload()
    for _ in range(20):  # none is left to the one that hangs
        assert balancer.get() in ("web1", "web2")
    assert hung.alive
    amphora.heartbeats.drain()
    amphora.heartbeats.wait_for(lambda beat: _status(balancer, beat.listeners) == "OPEN")
    until(lambda: not hung.alive, "it is killed", timeout=30)
    assert "outlived hard-stop-after, and was killed" in amphora.agent.log
    until(
        lambda: (
            "was killed"
            in str(amphora.request("GET", f"/2.0/instances/{balancer.id}/changes").json())
        ),
        "it is recorded",
    )
    assert balancer.get() in ("web1", "web2")
    balancer.push()


def test_haproxy_d_a_master_that_hangs_is_told_with_what_to_do(balancer: LoadBalancer) -> None:
    amphora, master = balancer.amphora, balancer.master
    before = balancer.configuration.read_bytes()
    balancer.upload()
    with stopped([master], signal.SIGSTOP, signal.SIGCONT):
        with pytest.raises(AmphoraError, match="systemctl restart haproxy-") as refusal:
            balancer.reload()
        assert refusal.value.status == 500
        assert balancer.configuration.read_bytes() == before
        # It serves: that is what everybody tells.
        assert balancer.get() in ("web1", "web2")
        amphora.heartbeats.drain()
        for _ in range(4):
            assert _status(balancer, amphora.heartbeats.next().listeners) == "OPEN"
        assert answers(balancer) == 1
        assert probe_says(balancer)
        alarms = instance(balancer)["alarms"]
        assert [alarm["kind"] for alarm in alarms] == ["master-silent"]
    balancer.push()
    until(lambda: instance(balancer)["alarms"] == [], "the alarm is over")


# A9


def test_a9_what_is_uploaded_and_does_not_run_yet_is_not_told(balancer: LoadBalancer) -> None:
    amphora, other = balancer.amphora, balancer.amphora.new_balancer()
    new = other.listener
    balancer.upload(new)
    other.upload()
    amphora.heartbeats.drain()
    for _ in range(3):
        assert set(amphora.heartbeats.next().listeners) == {balancer.listener.id}
    balancer.reload()
    amphora.heartbeats.wait_for(lambda beat: beat.listeners.get(new.id, {}).get("status") == "OPEN")
    # Taken away again, it is told for as long as it runs.
    balancer.upload()
    assert new.id in amphora.heartbeats.next().listeners
    amphora.agent.restart()
    amphora.heartbeats.drain()
    assert _status(balancer, amphora.heartbeats.next().listeners) == "OPEN"
    balancer.reload()
    amphora.heartbeats.wait_for(lambda beat: set(beat.listeners) == {balancer.listener.id})
