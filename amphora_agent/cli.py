"""The command `amphora-agent`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from amphora_agent import __version__
from amphora_agent.errors import AgentError

_DESCRIPTION = """\
The daemon inside an Octavia load balancer VM (an amphora). With a configuration file and nothing
else it serves the controller until it is told to stop.
"""

_EPILOG = """\
commands:
  run           serve the controller (the default)
  network up    make the traffic's network namespace, bring back every plugged interface, and end

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
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    result.add_argument(
        "--config-file",
        type=Path,
        default=Path("/etc/octavia/amphora-agent.conf"),
        metavar="F",
        help="the agent's INI file (default: %(default)s)",
    )
    result.add_argument(
        "--supervisor",
        choices=("auto", "systemd", "embedded"),
        default="auto",
        help="who keeps haproxy alive; auto: systemd where it is PID 1 (default: %(default)s)",
    )
    result.add_argument(
        "--netns",
        default="amphora-haproxy",
        metavar="NAME",
        help="the network namespace of the traffic (default: %(default)s)",
    )
    result.add_argument(
        "--run-dir",
        type=Path,
        default=Path("/run/amphora-agent"),
        metavar="DIR",
        help="sockets and logs that may vanish with a reboot (default: %(default)s)",
    )
    result.add_argument(
        "--memory-limit",
        type=int,
        metavar="MIB",
        help="tell the controller at most this much memory: for amphorae that share a machine",
    )
    result.add_argument("command", nargs="*", default=["run"], metavar="command", help="see below")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    commands = parser()
    given = commands.parse_args(arguments)
    # Loaded after the arguments are known to be right: --help needs no web server.
    from amphora_agent import main as agent

    options = agent.Options(
        config_file=given.config_file.absolute(),
        supervisor=given.supervisor,
        namespace=given.netns,
        run_directory=given.run_dir.absolute(),
        memory_limit=given.memory_limit,
    )
    try:
        match given.command:
            case ["run"]:
                agent.run_agent(options)
            case ["network", "up"]:
                agent.network_up(options)
            case unknown:
                commands.error(f"unknown command: {' '.join(unknown)}")
    except AgentError as error:
        print(f"amphora-agent: {error}", file=sys.stderr)
        return 1
    return 0
