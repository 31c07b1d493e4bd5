"""One booted amphora with a kernel that has IPVS and SCTP; all the others are inside, too.

client ─ 10.1.0.0/24, 2001:db8:1::/64 ─ eth1 ┐
                                             ┤ amphora-haproxy
servers ─ 10.2.0.0/24, 2001:db8:2::/64 ─ eth2 ┘
"""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.client.v2 import AmphoraClient, DeclarativeClient
from lab.archive import UnavailableError
from lab.debian import BOOKWORM
from lab.heartbeats import Heartbeat, HeartbeatReceiver
from lab.network import Lab
from lab.pki import AmphoraPki
from lab.plug_bodies import fixed_ip, network_plug, vip_plug
from lab.vm import BOOT_SCRIPT, GATEWAY, Image, VirtualMachine, image
from lab.waiting import until

VIP, VIP_V6 = "10.1.0.5", "2001:db8:1::5"
AMPHORA_AT_SERVERS, AMPHORA_AT_SERVERS_V6 = "10.2.0.4", "2001:db8:2::4"
#: By name: the addresses of two servers.
SERVERS = {
    "one": ("10.2.0.11", "2001:db8:2::11"),
    "two": ("10.2.0.12", "2001:db8:2::12"),
}
_VIP_MAC, _MEMBER_MAC = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
_KEY = "a key"
#: Seconds for a request, that may start several units on a machine that is slow and starved.
_PATIENCE = 300.0

_CONFIGURATION = """\
[health_manager]
controller_ip_port_list = {controller}
heartbeat_interval = 1
heartbeat_key = {key}

[amphora_agent]
agent_server_ca = /etc/octavia/certs/client_ca.pem
agent_server_cert = /etc/octavia/certs/server.pem
amphora_id = {amphora_id}

[controller_worker]
loadbalancer_topology = SINGLE
"""

#: What is there at each boot, before anything is plugged: two cables, and who is at their ends.
_CABLES = f"""
for end in client:{_VIP_MAC}:vips servers:{_MEMBER_MAC}:members; do
    name=${{end%%:*}} port=${{end##*:}} mac=${{end#*:}} mac=${{mac%:*}}
    ip netns add $name
    ip link add hot-$port address $mac type veth peer name eth0 netns $name
    ip -n $name link set lo up
    ip -n $name link set eth0 up
done
ip -n client address add 10.1.0.1/24 dev eth0
ip -n client address add 2001:db8:1::1/64 dev eth0 nodad
for number in 11 12; do
    ip -n servers address add 10.2.0.$number/24 dev eth0
    ip -n servers address add 2001:db8:2::$number/64 dev eth0 nodad
done
"""


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("the disk of the machine can be made by root only")
    with Lab("vm") as opened:
        yield opened


@pytest.fixture(scope="session")
def disk() -> Image:
    try:
        return image(BOOKWORM)
    except UnavailableError as missing:
        pytest.skip(f"no machine to boot: {missing}")


@pytest.fixture(scope="session")
def heartbeats() -> Iterator[HeartbeatReceiver]:
    with HeartbeatReceiver(_KEY) as receiver:
        yield receiver


@pytest.fixture(scope="session")
def pki(lab: Lab) -> AmphoraPki:
    return AmphoraPki.create(lab.directory(), str(uuid.uuid4()), key="ec")


@pytest.fixture(scope="session")
def machine(
    lab: Lab, disk: Image, pki: AmphoraPki, heartbeats: HeartbeatReceiver
) -> Iterator[VirtualMachine]:
    """Booted, with nothing plugged."""
    configuration = _CONFIGURATION.format(
        controller=f"{GATEWAY}:{heartbeats.address.rpartition(':')[2]}",
        key=_KEY,
        amphora_id=pki.amphora_id,
    )
    files = {
        "/etc/octavia/amphora-agent.conf": configuration.encode(),
        "/etc/octavia/certs/server.pem": pki.server.pem,
        "/etc/octavia/certs/client_ca.pem": pki.client_authority.certificate,
        "/lab/peers.py": Path(__file__).with_name("peers.py").read_bytes(),
        BOOT_SCRIPT: _CABLES.encode(),
    }
    try:
        with VirtualMachine(lab, disk, files=files) as started:
            yield started
    except UnavailableError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def api(machine: VirtualMachine, pki: AmphoraPki) -> Iterator[AmphoraClient]:
    """Of an amphora whose two ports are plugged."""
    made = AmphoraClient(
        f"https://127.0.0.1:{machine.api_port}",
        pki.amphora_id,
        pki.controller_pem,
        pki.server_ca,
        timeout=_PATIENCE,
    )
    await_api(made)
    made.plug_vip(VIP, _vip_plug())
    made.plug_network(_member_plug())
    yield made
    made.close()


@pytest.fixture(scope="session")
def driver(
    machine: VirtualMachine, api: AmphoraClient, pki: AmphoraPki
) -> Iterator[DeclarativeClient]:
    """The same amphora's other API."""
    made = DeclarativeClient(
        f"https://127.0.0.1:{machine.api_port}",
        pki.amphora_id,
        pki.controller_pem,
        pki.server_ca,
        timeout=_PATIENCE,
    )
    yield made
    made.close()


def await_api(api: AmphoraClient) -> None:
    def answers() -> bool:
        try:
            return bool(api.info())
        except OSError:
            return False

    until(answers, "the agent answers", timeout=120)


class Peers:
    """Clients and servers inside the machine."""

    def __init__(self, machine: VirtualMachine) -> None:
        self._machine = machine

    def serve(self, name: str, port: int, kind: str = "udp") -> None:
        addresses = " ".join(SERVERS[name])
        self._machine.run(
            f"systemd-run --quiet --collect --unit=server-{kind}-{name} ip netns exec servers "
            f"python3 -I -S /lab/peers.py serve {kind} {name} {port} {addresses}"
        )
        own = SERVERS[name][1]
        listed = f"ip netns exec servers ss -Hln --{kind} 'sport = {port}'"
        until(lambda: own in self._machine.run(listed), f"{name} listens", timeout=60)

    def end(self, name: str, kind: str = "udp") -> None:
        self._machine.run(f"systemctl stop server-{kind}-{name}")

    def ask(self, address: str, port: int, count: int, kind: str = "udp") -> list[str]:
        """The answers: which server, and whom it took for the client."""
        said = self._machine.run(
            f"ip netns exec client python3 -I -S /lab/peers.py ask {kind} {address} {port} {count}"
        )
        answers: list[str] = json.loads(said)
        return answers


@pytest.fixture(scope="session")
def peers(machine: VirtualMachine, api: AmphoraClient) -> Peers:
    return Peers(machine)


@pytest.fixture(scope="session")
def await_heartbeat(heartbeats: HeartbeatReceiver, api: AmphoraClient) -> Any:
    """Waits for a heartbeat, of those from now on, that is as it should be."""

    def wait(as_it_should_be: Any, timeout: float = 60) -> Heartbeat:
        heartbeats.drain()
        return heartbeats.wait_for(as_it_should_be, timeout)

    return wait


@pytest.fixture(autouse=True)
def _journal(request: pytest.FixtureRequest) -> Iterator[None]:
    """What happened in there, for whoever has to find out why a test failed."""
    failed_before = request.session.testsfailed
    yield
    machine = request.node.funcargs.get("machine")
    if request.session.testsfailed > failed_before and machine is not None:
        print(f"--- the journal ---\n{machine.run('journalctl -n 60 --no-pager', check=False)}")


def _vip_plug() -> dict[str, Any]:
    second = fixed_ip(VIP_V6, "2001:db8:1::/64", gateway="2001:db8:1::1")
    return vip_plug(
        _VIP_MAC,
        subnet="10.1.0.0/24",
        gateway="10.1.0.1",
        vrrp_ip="10.1.0.4",
        additional_vips=[second],
    )


def _member_plug() -> dict[str, Any]:
    return network_plug(
        _MEMBER_MAC,
        fixed_ip(AMPHORA_AT_SERVERS, "10.2.0.0/24"),
        fixed_ip(AMPHORA_AT_SERVERS_V6, "2001:db8:2::/64"),
    )
