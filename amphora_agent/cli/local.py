"""Commands on this amphora: `history` and `rollback`, `network …`, and `amphora-interface`.

Those of the network run at boot, and at each event of a DHCP client: this module loads nothing of
the API, haproxy or the network; a command that needs one of them loads it.
"""

import os

import click

from amphora_agent import entry
from amphora_agent.agent import logs
from amphora_agent.agent.settings_file import SettingsFile
from amphora_agent.cli.agent import (
    CHANGING,
    agent_command,
    base_options,
    find_operator,
    require_root,
)
from amphora_agent.errors import AgentError, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.addressing import parse_mac
from amphora_agent.namespace import Namespace
from amphora_agent.paths import Layout, RenderedLayout, namespace_file, object_id
from amphora_agent.revisions import state_format
from amphora_agent.settings.reader import Settings
from amphora_agent.wiring import (
    Options,
    make_declared,
    make_instances,
    make_journal,
    make_layout,
    make_lvs,
    make_network,
    make_supervisor,
)

_AN_ID = "5be7a3f2-0a9e-4f5c-a9d1-3a6e3c6f7c11"


@agent_command(
    "history",
    example=f"amphora-agent history\namphora-agent history {_AN_ID} --json",
    shown=("supervisor", "as_json"),
)
@click.argument("instance_id", metavar="[ID]", required=False)
def history(options: Options, instance_id: str | None, *, as_json: bool) -> None:
    """Print the record of what happened to the amphora, or to one load balancer: when, what, and by
    whom, the newest entry first. It is a table, or JSON lines."""
    import msgspec

    from amphora_agent.haproxy.status import Inventory
    from amphora_agent.model.events import table

    _, layout = _prepare(options, "read the record")
    supervisor = make_supervisor(layout, options)
    alarms, journal = Alarms(layout.alarms), make_journal(layout)
    if instance_id is None:
        entries = journal.entries()
    else:
        entries = Inventory(layout, supervisor, alarms, journal).changes(object_id(instance_id))
    encode = msgspec.json.encode
    lines = (encode(each).decode() for each in entries) if as_json else table(entries)
    for line in lines:
        print(line)


def _parse_generation(
    context: click.Context, argument: click.Parameter, value: str | None
) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise click.UsageError(f"{value!r} is not the number of a generation", context)
    return int(value)


@agent_command(
    "rollback",
    example=f"amphora-agent rollback {_AN_ID}\namphora-agent rollback {_AN_ID} 7",
    shown=CHANGING,
)
@click.argument("instance_id", metavar="ID")
@click.argument("generation", metavar="[N]", required=False, callback=_parse_generation)
def rollback(options: Options, instance_id: str, generation: int | None) -> None:
    """Go back to generation N of a load balancer, or to the one before the present one, and print
    what was done. One that cannot go back is as it was."""
    settings, layout = _prepare(options, "roll back")
    state_format.require_known(layout.format)
    logs.set_up(settings, of_command=True)
    supervisor = make_supervisor(layout, options)
    supervisor.adopt()
    journal, alarms = make_journal(layout), Alarms(layout.alarms)
    instances = make_instances(layout, supervisor, journal, alarms, settings, lambda: settings)
    instance, operator = object_id(instance_id), find_operator()
    entry.catch_interrupts()  # one that is interrupted is undone
    if isinstance(layout.instance(instance), RenderedLayout):
        layer4 = make_lvs(layout, supervisor, alarms)
        declared = make_declared(layout, instances, layer4, options)
        print(declared.rollback(instance, generation, operator))
    else:
        print(instances.rollback(instance, generation, by=operator))


def _prepare(options: Options, purpose: str) -> tuple[Settings, Layout]:
    """Return the settings and paths that commands of root work with. Raises AgentError."""
    require_root(purpose)
    settings = SettingsFile(options.config_file).current()
    return settings, make_layout(settings, options)


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
    services = _Services(options, "look at the network", changes=False)
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
    for ifname in services.network.names() if name == "all" else [name]:
        try:
            with journal.change(Part.INTERFACE, ifname, operator, Operation(f"interface {action}")):
                act(ifname, single=services.single)
        except AgentError as error:
            failures.append(f"{ifname}: {error}")
    if failures:
        raise OperationFailed(f"Not {action}", "; ".join(failures))


class _Services:
    """The services of a command of the network, which changes something or only reads. Raises
    AgentError."""

    def __init__(self, options: Options, purpose: str, *, changes: bool = True) -> None:
        from amphora_agent.network.records import Leases

        settings, self.layout = _prepare(options, purpose)
        logs.set_up(settings, of_command=True)
        if changes:
            state_format.require_known(self.layout.format)
        self.single = settings.single
        self.leases = Leases(self.layout.leases)
        self.network = make_network(self.layout, self.leases)
