"""The installed programs: each starts here and loads no more than it needs."""

from amphora_agent import entry  # first: it handles Ctrl-C while the rest is loaded

# isort: split
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `amphora-agent`; return its exit status."""

    def run() -> int:
        from amphora_agent.cli import agent, frame

        return frame.run_command(agent.agent, arguments)

    return entry.run("amphora-agent", run)


def interface_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `amphora-interface`; return its exit status."""

    def run() -> int:
        from amphora_agent.cli import frame, local

        return frame.run_command(local.interface, arguments)

    return entry.run("amphora-interface", run)


def prometheus_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `prometheus-proxy`; return its exit status."""

    def run() -> int:
        from amphora_agent.cli import agent, frame

        return frame.run_command(agent.prometheus, arguments)

    return entry.run("prometheus-proxy", run)


def checker_main() -> int:
    """Run the command `amphora-health-checker`; return its exit status."""
    from amphora_agent.keepalived.lvs import health_checker

    return entry.run("amphora-health-checker", health_checker.main)


def probe_main() -> int:
    """Run the command `haproxy-vrrp-check`; return its exit status."""
    from amphora_agent.keepalived import probe

    return entry.run("haproxy-vrrp-check", probe.main)
