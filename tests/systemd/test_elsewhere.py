"""An amphora whose directories are not where the installed units expect them, with the drop-ins
that docs/confinement.md gives for that."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.archive import UnavailableError
from lab.backend import Backend
from lab.http import get
from lab.listeners import http_listener, loadbalancer
from lab.network import Lab, Namespace
from lab.nspawn import Machine
from lab.pki import AmphoraPki
from tests.systemd.conftest import AMPHORA, CONTROLLER, VIP, ControllerClient, amphora, vip_plug

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "confinement.md"
SETTINGS = {
    "haproxy_amphora": {"base_path": "/srv/octavia", "base_cert_dir": "/srv/octavia/certs"},
    "amphora_agent": {"agent_server_network_dir": "/srv/interfaces"},
}
LB = "0b1d1c52-93c6-4c3d-9d5c-1b8f3f0a7c11"
UNITS = ("amphora-agent.service", "amphora-network.service")


def drop_in() -> str:
    found = re.search(r"(?s)```\n(\[Service\]\nReadWritePaths=.*?)```", DOCUMENT.read_text())
    assert found
    return found[1]


@pytest.fixture(scope="module")
def machine(lab: Lab, layers: list[Path], pki: AmphoraPki) -> Iterator[Machine]:
    made = amphora(lab, "elsewhere", layers, pki)
    configuration = made.written("/etc/octavia/amphora-agent.conf").decode()
    for section, values in SETTINGS.items():
        lines = "".join(f"{key} = {value}\n" for key, value in values.items())
        configuration = configuration.replace(f"[{section}]\n", f"[{section}]\n{lines}")
    made.write("/etc/octavia/amphora-agent.conf", configuration.encode())
    for directory in ("/srv/octavia", "/srv/interfaces"):
        made.write(f"{directory}/.keep", b"")
    for unit in UNITS:
        made.write(f"/etc/systemd/system/{unit}.d/places.conf", drop_in().encode())
    try:
        with made:
            yield made
    except UnavailableError as missing:
        pytest.skip(str(missing))


def test_b6_paths_elsewhere_take_a_drop_in(lab: Lab, machine: Machine, pki: AmphoraPki) -> None:
    controller, client = lab.namespace("elsewhere-c"), lab.namespace("elsewhere-v")
    lab.cable(controller, "eth0", machine.namespace, "eth0")
    controller.address("eth0", f"{CONTROLLER}/24")
    machine.namespace.address("eth0", f"{AMPHORA}/24")
    cable = lab.cable(client, "eth0", machine.namespace, "hot1")
    client.address("eth0", "10.1.0.1/24")
    with ControllerClient(controller, pki) as api, Backend(client, "web", ["10.1.0.1:8001"]):
        api.plug_vip(VIP, vip_plug(cable.mac_b))
        _serve(api, client)
        api.delete(LB)
    assert any(machine.path("/srv/interfaces").glob("*.json"))
    assert machine.run(["systemctl", "restart", "amphora-network.service"]).returncode == 0
    said = machine.output("journalctl", "--boot", "--unit=amphora-network", "--output=cat")
    assert "Read-only file system" not in said


def _serve(api: ControllerClient, client: Namespace) -> None:
    listener = http_listener("elsewhere", port=80, members=[("10.1.0.1", 8001)])
    text = loadbalancer(LB, vip=VIP, listeners=[listener], base_path="/srv/octavia")
    api.upload_haproxy(LB, text)
    api.reload(LB)
    assert get(client, VIP, 80).status == 200
