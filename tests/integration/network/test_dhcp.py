"""The DHCP client with a real server: leases come, are renewed, replaced, kept and refused."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.model.addressing import Mac, parse_mac
from amphora_agent.network.dhcp_client import DhcpClients
from amphora_agent.network.plan.interface import Lease
from amphora_agent.network.records import Leases
from amphora_agent.supervisor.contract import Mark
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
from lab import processes
from lab.dhcp import DhcpServer
from lab.network import Lab
from lab.processes import Process
from lab.waiting import until

MAC = parse_mac("fa:16:3e:dd:00:01")
OTHER_MAC = parse_mac("fa:16:3e:dd:00:02")

#: What the agent does at an event, and a line about it: the event, and whether the interface has
#: to be looked at. Renewals come from the address, so that it is given to the interface.
EVENT = """
import os, subprocess, sys
from pathlib import Path
from amphora_agent.errors import InvalidRequest
from amphora_agent.model.addressing import parse_mac
from amphora_agent.network.records import Leases
lines, directory, mac, event = sys.argv[1:]
leases = Leases(Path(directory))
try:
    look = leases.record_event(parse_mac(mac), event, os.environ)
except InvalidRequest as error:
    look = error
lease = leases.get(parse_mac(mac))
if lease:
    change = ("address", "replace", str(lease.address), "dev", os.environ["interface"])
    subprocess.run(("ip", *change), check=True)
with open(lines, "a") as file:
    print(event, look, file=file)
"""

#: Seconds in which a server that is there has answered, on a busy machine.
LONG = 20.0

_numbers = itertools.count()


class Segment:
    """An amphora's interface eth2 on a segment with a server, or without."""

    def __init__(self, lab: Lab, ending: ExitStack) -> None:
        self._lab = lab
        self._ending = ending
        self.router = lab.namespace("router")
        self.amphora = lab.namespace("amphora")
        self.directory = lab.directory()
        self.lines = self.directory / "events"
        self.leases = Leases(self.directory / "leases")
        self._supervisor = EmbeddedSupervisor(self.directory / "records", self.directory / "run")
        self._supervisor.adopt()
        self._supervisor.resume()
        self.clients = self.clients_with(
            sys.executable, "-c", EVENT, str(self.lines), str(self.leases.directory)
        )
        ending.callback(self.clients.stop, "eth2")
        self.plug()

    def clients_with(self, *event_command: str) -> DhcpClients:
        return DhcpClients(self._supervisor, self.leases, self.amphora.path, event_command, ())

    def plug(self, mac: Mac = MAC) -> None:
        self.cable = self._lab.cable(self.router, "r0", self.amphora, "eth2", mac_b=mac)
        self.router.address("r0", "10.2.0.1/24")

    def serve(
        self, first: str = "10.2.0.50", last: str = "10.2.0.60", **options: Any
    ) -> DhcpServer:
        server = DhcpServer(self.router, "r0", first, last, directory=self.directory, **options)
        self._ending.callback(server.close)
        return server

    def start(self) -> Lease:
        self.clients.start(MAC, "eth2")
        return self.lease()

    def lease(self, mac: Mac = MAC) -> Lease:
        lease = self.leases.wait_for(mac, time.monotonic() + LONG)
        assert lease is not None
        return lease

    def client(self) -> Process:
        [process] = self.client_processes()
        return process

    def client_processes(self) -> list[Process]:
        mentioning = processes.mentioning(self.leases.directory / "eth2.sh")
        return [process for process in mentioning if process.program == "busybox"]

    def said(self) -> str:
        """By the client and by what it has run."""
        return self._supervisor.output("amphora-dhcp-eth2", Mark(0))

    def events(self) -> list[str]:
        return self.lines.read_text().splitlines() if self.lines.exists() else []

    def await_events(self, *expected: str) -> None:
        until(lambda: len(self.events()) >= len(expected), f"events {expected}", timeout=LONG)
        assert self.events() == list(expected)

    def addresses(self) -> str:
        return self.amphora.ip("-4", "-oneline", "address", "show", "dev", "eth2")


@pytest.fixture
def segment() -> Iterator[Segment]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Lab(f"dhcp{os.getpid()}-{next(_numbers)}") as lab, ExitStack() as ending:
        yield Segment(lab, ending)


def test_a_lease_comes(segment: Segment) -> None:
    segment.serve(options=["option:mtu,1400"])
    before = time.time()
    lease = segment.start()
    assert "10.2.0.50" <= str(lease.address.ip) <= "10.2.0.60"
    assert lease.address.network.prefixlen == 24
    assert lease.mtu == 1400
    assert lease.routes == ()
    assert before + 120 <= lease.expires <= time.time() + 120
    segment.await_events("bound True")
    assert os.stat(f"/proc/{segment.client().pid}/ns/net").st_ino == (
        segment.amphora.path.stat().st_ino
    )


def test_nothing_is_asked_for_but_what_a_lease_has(segment: Segment) -> None:
    server = segment.serve()
    segment.start()
    asked = {
        line.partition("options: ")[2]
        for line in server.log.splitlines()
        if "requested options" in line
    }
    assert asked == {"1:netmask, 26:mtu, 121:classless-static-route"}


def test_the_client_itself_changes_nothing(segment: Segment) -> None:
    resolver = Path("/etc/resolv.conf").read_bytes()
    segment.serve(unasked=["option:router,10.2.0.1", "option:dns-server,10.2.0.1"])
    segment.clients_with("/usr/bin/touch", str(segment.lines)).start(MAC, "eth2")
    until(segment.lines.exists, "the client is bound", timeout=LONG)
    assert segment.addresses() == ""
    assert segment.amphora.ip("route", "show") == ""
    assert Path("/etc/resolv.conf").read_bytes() == resolver


def test_routes_come_and_never_a_default_one(segment: Segment) -> None:
    routes = "0.0.0.0/0,10.2.0.1,128.0.0.0/1,10.2.0.1,192.168.7.0/24,10.2.0.9"
    segment.serve(options=[f"121,{routes}"], unasked=["option:router,10.2.0.1"])
    [route] = segment.start().routes
    assert (str(route.destination), str(route.nexthop)) == ("192.168.7.0/24", "10.2.0.9")


def test_a_lease_is_renewed(segment: Segment) -> None:
    server = segment.serve()
    first = segment.start()
    segment.await_events("bound True")
    segment.client().send(signal.SIGUSR1)  # instead of the half of its time
    segment.await_events("bound True", "renew True")
    renewed = segment.lease()
    assert renewed.address == first.address
    assert renewed.expires > first.expires
    # An answer that comes before the client listens for it is asked for again.
    assert server.leases > 1


def test_the_server_lends_another_address_later(segment: Segment) -> None:
    first_server = segment.serve()
    segment.start()
    segment.await_events("bound True")
    first_server.close()
    segment.serve("10.2.0.80", "10.2.0.90")
    segment.client().send(signal.SIGUSR1)
    segment.await_events("bound True", "nak True", "bound True")
    assert str(segment.lease().address.ip) >= "10.2.0.80"


def test_a_client_that_died_comes_back_and_the_lease_has_stayed(segment: Segment) -> None:
    server = segment.serve()
    lease = segment.start()
    segment.await_events("bound True")
    server.close()
    killed = segment.client()
    killed.send(signal.SIGKILL)
    segment.await_events("bound True", "deconfig False")
    assert segment.client() != killed
    assert segment.lease() == lease
    assert str(lease.address) in segment.addresses()


@pytest.mark.parametrize(
    "option", ["1,0.0.0.0", "1,128.0.0.0", "26,12", "121,10.77.0.0/16,224.0.0.1"]
)
def test_an_answer_that_makes_no_sense_is_refused(segment: Segment, option: str) -> None:
    segment.serve(options=[option])
    segment.clients.start(MAC, "eth2")
    until(lambda: segment.events() != [], "the answer is read", timeout=LONG)
    [line] = segment.events()
    assert line.startswith("bound Invalid DHCP lease:")
    assert not segment.leases.path(MAC).exists()
    assert segment.client().alive


def test_text_of_a_server_reaches_no_shell(segment: Segment) -> None:
    touched = segment.directory / "touched"
    evil = f"$(touch {touched})'$(touch {touched})'"
    # Texts that the client hands to its script.
    options = {12: "hostname", 15: "domain-name", 67: "bootfile-name"}
    server = segment.serve(unasked=[f"{code},{evil}" for code in options])
    segment.start()
    segment.await_events("bound True")
    for name in options.values():
        assert f"{name}  {evil}" in server.log
    assert not touched.exists()


def test_without_a_server_there_is_no_lease_and_no_agent_is_troubled(segment: Segment) -> None:
    segment.clients.start(MAC, "eth2")
    until(lambda: "discover" in segment.said(), "the client asks", timeout=LONG)
    assert segment.leases.wait_for(MAC, time.monotonic() + 0.1) is None
    assert segment.client().alive
    assert segment.events() == []


def test_a_lease_whose_time_is_up_is_not_used(segment: Segment) -> None:
    segment.serve()
    lease = segment.start()
    later = Leases(segment.leases.directory, now=lambda: lease.expires)
    assert later.get(MAC) is None


def test_a_new_interface_takes_a_new_client(segment: Segment) -> None:
    segment.serve()
    segment.start()
    segment.await_events("bound True")
    first = segment.client()
    segment.cable.unplug()
    segment.plug()
    segment.clients.restart(MAC, "eth2")
    segment.await_events("bound True", "deconfig False", "bound True")
    assert segment.client() != first
    assert str(segment.lease().address) in segment.addresses()


def test_a_client_that_runs_is_left_alone(segment: Segment) -> None:
    segment.serve()
    segment.start()
    first = segment.client()
    segment.clients.start(MAC, "eth2")
    assert segment.client() == first
    assert segment.clients.interfaces() == {"eth2"}


def test_the_name_passes_to_another_port(segment: Segment) -> None:
    segment.serve()
    segment.start()
    segment.await_events("bound True")
    segment.cable.unplug()
    segment.plug(OTHER_MAC)
    segment.clients.start(OTHER_MAC, "eth2")
    assert segment.lease(OTHER_MAC).address != segment.lease(MAC).address
    assert len(segment.client_processes()) == 1


def test_a_stop_keeps_the_lease_and_to_forget_leaves_nothing(segment: Segment) -> None:
    segment.serve()
    segment.start()
    segment.await_events("bound True")
    segment.clients.stop("eth2")
    segment.clients.stop("eth2")
    assert segment.client_processes() == []
    assert segment.clients.interfaces() == set()
    assert list(segment.leases.directory.iterdir()) == [segment.leases.path(MAC)]
    segment.clients.forget(MAC, "eth2")
    left = [path for path in segment.directory.rglob("*") if path.is_file()]
    assert {path.name.rstrip("0123456789.log") for path in left} == {"dnsmasq", "events"}
