"""Cables are as plugged; closing deletes what was made, wherever it has gone, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import cleanup_registry
from lab.cleanup_registry import InUseError, Record
from lab.network import CommandError, Lab, namespace_exists
from lab.processes import Process
from lab.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

PREFIX = f"net-{os.getpid()}"
HOT = f"hot{os.getpid()}"


def test_hosts_on_one_segment_reach_each_other() -> None:
    with Lab(PREFIX) as lab:
        switch = lab.bridge(lab.namespace("switch"), "br0")
        hosts = [lab.namespace("a"), lab.namespace("b")]
        for number, host in enumerate(hosts, 1):
            switch.port(host, "eth0")
            host.address("eth0", f"10.99.0.{number}/24", f"fd00:99::{number}/64")
        for address in ("10.99.0.2", "fd00:99::2"):
            with hosts[1].make_socket(address) as listener:
                listener.bind((address, 80))
                listener.listen()
                hosts[0].connect(address, 80).close()


def test_a_hot_plugged_card_is_down_and_known_by_its_mac() -> None:
    with Lab(PREFIX) as lab:
        inside = lab.namespace("inside")
        cable = lab.cable(inside, "eth0", lab.host, HOT, mac_b="fa:16:3e:00:00:07", mtu=1450)
        assert cable.mac_b == "fa:16:3e:00:00:07"
        seen = lab.host.ip("link", "show", HOT)
        assert "state DOWN" in seen
        assert "mtu 1450" in seen
        # As an agent does with it.
        lab.host.ip("link", "set", HOT, "netns", inside.name or "", "name", "eth1")
        assert "fa:16:3e:00:00:07" in inside.ip("link", "show", "eth1")
    assert not namespace_exists(f"{PREFIX}-inside")
    lab.close()


def test_close_deletes_a_card_that_nobody_took() -> None:
    with Lab(PREFIX) as lab:
        lab.cable(lab.namespace("inside"), "eth0", lab.host, HOT)
    assert not Path("/sys/class/net", HOT).exists()


def test_close_ends_processes_inside() -> None:
    with Lab(PREFIX) as lab:
        inside = lab.namespace("inside")
        sleeper = inside.popen(["sleep", "1000"])
        pids = ["ip", "netns", "pids", str(inside.name)]
        # It enters the namespace only after it has been started.
        until(lambda: str(sleeper.pid) in inside.run(pids).stdout.split(), "it is inside")
    assert sleeper.wait(5) == -signal.SIGKILL


def test_a_failing_command_says_why() -> None:
    with Lab(PREFIX) as lab, pytest.raises(CommandError, match="nosuchif"):
        lab.namespace("inside").address("nosuchif", "10.0.0.1/24")


def test_a_laboratory_has_one_owner_at_a_time() -> None:
    with Lab(PREFIX), pytest.raises(InUseError):
        Lab(PREFIX)
    Lab(PREFIX).close()


def test_a_foreign_namespace_is_neither_used_nor_deleted() -> None:
    name = f"{PREFIX}-foreign"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with Lab(PREFIX) as lab, pytest.raises(CommandError, match="exists already"):
            lab.namespace("foreign")
        assert namespace_exists(name)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    script = f"""
import subprocess, sys
from pathlib import Path
from lab.network import Lab
lab = Lab({PREFIX!r})
lab.cable(lab.namespace("inside"), "eth0", lab.host, {HOT!r})
lab.record.add_workplace(Path({str(directory)!r}))
lab.record.add_directory(Path({str(directory)!r}))
lab.record.add_namespace({PREFIX!r} + "-of-agent")
subprocess.run(["ip", "netns", "add", {PREFIX!r} + "-of-agent"], check=True)
child = subprocess.Popen(["tail", "-f", "/dev/null", {str(directory / "file")!r}],
                         start_new_session=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    orphan = Process.of(int(owner.stdout.readline()))
    assert orphan is not None
    # Popen returns when the program is being loaded; its command line is there a moment later.
    until(lambda: bool(orphan.arguments), "the orphan has its command line")
    owner.kill()
    owner.communicate()
    assert namespace_exists(f"{PREFIX}-inside")

    assert PREFIX in cleanup_registry.remove_leftovers()

    assert not namespace_exists(f"{PREFIX}-inside")
    assert not namespace_exists(f"{PREFIX}-of-agent")
    assert not Path("/sys/class/net", HOT).exists()
    assert not orphan.alive
    assert not directory.exists()
    assert not (cleanup_registry.RECORDS / f"{PREFIX}.json").exists()


def test_leftovers_of_the_living_stay(tmp_path: Path) -> None:
    record = Record.open("living", records=tmp_path)
    assert cleanup_registry.remove_leftovers(records=tmp_path) == []
    # The same id with another start time is somebody else: the owner is dead.
    record.owner = Process(record.owner.pid, record.owner.started + 1)
    record.save()
    assert cleanup_registry.remove_leftovers(records=tmp_path) == ["living"]
