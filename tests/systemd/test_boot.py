"""The installed wheel with its units, as an amphora boots them."""

import ssl
from pathlib import Path

import pytest

from amphora_agent.client.v2 import AmphoraClient
from lab.heartbeats import HeartbeatReceiver
from lab.http import Tls, get
from lab.network import Namespace
from lab.nspawn import Machine
from lab.pki import AmphoraPki
from tests.systemd.conftest import AMPHORA

CHECKOUT = Path(__file__).resolve().parents[2]
UNITS = ("amphora-netns.service", "amphora-network.service", "amphora-agent.service")


def test_everything_comes_up(machine: Machine) -> None:
    failed = machine.output("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    assert (machine.state(), failed) == ("running", "")
    assert [machine.properties(unit)["ActiveState"] for unit in UNITS] == ["active"] * 3


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_to_complain_of(machine: Machine, unit: str) -> None:
    said = machine.run(["systemd-analyze", "verify", unit])
    assert said.stdout + said.stderr == ""


@pytest.mark.parametrize("folder", ["haproxy_templates", "systemd"])
def test_the_templates_came_with_the_wheel(machine: Machine, folder: str) -> None:
    shown = machine.output(
        "/opt/amphora-agent/bin/python",
        "-c",
        f"from amphora_agent import templates; print(templates.find_directory({folder!r}))",
    )
    assert shown.startswith("/opt/amphora-agent/lib/")
    installed = {path.name for path in machine.path(shown).iterdir() if path.is_file()}
    assert installed == {path.name for path in CHECKOUT.joinpath(folder).iterdir()}


def test_the_namespace_is_there_with_its_loopback_up(machine: Machine) -> None:
    shown = machine.output("ip", "-netns", "amphora-haproxy", "-brief", "link", "show", "lo")
    assert "UP" in shown


def test_the_controller_is_answered_and_nobody_else(
    api: AmphoraClient, controller: Namespace
) -> None:
    info = api.info()
    assert (info["api_version"], info["hostname"]) == ("1.0", "amphora")
    with pytest.raises(ssl.SSLError):
        get(controller, AMPHORA, 9443, tls=Tls())


def test_it_makes_itself_heard_before_there_is_a_load_balancer(
    heartbeats: HeartbeatReceiver, pki: AmphoraPki
) -> None:
    heartbeat = heartbeats.next()
    assert heartbeat.amphora_id == pki.amphora_id
    assert heartbeat.listeners == {}
