"""Commands on changes: `history` tells what happened, `rollback` takes a change back."""

import click

from amphora_agent import entry, logs
from amphora_agent.agent.settings_file import SettingsFile
from amphora_agent.cli.agent import CHANGING, agent_command, find_operator, require_root
from amphora_agent.events.alarms import Alarms
from amphora_agent.paths import Layout, RenderedLayout, object_id
from amphora_agent.settings.reader import Settings
from amphora_agent.supervisor.contract import Supervisor
from amphora_agent.wiring import (
    Options,
    make_declared,
    make_instances,
    make_journal,
    make_layout,
    make_lvs,
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

    _, layout, supervisor = _prepare(options, "read the record")
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
    settings, layout, supervisor = _prepare(options, "roll back")
    logs.set_up(settings, of_command=True)
    supervisor.adopt()
    journal, alarms = make_journal(layout), Alarms(layout.alarms)
    instances = make_instances(layout, supervisor, journal, alarms, lambda: settings)
    instance, operator = object_id(instance_id), find_operator()
    entry.catch_interrupts()  # one that is interrupted is undone
    if isinstance(layout.instance(instance), RenderedLayout):
        layer4 = make_lvs(layout, supervisor, Alarms(layout.alarms))
        declared = make_declared(layout, instances, layer4, options)
        print(declared.rollback(instance, generation, operator))
    else:
        print(instances.rollback(instance, generation, by=operator))


def _prepare(options: Options, purpose: str) -> tuple[Settings, Layout, Supervisor]:
    """Return what these commands work with. Raises AgentError."""
    require_root(purpose)
    settings = SettingsFile(options.config_file).current()
    layout = make_layout(settings, options)
    return settings, layout, make_supervisor(layout, options)
