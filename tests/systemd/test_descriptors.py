"""How many file descriptors systemd lets a haproxy have, and that the agent knows."""

import re

import pytest

from amphora_agent.client.v2 import DeclarativeClient
from lab.http import get
from lab.listeners import loadbalancer
from lab.network import Namespace
from lab.nspawn import Machine
from tests.systemd.conftest import HTTP, VIP, DeclaredBalancer, LoadBalancer, ask

#: What haproxy has for itself. Each connection takes two more, and every fourth a pipe of two.
ITS_OWN = 200
#: Connections cost memory, too, where descriptors do not limit them.
MANY = 100_000


@pytest.fixture
def limit(balancer: LoadBalancer, machine: Machine) -> int:
    """What a haproxy may have at most that systemd has started: the hard limit that it was given,
    or as many as there can be, if it has the capability to exceed that."""
    master = balancer.properties()["MainPID"]
    capabilities = re.search(r"CapEff:\s*(\w+)", machine.output("cat", f"/proc/{master}/status"))
    assert capabilities
    if int(capabilities[1], 16) >> 24 & 1:  # CAP_SYS_RESOURCE
        return int(machine.output("sysctl", "--values", "fs.nr_open"))
    given = ("prlimit", f"--pid={master}", "--nofile", "--output=HARD", "--noheadings", "--raw")
    return int(machine.output(*given))


def test_a2_more_connections_than_there_are_descriptors_for_are_served_and_told(
    balancer: LoadBalancer, limit: int, client: Namespace, machine: Machine
) -> None:
    connections = limit // 2 + 1
    balancer.api.upload_haproxy(balancer.id, _text(balancer, connections))
    balancer.reload()

    told = re.search(r"\nMaxconn: (\d+)\n", ask(machine, balancer.id, "@1 show info"))
    assert told
    assert limit // 4 < int(told[1]) < connections
    assert get(client, VIP, 80).status == 200
    alarms = balancer.api.instance(balancer.id)["alarms"]
    assert [alarm["kind"] for alarm in alarms] == ["fewer-connections"]


def test_as_many_as_there_are_descriptors_for_start(
    balancer: LoadBalancer, limit: int, client: Namespace, machine: Machine
) -> None:
    connections = min((limit - ITS_OWN) * 2 // 5, MANY)
    balancer.api.upload_haproxy(balancer.id, _text(balancer, connections))
    balancer.reload()

    told = ask(machine, balancer.id, "@1 show info")
    assert f"\nMaxconn: {connections}\n" in told
    assert get(client, VIP, 80).status == 200


def test_a_load_balancer_that_is_put_has_as_many_as_there_are_descriptors_for(
    driver: DeclarativeClient, client: Namespace, machine: Machine, limit: int
) -> None:
    declared = DeclaredBalancer(machine, driver, http_port=82, tcp_port=83)
    declared.put(connection_limit=MANY // 2)
    try:
        told = ask(machine, declared.id, "@1 show info")
        assert get(client, VIP, declared.http_port).status == 200
    finally:
        driver.delete(declared.id)
    figures = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line)
    connections, taken = int(figures["Maxconn"]), int(figures["Ulimit-n"])
    assert taken <= limit
    assert connections == MANY or taken > limit * 0.9


def _text(balancer: LoadBalancer, connections: int) -> str:
    text = loadbalancer(balancer.id, vip=VIP, listeners=[HTTP])
    return re.sub(r"(?m)^( *maxconn) \d+", rf"\1 {connections}", text)
