"""The command `amphora-agent`: its options, which all its commands on the amphora take, and `run`.

Only what reads the command line is loaded with this module.
"""

import dataclasses
import functools
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from amphora_agent import __version__
from amphora_agent.cli.frame import CliCommand, CliGroup, LazyCommand, make_printing_option
from amphora_agent.errors import AgentError

if TYPE_CHECKING:
    from amphora_agent.model.events import Caller
    from amphora_agent.wiring import Options

_DESCRIPTION = """\
The daemon inside an Octavia load balancer VM (an amphora). With a configuration file and nothing
else it serves the controller until it is told to stop.

The Octavia controller writes the configuration file, an INI file. Options decide what the
controller cannot know. They may stand before or after a command.
"""

_EPILOG = """\
push, pull and status use API 2.0 of an agent, here or elsewhere. history and rollback work with and
without a running agent. amphora-agent COMMAND --help explains a command, with an example.
"""


def _make_absolute(path: str) -> Path:
    return Path(path).absolute()


def base_options() -> list[click.Option]:
    """Return the options of every program that works with the agent's files. An option has the name
    of its field in `Options`."""
    config_file = "/etc/octavia/amphora-agent.conf"
    return [
        make_printing_option(
            "--version",
            make=lambda context: f"{context.find_root().info_name} {__version__}",
            help="print the version and exit",
        ),
        click.Option(
            ["--config-file"],
            type=_make_absolute,
            default=config_file,
            metavar="F",
            help=f"the agent's INI file (default: {config_file})",
        ),
        click.Option(
            ["--netns", "namespace"],
            metavar="NAME",
            help="the network namespace of the traffic (default: amphora-haproxy)",
        ),
        click.Option(
            ["--run-dir", "run_directory"],
            type=_make_absolute,
            metavar="DIR",
            help="directory of sockets, locks and logs that may vanish with a reboot "
            "(default: /run/amphora-agent)",
        ),
    ]


def agent_options() -> list[click.Option]:
    """Return the options of `amphora-agent` and of all its commands on the amphora."""
    return [
        *base_options(),
        click.Option(
            ["--supervisor"],
            type=click.Choice(["auto", "systemd", "embedded"]),
            help="who keeps haproxy alive; auto: systemd where it is PID 1 (default: auto)",
        ),
        click.Option(
            ["--memory-limit"],
            type=int,
            metavar="MIB",
            help="report at most this much memory to the controller, if amphorae share a machine",
        ),
        click.Option(
            ["--heartbeat-version"],
            type=click.IntRange(0, 3),
            metavar="N",
            help="version of the heartbeats, 0 to 3 (default: 1 for a controller with API 0.5, 3 "
            "for one with 1.0; see docs/compatibility.md)",
        ),
        click.Option(
            ["--process-model"],
            type=click.Choice(["loadbalancer", "listener"]),
            help="one haproxy for all listeners, or one for each, for load balancers of API 2.0 "
            "that do not choose (default: loadbalancer)",
        ),
        click.Option(
            ["--directories-below", "directories"],
            type=_make_absolute,
            multiple=True,
            metavar="DIR",
            help="a pushed configuration may have the agent's directories below DIR; can be "
            "repeated (default: /var/lib/octavia, /etc/octavia and /run)",
        ),
        click.Option(
            ["--client-crl"],
            type=_make_absolute,
            metavar="FILE",
            help="revocation lists of the controllers' certificates, read again when the file is "
            "replaced (default: none)",
        ),
        click.Option(
            ["--require-client-eku"],
            is_flag=True,
            help="refuse clients whose certificate has no extended key usage; one that has must "
            "be for clients in any case",
        ),
        click.Option(
            ["--api-user"],
            metavar="NAME",
            help="the user of the process that speaks TLS and HTTP; where there is none, that is "
            "root's (default: amphora-agent)",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="history: one JSON document a line"),
    ]


def agent_command(
    name: str,
    *,
    example: str,
    options: Callable[[], list[click.Option]] = agent_options,
    shown: tuple[str, ...] = (),
    lasts: bool = False,
) -> Callable[[Callable[..., None]], CliCommand]:
    """Make a function a command on the amphora. It gets `Options`, and the values of the command's
    own parameters by name. A daemon `lasts`.

    Every command of `amphora-agent` takes all its options, since scripts and units pass them all.
    Help lists those of `base_options`, and those with the names in `shown`.
    """

    def decorate(function: Callable[..., None]) -> CliCommand:
        @functools.wraps(function)
        def call(**_: Any) -> None:
            if not lasts:
                gc.disable()  # it ends before collecting is worth its time
            values = _merge_values(click.get_current_context())
            if "as_json" not in shown:
                values.pop("as_json", None)
            function(_take_options(values), **values)

        parameters = options()
        for option in parameters[len(base_options()) :]:
            option.hidden = option.name not in shown
        return click.command(name, CliCommand, params=parameters, example=example)(call)

    return decorate


def _merge_values(context: click.Context) -> dict[str, Any]:
    """Return the values of all parameters: an option may be given to a command, or before it."""
    if context.parent is None:
        return dict(context.params)
    merged = _merge_values(context.parent)
    for name, value in context.params.items():
        if name in merged and context.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        merged[name] = merged.get(name, ()) + value if isinstance(value, tuple) else value
    return merged


def _take_options(values: dict[str, Any]) -> "Options":
    """Take from the values what is a field of `Options`."""
    from amphora_agent.wiring import Options

    taken = {field.name: values.pop(field.name, None) for field in dataclasses.fields(Options)}
    return Options(**{name: value for name, value in taken.items() if value not in (None, ())})


def require_root(purpose: str) -> None:
    """Check that the user is root.

    Raises:
        AgentError
    """
    if os.geteuid() != 0:
        raise AgentError(f"Cannot {purpose}", "only root may; run it with sudo")


def find_operator() -> "Caller":
    """Return the user who runs this command: that of the login, also under sudo or su."""
    import pwd

    from amphora_agent.model.events import operator
    from amphora_agent.supervisor.processes import login_user

    uid = login_user()
    try:
        return operator(uid, pwd.getpwuid(uid).pw_name)
    except KeyError:
        return operator(uid)


#: Options that matter to a command that changes load balancers, and to the agent.
CHANGING = ("supervisor", "process_model")
_SERVING = (
    *CHANGING,
    *("memory_limit", "heartbeat_version", "directories", "client_crl", "require_client_eku"),
    "api_user",
)


@agent_command(
    "run",
    example="amphora-agent --config-file /etc/octavia/amphora-agent.conf run",
    shown=_SERVING,
    lasts=True,
)
def run(options: "Options") -> None:
    """Serve the controller until told to stop. Without a command, amphora-agent does this."""
    from amphora_agent.daemon.run import run_agent

    run_agent(options)


@click.pass_context
def _run_by_default(context: click.Context, /, **_: Any) -> None:
    if context.invoked_subcommand is None and run.callback is not None:
        run.callback()


_NETWORK = CliGroup(
    "network",
    {
        "namespace": LazyCommand("make the traffic's network namespace", "local:namespace"),
        "up": LazyCommand(
            "make the traffic's network namespace, restore every plugged interface",
            "local:up",
        ),
        "plan": LazyCommand("print what network up would do, and do nothing", "local:plan"),
        "lease": LazyCommand("record an event of a DHCP client", "local:lease"),
    },
    help="Show the plugged network of the amphora, and restore it.",
)

#: The command `amphora-agent`. Its modules are loaded when one of their commands is named.
agent = CliGroup(
    "amphora-agent",
    {
        "run": LazyCommand("serve the controller (the default)", "agent:run"),
        "network": _NETWORK,
        "history": LazyCommand(
            "list what happened to the amphora or a load balancer, when, by whom", "local:history"
        ),
        "rollback": LazyCommand(
            "go back to generation N, or to the last one before the present", "local:rollback"
        ),
        "push": LazyCommand("create or change a load balancer from a file", "remote:push"),
        "pull": LazyCommand("print a load balancer as JSON for push, without keys", "remote:pull"),
        "status": LazyCommand("print the status of a load balancer and its parts", "remote:status"),
    },
    callback=_run_by_default,
    params=agent_options(),
    help=_DESCRIPTION,
    epilog=_EPILOG,
)


@agent_command(
    "prometheus-proxy",
    example="prometheus-proxy --config-file /etc/octavia/amphora-agent.conf",
    options=base_options,
    lasts=True,
)
def prometheus(options: "Options") -> None:
    """Serve the metrics of the load balancers to PROMETHEUS listeners, without the agent. The agent
    serves them, too; the first of the two that starts does."""
    from amphora_agent.daemon.monitoring import run_endpoint

    run_endpoint(options)
