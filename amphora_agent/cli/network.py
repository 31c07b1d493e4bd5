"""Commands of the network: `amphora-agent network …`, and `amphora-interface`.

They run at boot, and at each event of a DHCP client: this module loads nothing of the API or of
haproxy.
"""

import os

import click

from amphora_agent import logs
from amphora_agent.agent.settings_file import SettingsFile
from amphora_agent.cli.agent import agent_command, base_options, find_operator, require_root
from amphora_agent.errors import AgentError, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.addressing import parse_mac
from amphora_agent.namespace import Namespace
from amphora_agent.network.records import Leases
from amphora_agent.paths import Layout, namespace_file
from amphora_agent.wiring import Options, make_journal, make_layout, make_network


@agent_command("namespace", example="amphora-agent network namespace")
def namespace(options: Options) -> None:
    """Make the traffic's network namespace, if it does not exist. Needs no configuration."""
    Namespace(namespace_file(options.namespace)).ensure()


@agent_command(
    "up", example="amphora-agent --config-file /etc/octavia/amphora-agent.conf network up"
)
def up(options: Options) -> None:
    """Make the traffic's network namespace, and restore every plugged port. Report those that
    cannot be restored."""
    # At boot this runs before keepalived, so it updates keepalived's files, too.
    services = _Services(options, "restore the network")
    try:
        missing = services.network.restore(single=services.single)
    finally:
        _renew_keepalived(services.layout)
    if missing:
        raise OperationFailed("Not everything is restored", "; ".join(missing))


def _renew_keepalived(layout: Layout) -> None:
    if layout.vrrp.configuration.exists() or layout.lvs_listeners():
        from amphora_agent.keepalived import program

        program.renew_all(layout, Alarms(layout.alarms))


@agent_command("plan", example="amphora-agent network plan")
def plan(options: Options) -> None:
    """Print what `network up` would do, and do nothing."""
    services = _Services(options, "look at the network")
    lines = list(services.network.plan(single=services.single))
    for line in lines or ["nothing to do: the network is as it was plugged"]:
        print(line)


@agent_command("lease", example="amphora-agent network lease 02:00:00:00:00:01 deconfig")
@click.argument("mac", metavar="MAC")
@click.argument("event", metavar="EVENT")
def lease(options: Options, mac: str, event: str) -> None:
    """Record an event of a port's DHCP client, which the environment describes, and apply it.
    udhcpc runs this for each event."""
    services = _Services(options, "follow a lease")
    try:
        port = parse_mac(mac)
    except ValueError as error:
        raise AgentError("Invalid MAC address", str(error)) from None
    if services.leases.record_event(port, event, os.environ):
        services.network.follow_lease(port, single=services.single)


@agent_command(
    "amphora-interface",
    example="amphora-interface down eth1\namphora-interface up all",
    options=base_options,
)
@click.argument("action", type=click.Choice(["up", "down"]))
@click.argument("name", metavar="name|all")
def interface(options: Options, action: str, name: str) -> None:
    """Set a plugged interface up as it was plugged, or down, and record that. With `all` it does so
    for every plugged interface, also if one of them fails."""
    services = _Services(options, f"set an interface {action}")
    from amphora_agent.model.events import Operation, Part

    act = {"up": services.network.up, "down": services.network.down}[action]
    journal, operator, failures = make_journal(services.layout), find_operator(), []
    for each in services.network.names() if name == "all" else [name]:
        try:
            with journal.change(Part.INTERFACE, each, operator, Operation(f"interface {action}")):
                act(each, single=services.single)
        except AgentError as error:
            failures.append(f"{each}: {error}")
    if failures:
        raise OperationFailed(f"Not {action}", "; ".join(failures))


class _Services:
    """The services of a command of the network. Raises AgentError."""

    def __init__(self, options: Options, purpose: str) -> None:
        require_root(purpose)
        settings = SettingsFile(options.config_file).current()
        logs.set_up(settings, of_command=True)
        self.layout = make_layout(settings, options)
        self.single = settings.single
        self.leases = Leases(self.layout.leases)
        self.network = make_network(self.layout, self.leases)
