"""Build services from settings and options of the command line, for the agent and its commands.

The modules of a service are loaded when it is built: a command loads no more than it uses.
"""

import functools
import sys
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
    from amphora_agent.network.port_service import Patience
    from amphora_agent.network.records import Leases
    from amphora_agent.network.service import Announce, Network
    from amphora_agent.supervisor.contract import Supervisor

#: The kernel's file that makes it search for new devices.
_PCI_RESCAN = Path("/sys/bus/pci/rescan")

#: A pushed configuration may have the agent's directories below these.
DIRECTORIES = (Path("/var/lib/octavia"), Path("/etc/octavia"), Path("/run"))


@dataclass(frozen=True)
class Options:
    """The values of the command line: the controller cannot know them."""

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
    api_user: str = "amphora-agent"

    def command(self, *words: str) -> tuple[str, ...]:
        """Return a command line of this agent with these options, for any working directory."""
        return (
            *(sys.executable, "-m", "amphora_agent", "--config-file", str(self.config_file)),
            *("--netns", self.namespace, "--run-dir", str(self.run_directory)),
            *words,
        )


def make_layout(settings: Settings, options: Options) -> Layout:
    return Layout.of(settings, run=options.run_directory, namespace=options.namespace)


def make_network(
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
    """Build the service of the network. By default it makes the namespace and keeps no process."""
    from amphora_agent.network.port_service import Patience, Ports
    from amphora_agent.network.records import PortRecords
    from amphora_agent.network.service import Network

    namespace = Namespace(layout.namespace)
    ports = Ports(
        namespace,
        PortRecords(layout.network),
        leases,
        dhcp,
        alarms or Alarms(layout.alarms),
        locks=layout.network_locks,
        patience=patience or Patience(),
        pci_rescan=pci_rescan,
    )
    return Network(
        namespace,
        ports,
        make_namespace=make_namespace or namespace.ensure,
        announce=announce or functools.partial(_announce_once, namespace),
    )


def _announce_once(namespace: Namespace, interface: str, addresses: "Iterable[Address]") -> None:
    # Loaded when everything else is done: at a boot, traffic waits for that.
    from amphora_agent.network.announcer import announce_once

    announce_once(namespace, interface, addresses)


def make_journal(layout: Layout) -> "Journal":
    """Build the journal of this amphora."""
    from amphora_agent.events.journal import Journal

    return Journal(layout.journal, Alarms(layout.alarms))


def make_supervisor(
    layout: Layout,
    options: Options,
    died: Callable[[str, str], None] | None = None,
    alarms: Alarms | None = None,
) -> "Supervisor":
    """Build the supervisor of haproxy and keepalived. `died` is called with the name of each
    process that ends by itself, and the reason."""
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


def make_instances(
    layout: Layout,
    supervisor: "Supervisor",
    journal: "Journal",
    alarms: Alarms,
    started: Settings,
    current: Callable[[], Settings],
    later: Callable[[str, Callable[[], None]], None] | None = None,
    changed: Callable[[], None] | None = None,
) -> "Instances":
    """Build the service of the load balancers. `started` are the settings of the start, `current`
    returns those of now, `later` does work that nobody waits for, and `changed` is called after
    each change."""
    import grp
    import pwd

    from amphora_agent.haproxy.process import render
    from amphora_agent.haproxy.process.binary import Haproxy
    from amphora_agent.haproxy.service import Instances
    from amphora_agent.heartbeat import message

    return Instances(
        layout,
        Haproxy(Path(started.haproxy_cmd), layout.run),
        supervisor,
        journal,
        alarms,
        later=later,
        group=grp.getgrgid(pwd.getpwnam(render.USER).pw_gid).gr_name,
        agent_port=started.bind_port,
        changed=changed,
        most_listeners=message.MOST_LISTENERS,
        has_controllers=lambda: bool(current().controller_ip_port_list),
    )


def make_declared(
    layout: Layout, instances: "Instances", lvs: "LvsListeners", options: Options
) -> "Declared":
    """Build the service of the load balancers of API 2.0."""
    from amphora_agent.keepalived.lvs import ipvs
    from amphora_agent.keepalived.lvs.poller import LvsPoller
    from amphora_agent.loadbalancer.service import Declared
    from amphora_agent.model.responses import ProcessModel

    poller = LvsPoller(layout, ipvs.reader(Namespace(layout.namespace)))
    return Declared(
        layout,
        instances,
        lvs,
        poller.read,
        process_model=ProcessModel(options.process_model),
    )


def make_lvs(layout: Layout, supervisor: "Supervisor", alarms: Alarms) -> "LvsListeners":
    """Build the service of the UDP and SCTP listeners."""
    from amphora_agent.keepalived.lvs import ipvs
    from amphora_agent.keepalived.lvs.service import LvsListeners

    return LvsListeners(layout, supervisor, ipvs.reader(Namespace(layout.namespace)), alarms)
