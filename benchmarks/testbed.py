"""What a benchmark stands on: namespaces, an agent that is spoken to as a controller does, and
members that answer."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amphora_agent.agent.settings_file import SettingsFile
from amphora_agent.client.v2 import AmphoraClient
from amphora_agent.paths import Layout, object_id
from benchmarks.baseline_haproxy import BareHaproxy
from lab.agent import AgentProcess
from lab.heartbeats import HeartbeatReceiver
from lab.listeners import HealthMonitor, Listener, loadbalancer, many_listeners, peer_name
from lab.network import Lab, Namespace
from lab.pki import AmphoraPki

#: Every load balancer listens here, in a namespace of its own.
VIP = "127.0.0.1"

#: The controller's default (`[health_manager] heartbeat_interval`).
_HEARTBEAT_INTERVAL = 10

#: Where the members of every pool answer; each has an address of its own.
MEMBER_PORT = 8080

_ORIGIN = f"""\
global
    maxconn 4000
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend origin
    bind 0.0.0.0:{MEMBER_PORT}
    http-request return status 200
"""

#: Seldom enough for the checks of thousands of members to be lost in the noise.
_MONITOR = HealthMonitor(type="HTTP", delay=60, timeout=5, fall=2, rise=2)

#: Connections that all listeners together may have: haproxy wants two descriptors for each.
_MOST_CONNECTIONS = 2000


@dataclass(frozen=True)
class Balancer:
    """A load balancer of many equal listeners, as the controller renders one."""

    id: str
    listeners: tuple[Listener, ...]

    @classmethod
    def of(cls, listeners: int, members: int, *, monitored: bool) -> Balancer:
        return cls(
            str(uuid.uuid4()),
            tuple(
                many_listeners(
                    listeners,
                    members=[(f"127.0.1.{n + 1}", MEMBER_PORT) for n in range(members)],
                    monitor=_MONITOR if monitored else None,
                    connection_limit=max(1, min(100, _MOST_CONNECTIONS // listeners)),
                )
            ),
        )

    def text(self, base_path: Path, *, weight: int = 1) -> str:
        """The configuration, with this weight for the first member of the first listener."""
        first, *others = self.listeners
        assert first.pool is not None
        member, *neighbours = first.pool.members
        pool = replace(first.pool, members=(replace(member, weight=weight), *neighbours))
        return loadbalancer(
            self.id,
            vip=VIP,
            listeners=[replace(first, pool=pool), *others],
            base_path=str(base_path),
        )


@dataclass(frozen=True)
class Testbed:
    """`namespace` is the agent's own; `bare` another of the same kind. Members answer in both."""

    lab: Lab
    haproxy: Path
    directory: Path
    namespace: Namespace
    bare: Namespace
    agent: AgentProcess
    controller: AmphoraClient
    health_manager: HeartbeatReceiver

    def bare_haproxy(self) -> BareHaproxy:
        """A haproxy of our own in the other namespace; one at a time."""
        directory = self.directory / "bare"
        return BareHaproxy(self.haproxy, directory, self.bare, peer_name(self.agent.amphora_id))


@contextlib.contextmanager
def make_testbed(
    haproxy: Path, *, started: bool = True, heartbeat_interval: int = _HEARTBEAT_INTERVAL
) -> Iterator[Testbed]:
    """Make a bed, and remove all of it at the end. `started`: the agent runs already."""
    with contextlib.ExitStack() as ending:
        lab = ending.enter_context(Lab(f"bench-{os.getpid()}"))
        directory = lab.directory()
        # The agent finds its namespace made, so no request comes before it.
        own, bare = lab.namespace("agent"), lab.namespace("bare")
        for namespace in (own, bare):
            ending.enter_context(_origin(haproxy, directory, namespace))
        receiver = ending.enter_context(HeartbeatReceiver("benchmark-key"))
        pki = AmphoraPki.create(directory / "pki", str(uuid.uuid4()))
        agent = AgentProcess(
            directory,
            pki,
            namespace=str(own.name),
            controllers=[receiver.address],
            heartbeat_key=receiver.key,
            heartbeat_interval=heartbeat_interval,
            settings={
                "DEFAULT": {"debug": "False"},
                "haproxy_amphora": {"haproxy_cmd": str(haproxy)},
            },
            record=lab.record,
        )
        ending.callback(agent.close)
        if started:
            agent.start()
        controller = AmphoraClient(agent.url, agent.amphora_id, pki.controller_pem, pki.server_ca)
        ending.callback(controller.close)
        yield Testbed(lab, haproxy, directory, own, bare, agent, controller, receiver)


def deploy(bed: Testbed, balancer: Balancer) -> None:
    """Send a load balancer to the agent and wait until it runs."""
    bed.controller.upload_haproxy(balancer.id, balancer.text(bed.agent.base_path))
    bed.controller.reload(balancer.id)


@contextlib.contextmanager
def running(
    bed: Testbed, balancer: Balancer, more: str = ""
) -> Iterator[tuple[Layout, BareHaproxy]]:
    """A haproxy where the agent would have it, without an agent; `more` is added to its text."""
    bed.agent.base_path.mkdir(exist_ok=True)
    bed.agent.run_path.mkdir(exist_ok=True)
    bed.agent.config_file.write_text(bed.agent.config())
    layout = Layout.of(
        SettingsFile(bed.agent.config_file).current(),
        run=bed.agent.run_path,
        namespace=str(bed.namespace.name),
    )
    place = layout.instance(object_id(balancer.id))
    with BareHaproxy(
        bed.haproxy,
        place.directory,
        bed.namespace,
        peer_name(bed.agent.amphora_id),
        master_socket=place.master_socket,
    ) as instance:
        instance.start(balancer.text(bed.agent.base_path) + more)
        yield layout, instance
    place.configuration.unlink()


def touch(namespace: Namespace, listeners: Sequence[Listener]) -> None:
    """One request to each listener, so that every one of them has something new to count."""
    for listener in listeners:
        with namespace.connect(VIP, listener.port) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while connection.recv(4096):
                pass


@contextlib.contextmanager
def _origin(haproxy: Path, directory: Path, namespace: Namespace) -> Iterator[None]:
    name = f"origin-{namespace.name}"
    with BareHaproxy(haproxy, directory / name, namespace, name) as origin:
        origin.start(_ORIGIN)
        yield
