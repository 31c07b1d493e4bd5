"""File descriptors of a haproxy that systemd has started with the capability to raise its limits:
on a machine of its own it has that."""

import re
from collections.abc import Iterator
from uuid import uuid4

import pytest

from amphora_agent.client.v2 import AmphoraClient
from lab.listeners import http_listener, loadbalancer
from lab.vm import VirtualMachine
from tests.vm.conftest import SERVERS, VIP

#: The hard limit that systemd can pass on, and how many the kernel lets a process have at all.
HARD, ALL = 10_000, 60_000
LB = str(uuid4())


@pytest.fixture
def limits(machine: VirtualMachine) -> Iterator[None]:
    before = machine.run("prlimit --pid=1 --nofile --output=SOFT,HARD --noheadings --raw")
    most = machine.run("sysctl --values fs.nr_open").strip()
    machine.run(f"prlimit --pid=1 --nofile={HARD}:{HARD}; sysctl --write fs.nr_open={ALL}")
    yield
    soft, hard = before.split()
    machine.run(f"sysctl --write fs.nr_open={most}; prlimit --pid=1 --nofile={soft}:{hard}")


@pytest.mark.usefixtures("limits")
def test_it_may_have_as_many_as_there_can_be(machine: VirtualMachine, api: AmphoraClient) -> None:
    api.upload_haproxy(LB, _text(HARD))
    try:
        api.reload(LB)
        assert HARD * 2 < _given(machine) <= ALL
        assert _alarms(api) == []
        api.upload_haproxy(LB, _text(ALL // 2 + 1))
        api.reload(LB)
        assert HARD * 2 < _given(machine) <= ALL
        (alarm,) = _alarms(api)
        assert f"not {ALL // 2 + 1} as configured: {ALL} file descriptors" in alarm["text"]
    finally:
        api.delete(LB)


def _given(machine: VirtualMachine) -> int:
    """How many descriptors the newest worker may have."""
    master = machine.run(f"systemctl show --property=MainPID --value haproxy-{LB}").strip()
    limits = machine.run(f"cat /proc/$(pgrep --newest --parent {master})/limits")
    given = re.search(r"Max open files +(\d+)", limits)
    assert given
    return int(given[1])


def _alarms(api: AmphoraClient) -> list[dict[str, str]]:
    found = api.request("GET", f"/2.0/instances/{LB}").json()["alarms"]
    return [alarm for alarm in found if alarm["kind"] == "fewer-connections"]


def _text(connections: int) -> str:
    listener = http_listener("many", port=180, members=[(SERVERS["one"][0], 80)])
    text = loadbalancer(LB, vip=VIP, listeners=[listener])
    return re.sub(r"(?m)^( *maxconn) \d+", rf"\1 {connections}", text)
