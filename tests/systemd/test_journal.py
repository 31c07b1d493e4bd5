"""What an operator finds with `journalctl -t amphora-agent` and `-p err`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from amphora_agent.client.v2 import AmphoraClient
from lab.http import FAILURES
from lab.nspawn import Machine
from lab.waiting import until
from tests.systemd.conftest import LoadBalancer


def journal(machine: Machine, *options: str) -> list[str]:
    """The lines of this boot, with their tags."""
    shown = machine.run(["journalctl", "--boot", "--no-pager", *options], check=False).stdout
    return [line for line in shown.splitlines() if not line.startswith("-- ")]


@contextmanager
def syslog(machine: Machine, api: AmphoraClient, use: bool) -> Iterator[None]:
    """The agent with `use_syslog` as Octavia's configuration has it, or without."""
    text = machine.path("/etc/octavia/amphora-agent.conf").read_text()
    changed = f"[DEFAULT]\nuse_syslog = {use}\n\n{text}"
    machine.path("/etc/octavia/amphora-agent.conf").write_text(changed)
    restart(machine, api)
    try:
        yield
    finally:
        machine.path("/etc/octavia/amphora-agent.conf").write_text(text)
        restart(machine, api)


def restart(machine: Machine, api: AmphoraClient) -> None:
    machine.run(["systemctl", "restart", "amphora-agent.service"])

    def answers() -> bool:
        try:
            return bool(api.info())
        except FAILURES:
            return False

    until(answers, "the agent answers")


@pytest.mark.parametrize("use_syslog", [True, False])
def test_op10_the_agent_is_found_by_its_name_and_its_errors_by_their_level(
    machine: Machine, api: AmphoraClient, balancer: LoadBalancer, use_syslog: bool
) -> None:
    with syslog(machine, api, use_syslog):
        mark = ["--since", machine.output("date", "+%Y-%m-%d %H:%M:%S")]
        balancer.push()

        def told(*options: str) -> list[str]:
            return journal(machine, *mark, "-t", "amphora-agent", *options)

        def change(*options: str) -> bool:
            return any(f"instance={balancer.id} change=reload" in line for line in told(*options))

        until(change, "the change is found by the agent's name")
        assert change("-p", "info")
        assert not change("-p", "warning")
        lines = told()
        assert all(re.search(r" amphora-agent\[\d+\]: [^<]", line) for line in lines), lines
        # An error of the agent's.
        machine.path(f"/var/lib/octavia/{balancer.id}/haproxy.cfg").write_text("edited\n")
        balancer.reload()
        until(
            lambda: any("haproxy.cfg" in line for line in told("-p", "err")),
            "an error is found by its level",
        )


def test_op10_what_haproxy_says_has_the_level_that_it_says(
    machine: Machine, balancer: LoadBalancer
) -> None:
    worker = balancer.workers().current
    machine.run(["kill", "-KILL", str(worker)])
    until(
        lambda: any("[ALERT]" in line for line in journal(machine, f"--unit={balancer.unit}")),
        "haproxy has said it",
    )

    def errors() -> list[str]:
        return journal(machine, "-p", "err")

    name = balancer.unit.removesuffix(".service")
    until(
        lambda: any(f"{name}: [ALERT]" in line for line in errors()),
        "it is found by its level",
        timeout=40,
    )
    assert not any("[NOTICE]" in line for line in errors())
    assert not any("[WARNING]" in line for line in errors())
    said = [line for line in errors() if f"{name}: [ALERT]" in line]
    assert len(said) == len(set(said)), "each is told once"
