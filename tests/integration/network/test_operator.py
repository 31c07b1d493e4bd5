"""What an operator does at a shell: look at the plan, bring interfaces up and down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from amphora_agent import cli
from amphora_agent.errors import NotFound
from lab.waiting import until
from tests.integration.network.rig import MEMBER_MAC, MORE6, VIP_MAC, Rig


class Shell:
    """Runs the commands as processes."""

    def __init__(self, rig: Rig) -> None:
        given = rig.options
        self.options = ["--config-file", str(given.config_file)]
        self.options += ["--netns", given.namespace, "--run-dir", str(given.run_directory)]

    def agent(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._run("amphora-agent", *self.options, *words)

    def interface(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._run("amphora-interface", *self.options, *words)

    def _run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        installed = Path(sys.executable).parent / program
        return subprocess.run(
            [str(installed), *words], capture_output=True, text=True, check=False, timeout=60
        )


@pytest.fixture
def shell(rig: Rig) -> Shell:
    return Shell(rig)


def plan(rig: Rig) -> list[str]:
    return list(rig.network.plan(single=True))


def test_there_is_nothing_to_plan_for_what_is_as_it_should_be(rig: Rig) -> None:
    rig.quick_ipv6()
    rig.vip_port()
    rig.member_port()
    rig.plug_vip(additional_vips=[MORE6])
    rig.plug_member()
    assert plan(rig) == []


def test_the_plan_says_what_was_changed_behind_the_agents_back(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_vip()
    rig.inside.ip("address", "delete", "10.1.0.5/32", "dev", "eth1")
    rig.inside.ip("rule", "delete", "from", "10.1.0.5/32")
    rig.inside.run(["nft", "delete", "table", "inet", "amphora_table"])
    rig.inside.sysctl("net.ipv4.ip_forward", "0")
    before = rig.everything()
    assert plan(rig) == [
        f"{rig.namespace.name}: set the firewall's ruleset",
        f"{rig.namespace.name}: set net/ipv4/ip_forward=1",
        f"eth1 ({VIP_MAC}): add address 10.1.0.5/32",
        f"eth1 ({VIP_MAC}): add rule from 10.1.0.5/32 lookup 1 priority 100",
    ]
    assert rig.everything() == before


def test_the_plan_of_a_port_that_is_gone(rig: Rig) -> None:
    cable = rig.vip_port()
    rig.plug_vip()
    cable.unplug()
    [line] = plan(rig)
    assert line.startswith(f"eth1 ({VIP_MAC}): nothing")


def test_the_commands_do_what_the_plan_says(rig: Rig, shell: Shell) -> None:
    rig.vip_port()
    rig.member_port()
    rig.plug_vip()
    rig.plug_member()
    before = rig.everything()
    rig.reboot()
    assert shell.agent("network", "plan").stdout == (
        f"make the namespace {rig.namespace.name}\neth1: everything\neth2: everything\n"
    )
    rig.vip_port()
    rig.member_port()
    done = shell.agent("network", "up")
    assert (done.returncode, done.stdout) == (0, "")
    assert rig.everything() == before
    assert (
        shell.agent("network", "plan").stdout == "nothing to do: the network is as it was plugged\n"
    )


def test_network_up_says_what_is_missing_and_brings_back_the_rest(rig: Rig, shell: Shell) -> None:
    rig.vip_port()
    cable = rig.member_port()
    rig.plug_vip()
    rig.plug_member()
    cable.unplug()
    done = shell.agent("network", "up")
    assert done.returncode == 1
    assert f"eth2 ({MEMBER_MAC})" in done.stderr
    assert "Traceback" not in done.stderr
    assert rig.answers("10.1.0.5")


def test_an_interface_goes_down_with_all_that_is_ours_and_comes_up_again(
    rig: Rig, shell: Shell
) -> None:
    rig.quick_ipv6()
    rig.vip_port()
    rig.plug_vip(additional_vips=[MORE6])
    rig.inside.ip("rule", "add", "from", "10.9.0.9", "table", "1", "protocol", "18")
    before = rig.everything()
    assert shell.interface("down", "eth1").returncode == 0
    assert "UP" not in rig.link("eth1")["flags"]
    assert rig.addresses("eth1") == set()
    assert rig.rules() == {"10.9.0.9 lookup 1 proto keepalived"}
    assert shell.interface("up", "eth1").returncode == 0
    until(lambda: "LOWER_UP" in rig.link("eth1")["flags"], "the link is up")
    assert rig.everything() == before


def test_all_interfaces_go_down_and_come_up(rig: Rig, shell: Shell) -> None:
    rig.vip_port()
    rig.member_port()
    rig.plug_vip()
    rig.plug_member()
    before = rig.everything()
    assert shell.interface("down", "all").returncode == 0
    assert rig.addresses("eth1") == rig.addresses("eth2") == set()
    assert shell.interface("up", "all").returncode == 0
    assert rig.everything() == before


def test_an_interface_that_nobody_plugged(rig: Rig, shell: Shell) -> None:
    rig.ensure_namespace()
    done = shell.interface("up", "eth7")
    assert done.returncode == 1
    assert "no port is plugged as eth7" in done.stderr
    with pytest.raises(NotFound):
        rig.network.down("eth7", single=True)


@pytest.mark.parametrize("words", [["network"], ["network", "down"], ["network", "lease", "x"]])
def test_unknown_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert f"unknown command: {' '.join(words)}" in capsys.readouterr().err
