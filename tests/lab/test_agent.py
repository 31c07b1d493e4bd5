"""Ending an agent ends the agent, and spares what carries traffic until the very end."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from amphora_agent.client.v2 import AmphoraClient
from lab.agent import AgentError, AgentProcess
from lab.listeners import http_listener, loadbalancer
from lab.network import Lab, namespace_exists
from lab.pki import AmphoraPki

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest.fixture
def agent() -> Iterator[AgentProcess]:
    prefix = f"agent-{os.getpid()}"
    with Lab(prefix) as lab:
        directory = lab.directory()
        pki = AmphoraPki.create(directory / "pki", str(uuid.uuid4()), key="ec")
        with AgentProcess(
            directory, pki, namespace=f"{prefix}-amphora", record=lab.record
        ) as agent:
            yield agent


def load_balancer(agent: AgentProcess) -> None:
    client = AmphoraClient(
        agent.url, agent.amphora_id, agent.pki.controller_pem, agent.pki.server_ca
    )
    lb_id = str(uuid.uuid4())
    listener = http_listener("listener", members=[("127.0.0.1", 81)])
    text = loadbalancer(
        lb_id, vip="127.0.0.1", listeners=[listener], base_path=str(agent.base_path)
    )
    client.upload_haproxy(lb_id, text)
    client.reload(lb_id)
    client.close()


def test_kill_and_stop_spare_haproxy_and_close_does_not(agent: AgentProcess) -> None:
    load_balancer(agent)
    serving = agent.services()
    assert [process.program for process in serving] == ["haproxy", "haproxy"]

    agent.kill()
    assert agent.pids() == []
    assert agent.services() == serving

    agent.start()
    assert agent.get("/1.0/info").status == 200
    agent.restart()
    agent.stop()
    assert agent.pids() == []
    assert agent.services() == serving

    agent.close()
    assert agent.services() == []
    assert not any(process.alive for process in serving)
    assert not namespace_exists(agent.namespace)


def test_a_failed_start_shows_the_log(agent: AgentProcess) -> None:
    agent.stop()
    agent.config_file.write_text("[haproxy_amphora]\nbind_port = many\n")
    with pytest.raises(AgentError, match="bind_port"):
        agent.start()
    assert agent.pids() == []
