"""Commands that do one thing to the network and end, and what they share with the agent.

They are run at boot, and at each event of a DHCP client: nothing of the API is loaded here.
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
from amphora_agent.layout import Layout
from amphora_agent.model.addressing import Address, parse_mac
from amphora_agent.namespace import Namespace
from amphora_agent.network import netns
from amphora_agent.network.leases import Leases
from amphora_agent.network.plug import Announce, Network
from amphora_agent.network.ports import Patience, Ports
from amphora_agent.network.record import Records
from amphora_agent.settings import Settings, SettingsFile

if TYPE_CHECKING:
    from amphora_agent.network.dhcp import DhcpClients

#: The kernel's file that makes it look for new devices.
_PCI_RESCAN = Path("/sys/bus/pci/rescan")
_PATIENCE = Patience()


@dataclass(frozen=True)
class Options:
    """What the command line decides, because the controller cannot know it."""

    config_file: Path
    supervisor: str = "auto"
    namespace: str = "amphora-haproxy"
    run_directory: Path = Path("/run/amphora-agent")
    memory_limit: int | None = None
    heartbeat_version: int | None = None

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


class _Command:
    def __init__(self, options: Options) -> None:
        settings = SettingsFile(options.config_file).current()
        logs.set_up(settings)
        layout = layout_of(settings, options)
        self.single = settings.single
        self.leases = Leases(layout.leases)
        self.network = network_of(layout, self.leases)
