"""Builds services from settings and options of the command line, for the agent and its commands.

What a service needs is loaded when it is built: a command loads no more than it uses.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amphora_agent.events.alarms import Alarms
from amphora_agent.namespace import Namespace
from amphora_agent.paths import Layout
from amphora_agent.settings.reader import Settings

if TYPE_CHECKING:
    from amphora_agent.events.journal import Journal
    from amphora_agent.haproxy.service import Instances
    from amphora_agent.keepalived.lvs.service import LvsListeners
    from amphora_agent.loadbalancer.service import Declared
    from amphora_agent.model.addressing import Address
    from amphora_agent.network.dhcp_client import DhcpClients
    from amphora_agent.network.dhcp_leases import Leases
    from amphora_agent.network.port_service import Patience
    from amphora_agent.network.service import Announce, Network
    from amphora_agent.supervisor.contract import Supervisor

#: The kernel's file that makes it look for new devices.
_PCI_RESCAN = Path("/sys/bus/pci/rescan")

#: Below these a pushed configuration may have the agent's directories.
DIRECTORIES = (Path("/var/lib/octavia"), Path("/etc/octavia"), Path("/run"))


@dataclass(frozen=True)
class Options:
    """What the command line decides, because the controller cannot know it."""

    config_file: Path
    supervisor: str = "auto"
    namespace: str = "amphora-haproxy"
    run_directory: Path = Path("/run/amphora-agent")
    memory_limit: int | None = None
    heartbeat_version: int | None = None
    process_model: str = "loadbalancer"
    directories: tuple[Path, ...] = DIRECTORIES
    client_crl: Path | None = None
    require_client_eku: bool = False

    def command(self, *words: str) -> tuple[str, ...]:
        """A command line of this agent with these options, for any working directory."""
        return (
            *(sys.executable, "-m", "amphora_agent", "--config-file", str(self.config_file)),
            *("--netns", self.namespace, "--run-dir", str(self.run_directory)),
            *words,
        )


def layout_of(settings: Settings, options: Options) -> Layout:
    return Layout.of(settings, run=options.run_directory, namespace=options.namespace)


def network_of(
    layout: Layout,
    leases: "Leases",
    *,
    alarms: Alarms | None = None,
    dhcp: "DhcpClients | None" = None,
    make_namespace: Callable[[], bool] | None = None,
    announce: "Announce | None" = None,
    patience: "Patience | None" = None,
    pci_rescan: Path = _PCI_RESCAN,
) -> "Network":
    """The service of the network; by itself one that makes the namespace and keeps no process."""
    from amphora_agent.network import netns
    from amphora_agent.network.port_record import Records
    from amphora_agent.network.port_service import Patience, Ports
    from amphora_agent.network.service import Network

    namespace, clock = Namespace(layout.namespace), time.monotonic
    patience = patience or Patience()
    ports = Ports(
        namespace,
        Records(layout.network),
        leases,
        dhcp,
        alarms or Alarms(layout.alarms),
        locks=layout.network_locks,
        patience=patience,
        clock=clock,
        pci_rescan=pci_rescan,
    )
    return Network(
        namespace,
        ports,
        make_namespace=make_namespace or functools.partial(netns.ensure, namespace),
        announce=announce or functools.partial(_announce_once, namespace),
        patience=patience,
        clock=clock,
    )


def _announce_once(namespace: Namespace, interface: str, addresses: "Iterable[Address]") -> None:
    # Loaded when everything else is done: at a boot, traffic waits for that.
    from amphora_agent.network.announcer import announce_once

    announce_once(namespace, interface, addresses)


def journal_of(layout: Layout) -> "Journal":
    """The record of what happened to this amphora."""
    from amphora_agent.events.journal import Journal

    return Journal(layout.journal, Alarms(layout.alarms))


def supervisor_of(
    layout: Layout,
    options: Options,
    died: Callable[[str, str], None] | None = None,
    alarms: Alarms | None = None,
) -> "Supervisor":
    """Who keeps haproxy alive here; `died` is told of each process that ends by itself, by its name
    and with the reason."""
    from amphora_agent.supervisor import systemd

    kind = options.supervisor
    if kind == "auto":
        kind = "systemd" if systemd.is_booted() else "embedded"
    if kind == "systemd":
        return systemd.SystemdSupervisor(layout.units, died, layout.run / "journal-cursor")
    from amphora_agent.supervisor.embedded import EmbeddedSupervisor

    return EmbeddedSupervisor(
        layout.processes, layout.run, died=died, alarms=alarms or Alarms(layout.alarms)
    )


def instances_of(
    settings: Settings,
    layout: Layout,
    supervisor: "Supervisor",
    journal: "Journal",
    alarms: Alarms,
    current: Callable[[], Settings],
    later: Callable[[str, Callable[[], None]], None] | None = None,
    changed: Callable[[], None] | None = None,
) -> "Instances":
    """The service of the load balancers; `current` are the settings as they are now. `later` does
    the work that nobody waits for; `changed` is
    called after each change."""
    import grp
    import pwd

    from amphora_agent.haproxy.process import render
    from amphora_agent.haproxy.process.binary import Haproxy
    from amphora_agent.haproxy.service import Instances
    from amphora_agent.heartbeat.datagram import message

    return Instances(
        layout,
        Haproxy(Path(settings.haproxy_cmd), layout.run),
        supervisor,
        journal,
        alarms,
        later=later,
        group=grp.getgrgid(pwd.getpwnam(render.USER).pw_gid).gr_name,
        agent_port=settings.bind_port,
        changed=changed,
        most_listeners=message.MOST_LISTENERS,
        has_controllers=lambda: bool(current().controller_ip_port_list),
    )


def declared_of(
    layout: Layout, instances: "Instances", layer4: "LvsListeners", options: Options
) -> "Declared":
    """The service of the declared load balancers."""
    from amphora_agent.keepalived.lvs import ipvs
    from amphora_agent.keepalived.lvs.poller import LvsPoller
    from amphora_agent.loadbalancer.service import Declared
    from amphora_agent.model.loadbalancer.results import ProcessModel

    poller = LvsPoller(layout, ipvs.reader(Namespace(layout.namespace)))
    return Declared(
        layout,
        instances,
        layer4,
        poller.read,
        process_model=ProcessModel(options.process_model),
    )


def layer4_of(layout: Layout, supervisor: "Supervisor", alarms: Alarms) -> "LvsListeners":
    """The service of the UDP and SCTP listeners."""
    from amphora_agent.keepalived.lvs import ipvs
    from amphora_agent.keepalived.lvs.service import LvsListeners

    return LvsListeners(layout, supervisor, ipvs.reader(Namespace(layout.namespace)), alarms)
