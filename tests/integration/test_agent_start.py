"""The command: what it takes, and what it says when it cannot start."""

import re
import socket
import subprocess
import uuid
from pathlib import Path

import pytest

from amphora_agent import __version__
from lab.agent import AgentProcess, agent_executable
from lab.network import Lab
from lab.pki import AmphoraPki, Authority
from tests.integration.amphora import with_setting


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*agent_executable(), *arguments], capture_output=True, text=True, check=False, timeout=30
    )


@pytest.fixture
def agent(lab: Lab, authorities: tuple[Authority, Authority]) -> AgentProcess:
    """Not started; its configuration is there."""
    directory = lab.directory()
    pki = AmphoraPki.create(
        directory / "pki",
        str(uuid.uuid4()),
        server_authority=authorities[0],
        client_authority=authorities[1],
    )
    made = AgentProcess(directory, pki, namespace=f"{lab.prefix}-amphora", record=lab.record)
    made.config_file.write_text(made.config())
    return made


def refusal(agent: AgentProcess) -> str:
    """What the command says when it does not start."""
    done = run(*agent.command()[1:])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_help_explains_every_option_and_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("--config-file", "--supervisor", "--netns", "--run-dir", "run", "network up"):
        assert word in done.stdout


def test_the_version_is_told() -> None:
    assert run("--version").stdout == f"amphora-agent {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [("--nonsense",), ("dance",), ("network",), ("--supervisor", "none")], ids=str
)
def test_a_wrong_command_line_is_refused(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: amphora-agent" in done.stderr


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    done = run("--config-file", str(tmp_path / "absent.conf"))
    assert done.returncode == 1
    assert f"{tmp_path}/absent.conf" in done.stderr


def test_a_wrong_value_is_named_with_its_file_section_and_key(agent: AgentProcess) -> None:
    agent.config_file.write_text(with_setting(agent.config(), "bind_port", "none"))
    assert f"{agent.config_file}: [haproxy_amphora] bind_port: is not" in refusal(agent)


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_certificate_that_cannot_be_used_is_named(
    agent: AgentProcess, content: str | None
) -> None:
    agent.pki.server_pem.unlink()
    if content is not None:
        agent.pki.server_pem.write_text(content)
    assert str(agent.pki.server_pem) in refusal(agent)


def test_a_client_authority_that_cannot_be_used_is_no_start(agent: AgentProcess) -> None:
    """An agent that let anybody in would be worse than none."""
    agent.pki.client_ca.write_text("nonsense")
    assert "Cannot serve TLS" in refusal(agent)


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_op9_the_authority_that_cannot_be_used_is_named_and_not_the_certificate(
    agent: AgentProcess, content: str | None
) -> None:
    agent.pki.client_ca.unlink()
    if content is not None:
        agent.pki.client_ca.write_text(content)
    said = refusal(agent)
    assert f"Cannot serve TLS: {agent.pki.client_ca}: no usable authority" in said
    assert str(agent.pki.server_pem) not in said


def test_op9_a_base_path_that_cannot_be_made_is_named(agent: AgentProcess) -> None:
    agent.base_path.parent.mkdir(exist_ok=True)
    agent.base_path.write_text("")
    assert f"Cannot make directory: {agent.base_path}: " in refusal(agent)


def test_op9_an_address_that_is_taken_is_named(agent: AgentProcess) -> None:
    with socket.create_server((agent.address, 0)) as taken:
        port = str(taken.getsockname()[1])
        agent.config_file.write_text(with_setting(agent.config(), "bind_port", port))
        said = refusal(agent)
    assert f"Cannot listen: {agent.address} port {port}: Address already in use" in said


def test_op8_a_damaged_certificate_starts_with_the_one_before(agent: AgentProcess) -> None:
    pem = agent.pki.server_pem
    pem.with_name("server.pem.previous").write_bytes(pem.read_bytes())
    pem.write_bytes(pem.read_bytes()[:300])
    try:
        agent.start()
        assert re.search(rf"ERROR \d+ amphora_agent.events.alarms: {pem}: ", agent.log)
        assert 'amphora_agent_alarm{kind="agent-tls"' in agent.get("/metrics").text
    finally:
        agent.close()
