"""The commands `amphora-agent`, `amphora-interface` and `prometheus-proxy`."""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amphora_agent import __version__
from amphora_agent.errors import AgentError

if TYPE_CHECKING:
    from amphora_agent.commands import Options

_DESCRIPTION = """\
The daemon inside an Octavia load balancer VM (an amphora). With a configuration file and nothing
else it serves the controller until it is told to stop.
"""

_EPILOG = """\
commands:
  run                     serve the controller (the default)
  network up              make the traffic's network namespace, bring back every plugged interface
  network plan            print what network up would do, and do nothing
  network lease MAC EVENT what a DHCP client says (with its environment)
  history ID [--json]     what was changed in a load balancer, when and by whom
  rollback ID [N]         go back to generation N, or to the one before the present one

  push, pull, status      speak to an agent, here or elsewhere, over API 2.0: push --help

history and rollback need no running agent, and do not mind one.

The configuration file is the INI file that the Octavia controller writes. What the controller
cannot know is decided by the options above.
"""


def parser() -> argparse.ArgumentParser:
    """The command line of `amphora-agent`."""
    result = argparse.ArgumentParser(
        prog="amphora-agent",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(result)
    result.add_argument(
        "--supervisor",
        choices=("auto", "systemd", "embedded"),
        default="auto",
        help="who keeps haproxy alive; auto: systemd where it is PID 1 (default: %(default)s)",
    )
    result.add_argument(
        "--memory-limit",
        type=int,
        metavar="MIB",
        help="tell the controller at most this much memory: for amphorae that share a machine",
    )
    result.add_argument(
        "--heartbeat-version",
        type=int,
        choices=range(4),
        metavar="N",
        help="the form of the heartbeats, 0 to 3 (default: what goes with the API that the "
        "controller speaks: 1 with API 0.5, 3 with 1.0; see docs/compatibility.md)",
    )
    result.add_argument(
        "--process-model",
        choices=("loadbalancer", "listener"),
        default="loadbalancer",
        help="of load balancers of API 2.0 for which none was chosen: one haproxy for all "
        "listeners, or one for each (default: %(default)s)",
    )
    result.add_argument("--json", action="store_true", help="history: one JSON document a line")
    result.add_argument("command", nargs="*", default=["run"], metavar="command", help="see below")
    return result


def interface_parser() -> argparse.ArgumentParser:
    """The command line of `amphora-interface`."""
    result = argparse.ArgumentParser(
        prog="amphora-interface",
        description="Bring a plugged interface up as it was plugged, or take it down.",
    )
    _add_options(result)
    result.add_argument("action", choices=("up", "down"))
    result.add_argument("interface", metavar="name|all", help="for example eth1")
    return result


def prometheus_parser() -> argparse.ArgumentParser:
    """The command line of `prometheus-proxy`."""
    result = argparse.ArgumentParser(
        prog="prometheus-proxy",
        description="Serve the metrics of the load balancers to PROMETHEUS listeners, without the "
        "agent, which serves them too; whoever comes first does.",
    )
    _add_options(result)
    return result


_REMOTE = ("push", "pull", "status")


def remote_parser() -> argparse.ArgumentParser:
    """The command line of `amphora-agent push` and its like."""
    common = argparse.ArgumentParser(add_help=False)
    for option, variable, metavar, words in (
        ("--url", "AMPHORA_URL", "URL", "where the API is, such as https://192.0.2.7:9443"),
        ("--amphora-id", "AMPHORA_ID", "ID", "the id that the amphora's certificate must name"),
        ("--cert", "AMPHORA_CERT", "PEM", "the controller's certificate with its key"),
        ("--ca", "AMPHORA_CA", "PEM", "the authority that signed the amphora's certificate"),
    ):
        default = os.environ.get(variable)
        common.add_argument(
            option,
            default=default,
            required=default is None,
            metavar=metavar,
            help=f"{words} (default: ${variable})",
        )
    result = argparse.ArgumentParser(
        prog="amphora-agent", description="Speak to an agent, here or elsewhere, over API 2.0."
    )
    commands = result.add_subparsers(dest="command", required=True)
    push = commands.add_parser(
        "push",
        parents=[common],
        help="make a load balancer what a file says",
        description="Make a load balancer what a file says, with the least disturbance, and tell "
        "what was done; or change nothing, and tell everything that is wrong.",
    )
    push.add_argument(
        "file",
        help="JSON in the form of octavia_lib's provider data model, - for standard input; "
        '"@site.crt" in the place of a PEM is a file beside it',
    )
    push.add_argument("--dry-run", action="store_true", help="tell what would be done, do nothing")
    push.add_argument(
        "--if-match",
        metavar="ETAG",
        help="only if the load balancer has this ETag: nobody else has changed it",
    )
    pull = commands.add_parser(
        "pull", parents=[common], help="print a load balancer as JSON for push, without keys"
    )
    pull.add_argument("id")
    status = commands.add_parser(
        "status", parents=[common], help="print how a load balancer and its parts are"
    )
    status.add_argument("id", nargs="?", help="without it: print what load balancers there are")
    return result


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--config-file",
        type=Path,
        default=Path("/etc/octavia/amphora-agent.conf"),
        metavar="F",
        help="the agent's INI file (default: %(default)s)",
    )
    parser.add_argument(
        "--netns",
        default="amphora-haproxy",
        metavar="NAME",
        help="the network namespace of the traffic (default: %(default)s)",
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=Path("/run/amphora-agent"),
        metavar="DIR",
        help="sockets, locks and logs that may vanish with a reboot (default: %(default)s)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `amphora-agent`; return its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in _REMOTE:
        return _remote(words)
    known = parser()
    given = known.parse_args(words)
    # Loaded after the arguments are known to be right, and no more than is needed.
    if given.command != ["run"]:
        gc.disable()  # too short to leave anything behind that is worth collecting
    from amphora_agent import commands

    options = _options(
        given,
        supervisor=given.supervisor,
        memory_limit=given.memory_limit,
        heartbeat_version=given.heartbeat_version,
        process_model=given.process_model,
    )
    match given.command:
        case ["run"]:
            from amphora_agent.main import run_agent

            return _status(lambda: run_agent(options))
        case ["network", "up"]:
            return _status(lambda: commands.network_up(options))
        case ["network", "plan"]:
            return _printing(lambda: commands.network_plan(options))
        case ["network", "lease", mac, event]:
            return _status(lambda: commands.network_lease(options, mac, event))
        case ["history", instance]:
            return _printing(lambda: commands.history(options, instance, as_json=given.json))
        case ["rollback", instance]:
            return _status(lambda: commands.rollback(options, instance, None))
        case ["rollback", instance, generation] if generation.isascii() and generation.isdigit():
            return _status(lambda: commands.rollback(options, instance, int(generation)))
        case unknown:
            known.error(f"unknown command: {' '.join(unknown)}")


def _remote(words: Sequence[str]) -> int:
    given = remote_parser().parse_args(words)
    gc.disable()
    from amphora_agent import remote

    there = remote.Remote(given.url, given.amphora_id, Path(given.cert), Path(given.ca))
    match given.command:
        case "push":
            return _printing(
                lambda: remote.push(
                    there, given.file, if_match=given.if_match, dry_run=given.dry_run
                )
            )
        case "pull":
            return _printing(lambda: remote.pull(there, given.id))
        case _:
            return _printing(lambda: remote.status(there, given.id))


def interface_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `amphora-interface`; return its exit status."""
    given = interface_parser().parse_args(arguments)
    from amphora_agent import commands

    return _status(lambda: commands.interface(_options(given), given.action, given.interface))


def prometheus_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `prometheus-proxy`; return its exit status."""
    given = prometheus_parser().parse_args(arguments)
    from amphora_agent.monitoring import run_endpoint

    return _status(lambda: run_endpoint(_options(given)))


def _options(given: argparse.Namespace, **more: Any) -> "Options":
    from amphora_agent.commands import Options

    return Options(
        config_file=given.config_file.absolute(),
        namespace=given.netns,
        run_directory=given.run_dir.absolute(),
        **more,
    )


def _status(command: Callable[[], None]) -> int:
    try:
        command()
    except AgentError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    return 0


def _printing(command: Callable[[], None]) -> int:
    """The same for a command whose output somebody may not want to the end (`| grep -q`)."""

    def print_it() -> None:
        try:
            command()
            sys.stdout.flush()
        except BrokenPipeError:
            # What is left to print goes nowhere: Python tries once more at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return _status(print_it)
