"""A booted amphora: Debian with systemd, our wheel installed, the controller's files in place.

host ─ 192.0.2.0/24 ─ eth0 ┐
client ─ 10.1.0.0/24 ─ eth1 ┤ amphora
servers ─ 10.2.0.0/24 ─ eth2 ┘
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from amphora_agent.client.v2 import AmphoraClient, DeclarativeClient
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.replies import Workers
from amphora_agent.haproxy.runtime.socket import MasterSocket
from amphora_agent.revisions.contents import Revisions
from lab import debian, plug_bodies
from lab.archive import UnavailableError
from lab.backend import Backend
from lab.debian import BOOKWORM, TRIXIE, Release
from lab.heartbeats import HeartbeatReceiver
from lab.listeners import TIMEOUT_CLIENT, Listener, http_listener, loadbalancer
from lab.network import Lab, Namespace
from lab.nspawn import Machine
from lab.pki import AmphoraPki
from tests.builders import bodies

CONTROLLER, AMPHORA = "192.0.2.1", "192.0.2.10"
VIP = "10.1.0.5"
WEBS = {"web1": "10.2.0.11", "web2": "10.2.0.12"}
HEARTBEAT_PORT, HEARTBEAT_KEY = 5555, "a key"
HTTP = http_listener("http", port=80, members=[(address, 80) for address in WEBS.values()])

CONFIGURATION = """\
[haproxy_amphora]
bind_host = ::
bind_port = 9443

[health_manager]
controller_ip_port_list = {controller}
heartbeat_interval = 1
heartbeat_key = {key}

[amphora_agent]
agent_server_ca = /etc/octavia/certs/client_ca.pem
agent_server_cert = /etc/octavia/certs/server.pem
amphora_id = {amphora_id}

[controller_worker]
loadbalancer_topology = {topology}
"""


@pytest.fixture(scope="session", params=[BOOKWORM, TRIXIE], ids=lambda release: release.codename)
def release(request: pytest.FixtureRequest) -> Release:
    """Everything is tested with each release of Debian, one after the other."""
    assert isinstance(request.param, Release)
    return request.param


@pytest.fixture(scope="session")
def lab(release: Release) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("systemd-nspawn needs root")
    with Lab("sd") as opened:
        yield opened


@pytest.fixture(scope="session")
def layers(release: Release) -> list[Path]:
    try:
        return debian.tree(release)
    except UnavailableError as missing:
        pytest.skip(f"no Debian to boot: {missing}")


@pytest.fixture(scope="session")
def pki(lab: Lab) -> AmphoraPki:
    return AmphoraPki.create(lab.directory(), str(uuid.uuid4()), key="ec")


def amphora(
    lab: Lab, name: str, layers: list[Path], pki: AmphoraPki, *, topology: str = "SINGLE"
) -> Machine:
    """Not booted yet; with what its config drive delivers."""
    made = Machine(lab, name, layers)
    configuration = CONFIGURATION.format(
        controller=f"{CONTROLLER}:{HEARTBEAT_PORT}",
        key=HEARTBEAT_KEY,
        amphora_id=pki.amphora_id,
        topology=topology,
    )
    made.write("/etc/octavia/amphora-agent.conf", configuration.encode())
    made.write("/etc/octavia/certs/server.pem", pki.server.pem, 0o600)
    made.write("/etc/octavia/certs/client_ca.pem", pki.client_authority.certificate, 0o600)
    return made


@pytest.fixture(scope="session")
def machine(lab: Lab, layers: list[Path], pki: AmphoraPki) -> Iterator[Machine]:
    """Booted, and with nothing plugged but the network of its controller."""
    made = amphora(lab, "amphora", layers, pki)
    with ExitStack() as ending:
        try:
            ending.enter_context(made)
        except UnavailableError as missing:
            pytest.skip(str(missing))
        yield made


@pytest.fixture(scope="session")
def controller(lab: Lab, machine: Machine) -> Namespace:
    namespace = lab.namespace("controller")
    lab.cable(namespace, "eth0", machine.namespace, "eth0")
    namespace.address("eth0", f"{CONTROLLER}/24")
    machine.namespace.address("eth0", f"{AMPHORA}/24")
    return namespace


class ControllerClient(AmphoraClient):
    """Whose connections are made where the controller is. A context: it closes them."""

    def __init__(self, namespace: Namespace, pki: AmphoraPki) -> None:
        self._namespace = namespace
        super().__init__(
            f"https://{AMPHORA}:9443", pki.amphora_id, pki.controller_pem, pki.server_ca
        )

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        return self._namespace.inside(lambda: AmphoraClient.request(self, *args, **kwargs))

    def __enter__(self) -> "ControllerClient":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class DriverClient(DeclarativeClient):
    """The same, of a provider driver."""

    def __init__(self, namespace: Namespace, pki: AmphoraPki) -> None:
        self._namespace = namespace
        super().__init__(
            f"https://{AMPHORA}:9443", pki.amphora_id, pki.controller_pem, pki.server_ca
        )

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        return self._namespace.inside(lambda: DeclarativeClient.request(self, *args, **kwargs))


@pytest.fixture(scope="session")
def api(controller: Namespace, pki: AmphoraPki) -> Iterator[AmphoraClient]:
    with ControllerClient(controller, pki) as made:
        yield made


@pytest.fixture(scope="session")
def driver(controller: Namespace, pki: AmphoraPki) -> Iterator[DeclarativeClient]:
    with closing(DriverClient(controller, pki)) as made:
        yield made


@pytest.fixture(scope="session")
def heartbeats(controller: Namespace) -> Iterator[HeartbeatReceiver]:
    def listen() -> HeartbeatReceiver:
        return HeartbeatReceiver(HEARTBEAT_KEY, address=CONTROLLER, port=HEARTBEAT_PORT)

    with controller.inside(listen) as receiver:
        yield receiver


def vip_plug(mac: str) -> dict[str, Any]:
    """The body of the request that plugs the VIP's port."""
    return plug_bodies.vip_plug(mac, subnet="10.1.0.0/24", gateway="10.1.0.1", vrrp_ip="10.1.0.4")


def member_plug(mac: str) -> dict[str, Any]:
    """The body of the request that plugs the members' port."""
    return plug_bodies.network_plug(mac, plug_bodies.fixed_ip("10.2.0.4", "10.2.0.0/24"))


@pytest.fixture(scope="session")
def client(lab: Lab, machine: Machine, api: AmphoraClient) -> Namespace:
    """On the VIP's network, which is plugged."""
    namespace = lab.namespace("client")
    cable = lab.cable(namespace, "eth0", machine.namespace, "hot1")
    namespace.address("eth0", "10.1.0.1/24")
    api.plug_vip(VIP, vip_plug(cable.mac_b))
    return namespace


@pytest.fixture(scope="session")
def webs(lab: Lab, machine: Machine, api: AmphoraClient) -> Iterator[dict[str, Backend]]:
    """On the members' network, which is plugged."""
    namespace = lab.namespace("servers")
    cable = lab.cable(namespace, "eth0", machine.namespace, "hot2")
    namespace.address("eth0", *(f"{web}/24" for web in WEBS.values()))
    api.plug_network(member_plug(cable.mac_b))
    with ExitStack() as ending:
        yield {
            name: ending.enter_context(Backend(namespace, name, [f"{address}:80"]))
            for name, address in WEBS.items()
        }


def ask(machine: Machine, instance: str, command: str) -> str:
    """What a haproxy answers at its master socket."""
    socket = MasterSocket(machine.path(f"/run/amphora-agent/{instance}.master"))
    return socket.command(command, timeout=5)


@dataclass
class LoadBalancer:
    """A load balancer of its own for each test: an HTTP listener, two members."""

    machine: Machine
    api: AmphoraClient
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    versions: int = 0

    @property
    def unit(self) -> str:
        return f"haproxy-{self.id}.service"

    @property
    def configuration(self) -> Path:
        return self.machine.path(f"/var/lib/octavia/{self.id}/haproxy.cfg")

    def upload(self, *listeners: Listener) -> None:
        """A configuration that no runtime command could reach from the one before."""
        self.versions += 1
        text = loadbalancer(
            self.id,
            vip=VIP,
            listeners=listeners or [HTTP],
            timeout_client=TIMEOUT_CLIENT + self.versions,
        )
        self.api.upload_haproxy(self.id, text)

    def commit(self, text: str, *, loaded: bool = False) -> None:
        """Commit a text that no upload would get through; `loaded`: as one that came up."""
        revisions = Revisions(self.configuration.parent / "revisions")
        before = revisions.reference("committed")
        assert before is not None
        new = revisions.keep({"haproxy.cfg": text.encode()})
        digest = revisions.keep_manifest({**revisions.manifest(before), **new})
        for name in ("committed", f"loaded-{self.id}") if loaded else ("committed",):
            revisions.refer(name, digest)
        self.configuration.write_text(text)

    def reload(self) -> None:
        self.api.reload(self.id)

    def push(self, *listeners: Listener) -> None:
        """Without any: the HTTP listener."""
        self.upload(*listeners)
        self.reload()

    def workers(self) -> Workers:
        """Their process ids are the machine's own."""
        return replies.read_workers(ask(self.machine, self.id, "show proc"))

    def properties(self) -> dict[str, str]:
        return self.machine.properties(self.unit)


@pytest.fixture
def balancer(
    machine: Machine, api: AmphoraClient, client: Namespace, webs: dict[str, Backend]
) -> Iterator[LoadBalancer]:
    """Pushed, and serving."""
    made = LoadBalancer(machine, api)
    made.push()
    yield made
    api.delete(made.id)


@dataclass
class DeclaredBalancer:
    """A load balancer that is put: an HTTP and a TCP listener, each with a pool of both servers."""

    machine: Machine
    driver: DeclarativeClient
    http_port: int = 80
    tcp_port: int = 81
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    http: str = field(default_factory=lambda: str(uuid.uuid4()))
    tcp: str = field(default_factory=lambda: str(uuid.uuid4()))

    def put(self, process_model: str | None = None, **of_listeners: Any) -> dict[str, Any]:
        """Return what was done."""
        return self.driver.put(self.body(**of_listeners), process_model=process_model)

    def body(self, **of_listeners: Any) -> dict[str, Any]:
        ends = ((self.http, "HTTP", self.http_port), (self.tcp, "TCP", self.tcp_port))
        listeners = [
            bodies.listener(
                protocol, name, protocol_port=port, default_pool_id=f"{protocol}-{self.id}"
            )
            | of_listeners
            for name, protocol, port in ends
        ]
        pools = [
            bodies.pool(
                protocol,
                f"{protocol}-{self.id}",
                members=[
                    bodies.member(f"{web}-{name}", address=address, protocol_port=80)
                    for web, address in WEBS.items()
                ],
            )
            for name, protocol, _ in ends
        ]
        return bodies.balancer(
            *listeners, pools=tuple(pools), loadbalancer_id=self.id, vip_address=VIP
        )

    def instances(self, process_model: str) -> set[str]:
        return {self.id} if process_model == "loadbalancer" else {self.http, self.tcp}

    def properties(self, instance: str) -> dict[str, str]:
        return self.machine.properties(f"haproxy-{instance}.service")

    def units(self) -> dict[str, str]:
        """The state of each instance's unit that systemd knows of."""
        listed = self.machine.output(
            "systemctl", "list-units", "--all", "--plain", "--no-legend", "haproxy-*"
        )
        states = {row.split()[0]: row.split()[2] for row in listed.splitlines()}
        units = {each: f"haproxy-{each}.service" for each in (self.id, self.http, self.tcp)}
        return {each: states[unit] for each, unit in units.items() if unit in states}

    def left(self) -> list[str]:
        """Files of it, anywhere."""
        return [
            found
            for name in (self.id, self.http, self.tcp)
            for found in self.machine.output(
                "find", "/etc", "/run", "/var/lib", "-name", f"*{name}*"
            ).splitlines()
        ]


@pytest.fixture(autouse=True)
def _journals(request: pytest.FixtureRequest) -> Iterator[None]:
    """What happened in there, for whoever has to find out why a test failed."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        for machine in request.node.funcargs.values():
            if isinstance(machine, Machine):
                print(f"--- the journal of {machine.name} ---\n{machine.journal()}")
