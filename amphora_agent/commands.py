"""Commands that do one thing and end, and what they share with the agent.

Those of the network are run at boot, and at each event of a DHCP client: nothing of the API, and
nothing of haproxy, is loaded with this module.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amphora_agent import logs
from amphora_agent.errors import AgentError, OperationFailed
from amphora_agent.layout import Layout, object_id
from amphora_agent.model.addressing import Address, parse_mac
from amphora_agent.namespace import Namespace
from amphora_agent.network import netns
from amphora_agent.network.leases import Leases
from amphora_agent.network.plug import Announce, Network
from amphora_agent.network.ports import Patience, Ports
from amphora_agent.network.record import Records
from amphora_agent.settings import Settings, SettingsFile

if TYPE_CHECKING:
    from amphora_agent.declarative.service import Declared
    from amphora_agent.haproxy.instance import Instances
    from amphora_agent.keepalived.lvs import LvsListeners
    from amphora_agent.network.dhcp import DhcpClients
    from amphora_agent.processes.supervisor import Supervisor

#: The user that the controller's configurations name; haproxy gets this user's group.
_HAPROXY_USER = "nobody"

#: The kernel's file that makes it look for new devices.
_PCI_RESCAN = Path("/sys/bus/pci/rescan")
_PATIENCE = Patience()
#: Seconds for the kernel to tell of its virtual servers.
_IPVS_PATIENCE = 5.0


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
    leases: Leases,
    *,
    dhcp: "DhcpClients | None" = None,
    make_namespace: Callable[[], bool] | None = None,
    announce: Announce | None = None,
    patience: Patience = _PATIENCE,
    pci_rescan: Path = _PCI_RESCAN,
) -> Network:
    """The service of the network; by itself one that makes the namespace and keeps no process."""
    namespace, clock = Namespace(layout.namespace), time.monotonic
    ports = Ports(
        namespace,
        Records(layout.network),
        leases,
        dhcp,
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


def _announce_once(namespace: Namespace, interface: str, addresses: Iterable[Address]) -> None:
    # Loaded when everything else is done: at a boot, traffic waits for that.
    from amphora_agent.network.advertise import announce_once

    announce_once(namespace, interface, addresses)


def network_up(options: Options) -> None:
    """Make the namespace and bring back every port that was plugged.

    Raises:
        AgentError: not everything came back; the rest did.
    """
    command = _Command(options)
    if missing := command.network.restore(single=command.single):
        raise OperationFailed("Not everything is restored", "; ".join(missing))


def network_plan(options: Options) -> None:
    """Print what `network_up` would do."""
    command = _Command(options)
    for line in command.network.plan(single=command.single):
        print(line)


def network_lease(options: Options, mac: str, event: str) -> None:
    """What the DHCP client of a port says, by its environment.

    Raises:
        AgentError: it makes no sense, or the interface cannot be made to agree with it.
    """
    command = _Command(options)
    try:
        port = parse_mac(mac)
    except ValueError as error:
        raise AgentError("Invalid MAC address", str(error)) from None
    if command.leases.record_event(port, event, os.environ):
        command.network.follow_lease(port, single=command.single)


def interface(options: Options, action: str, name: str) -> None:
    """Bring an interface up or down; `all` is every one that was plugged.

    Raises:
        AgentError: it cannot be done, for one of them at least; the others are done.
    """
    command = _Command(options)
    act = {"up": command.network.up, "down": command.network.down}[action]
    failures = []
    for each in command.network.names() if name == "all" else [name]:
        try:
            act(each, single=command.single)
        except AgentError as error:
            failures.append(f"{each}: {error}")
    if failures:
        raise OperationFailed(f"Not {action}", "; ".join(failures))


def supervisor_of(layout: Layout, options: Options) -> "Supervisor":
    """Who keeps haproxy alive here."""
    from amphora_agent.processes import systemd

    kind = options.supervisor
    if kind == "auto":
        kind = "systemd" if systemd.is_booted() else "embedded"
    if kind == "systemd":
        return systemd.SystemdSupervisor(layout.units)
    from amphora_agent.processes.embedded import EmbeddedSupervisor

    return EmbeddedSupervisor(layout.processes, layout.run)


def instances_of(settings: Settings, layout: Layout, supervisor: "Supervisor") -> "Instances":
    """The service of the load balancers."""
    import grp
    import pwd

    from amphora_agent.haproxy.instance import Instances
    from amphora_agent.haproxy.process import Haproxy

    return Instances(
        layout,
        Haproxy(Path(settings.haproxy_cmd), layout.run),
        supervisor,
        group=grp.getgrgid(pwd.getpwnam(_HAPROXY_USER).pw_gid).gr_name,
        agent_port=settings.bind_port,
    )


def declared_of(
    layout: Layout, instances: "Instances", layer4: "LvsListeners", options: Options
) -> "Declared":
    """The service of the declared load balancers."""
    from amphora_agent.declarative.service import Declared
    from amphora_agent.keepalived import ipvs, lvs
    from amphora_agent.keepalived.lvs_observe import LvsObserver
    from amphora_agent.model.declared import ProcessModel

    observer = LvsObserver(layout, ipvs.reader(Namespace(layout.namespace)), lvs.runs)
    return Declared(
        layout,
        instances,
        layer4,
        lambda: observer.read(timeout=_IPVS_PATIENCE),
        process_model=ProcessModel(options.process_model),
    )


def layer4_of(layout: Layout, supervisor: "Supervisor") -> "LvsListeners":
    """The service of the UDP and SCTP listeners."""
    from amphora_agent.keepalived import ipvs
    from amphora_agent.keepalived.lvs import LvsListeners

    return LvsListeners(layout, supervisor, ipvs.reader(Namespace(layout.namespace)))


def history(options: Options, instance_id: str, *, as_json: bool) -> None:
    """Print the journal of an instance, the newest entry first: as a table, or as JSON lines.

    Raises:
        AgentError: there is no such instance.
    """
    import msgspec

    from amphora_agent.haproxy.history import table
    from amphora_agent.haproxy.inventory import Inventory

    _, layout, supervisor = _ground(options)
    entries = Inventory(layout, supervisor).changes(object_id(instance_id))
    if as_json:
        lines = [msgspec.json.encode(entry).decode() for entry in entries]
    else:
        lines = table(entries)
    for line in lines:
        print(line)


def rollback(options: Options, instance_id: str, generation: int | None) -> None:
    """Let an instance go back to a generation, by default to the one before the present one; print
    what was done.

    Raises:
        AgentError: it cannot, and is as it was.
    """
    from amphora_agent.model.changes import operator

    settings, layout, supervisor = _ground(options)
    logs.set_up(settings)
    supervisor.adopt()
    instances = instances_of(settings, layout, supervisor)
    which, by = object_id(instance_id), operator(os.getuid())
    if layout.instance(which).declared:
        declared = declared_of(layout, instances, layer4_of(layout, supervisor), options)
        print(declared.rollback(which, generation, by))
    else:
        print(instances.rollback(which, generation, by=by))


def _ground(options: Options) -> "tuple[Settings, Layout, Supervisor]":
    settings = SettingsFile(options.config_file).current()
    layout = layout_of(settings, options)
    return settings, layout, supervisor_of(layout, options)


class _Command:
    def __init__(self, options: Options) -> None:
        settings = SettingsFile(options.config_file).current()
        logs.set_up(settings)
        layout = layout_of(settings, options)
        self.single = settings.single
        self.leases = Leases(layout.leases)
        self.network = network_of(layout, self.leases)
