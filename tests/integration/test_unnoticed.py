"""Nobody notices a change: not at run time, and of a reload no more than haproxy itself lets show.

HTTP/1.1 on kept connections, HTTP/2 over TLS and plain TCP run all the while, with answers that
take longer than a reload among them. What the reloads of the agent do to them stands beside what
those of a haproxy without an agent do to the same traffic.

The system's haproxy has to bear 1000 changes and 200 reloads, the other versions a tenth.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from amphora_agent.haproxy import replies
from amphora_agent.haproxy.replies import Workers
from benchmarks.baseline_haproxy import BareHaproxy
from lab import haproxies
from lab.backend import Backend
from lab.heartbeats import Heartbeat
from lab.http import Tls, get
from lab.listeners import (
    HealthMonitor,
    Listener,
    Member,
    Pool,
    crt_list,
    loadbalancer,
    stable_id,
)
from lab.load import Traffic, TrafficResult
from lab.network import Lab, Namespace
from lab.pki import Authority, Credentials
from lab.processes import Process
from lab.traffic_clients import Http2Visitor, HttpVisitor, Place, TcpVisitor
from lab.waiting import until
from tests.builders.pushed import PushedBalancer
from tests.integration.amphora import Amphora

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

#: Of the agent's load balancer, and of haproxy alone.
VIP, CONTROL = "127.0.0.1", "127.0.0.2"
HTTP, HTTPS, TCP = 11080, 11443, 11090
NAMES = {HTTP: "http", HTTPS: "https", TCP: "tcp"}

#: Members that are always there, and the ports of all.
RESIDENTS = ("127.0.3.1", "127.0.3.2")
GUEST, MOVED = "127.0.3.3", "127.0.3.4"
WEB_PORT, OTHER_WEB_PORT, LINE_PORT, OTHER_LINE_PORT = 8080, 8081, 9090, 9091

LONG = "/stream?seconds=0.3"
#: Who comes back on the connection that it has; of the others each session is a connection.
KEPT_VISITORS = 6

_MIB = 1024 * 1024

#: Of all processes of one haproxy, over everything that happens here: a worker more, or a leak of
#: some kilobytes each time, is beyond it.
_MOST_GROWTH = 10 * _MIB
#: Workers at the same time. Those that see more reloads than the agent lets them are ended.
_MOST_LEAVING = 20


@dataclass(frozen=True)
class Amount:
    changes: int
    reloads: int


MUCH, LESS = Amount(1000, 200), Amount(100, 20)


# What is there


@dataclass(frozen=True)
class Wanted:
    """A load balancer: the members by the port of their listener, and what only a reload can
    change."""

    members: Mapping[int, tuple[Member, ...]]
    client_timeout: int = 50000

    @classmethod
    def first(cls) -> Wanted:
        ports = {HTTP: WEB_PORT, HTTPS: WEB_PORT, TCP: LINE_PORT}
        return cls(
            {
                listener: tuple(
                    Member(stable_id(f"{listener} {address}"), address, port)
                    for address in RESIDENTS
                )
                for listener, port in ports.items()
            }
        )

    def with_members(self, listener: int, *members: Member) -> Wanted:
        return replace(self, members={**self.members, listener: members})

    def text(self, vip: str, lb_id: str, base_path: Path, listed: Path) -> str:
        listeners = [
            self._listener(HTTP, HealthMonitor(rise=1)),
            replace(self._listener(HTTPS), kind="TERMINATED_HTTPS", crt_list=str(listed)),
            replace(self._listener(TCP), kind="TCP"),
        ]
        return loadbalancer(
            lb_id,
            vip=vip,
            listeners=listeners,
            base_path=str(base_path),
            timeout_client=self.client_timeout,
        )

    def _listener(self, port: int, monitor: HealthMonitor | None = None) -> Listener:
        name = NAMES[port]
        pool = Pool(stable_id(f"{name} pool"), self.members[port], monitor)
        return Listener(stable_id(name), port, pool)


@pytest.fixture(scope="module")
def backends(namespace: Namespace) -> Iterator[Mapping[str, Backend]]:
    """Residents and guests, web and lines."""
    binds = {
        "residents": (RESIDENTS, (WEB_PORT,), (LINE_PORT,)),
        "guests": ((GUEST, MOVED), (WEB_PORT, OTHER_WEB_PORT), (LINE_PORT, OTHER_LINE_PORT)),
    }
    with ExitStack() as ending:
        found = {}
        for who, (addresses, web_ports, line_ports) in binds.items():
            web = [f"{a}:{port}" for a in addresses for port in web_ports]
            lines = [f"{a}:{port}" for a in addresses for port in line_ports]
            found[who] = ending.enter_context(Backend(namespace, who, web))
            found[f"{who}' lines"] = ending.enter_context(
                Backend(namespace, who, lines, mode="tcp")
            )
        yield found


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("authority of the site", key="ec")


def issue(authority: Authority) -> Credentials:
    return authority.issue("site", dns=["site.example"], key="ec")


def site(authority: Authority) -> Tls:
    return Tls(server_name="site.example", ca=authority.certificate, alpn=("h2",))


@pytest.fixture(scope="module")
def amount(program: Path) -> Amount:
    return MUCH if str(program) == shutil.which("haproxy") else LESS


@dataclass
class Balancer(PushedBalancer):
    """The agent's."""

    vip = VIP

    amphora: Amphora

    @property
    def certificates(self) -> Path:
        return self.amphora.agent.cert_path / self.id

    def apply(self, wanted: Wanted) -> None:
        listed = self.certificates / "list.pem"
        text = wanted.text(VIP, self.id, self.amphora.agent.base_path, listed)
        self.amphora.api.upload_haproxy(self.id, text)
        self.reload()

    def put_certificate(self, certificate: Credentials) -> None:
        self.amphora.api.upload_certificate(self.id, "site.pem", certificate.pem)

    def servers(self) -> dict[str, tuple[str, str, str]]:
        """Address, port and weight of those that are not in maintenance, by name."""
        rows = [row.split() for row in self.ask("@1 show servers state").splitlines()]
        return {
            row[3]: (row[4], row[18], row[7])
            for row in rows
            if len(row) > 18 and row[0].isdigit() and not int(row[6]) & _FORCED_MAINTENANCE
        }

    def processes(self) -> list[Process]:
        return self.amphora.haproxies()


#: `show servers state`: a server was put into maintenance, by command or by configuration.
_FORCED_MAINTENANCE = 0x01 | 0x04


@pytest.fixture
def balancer(
    boot: Callable[..., Amphora],
    backends: object,
    program: Path,
    authority: Authority,
) -> Iterator[Balancer]:
    with ExitStack() as ending:
        amphora = boot(ending, settings={"haproxy_amphora": {"haproxy_cmd": str(program)}})
        made = Balancer(amphora)
        made.put_certificate(issue(authority))
        listed = crt_list([str(made.certificates / "site.pem")]).encode()
        amphora.api.upload_certificate(made.id, "list.pem", listed)
        made.apply(Wanted.first())
        yield made


@dataclass
class Control:
    """haproxy alone."""

    haproxy: BareHaproxy
    listed: Path

    def apply(self, wanted: Wanted) -> None:
        text = wanted.text(CONTROL, "control", self.haproxy.directory, self.listed)
        self.haproxy.configuration.write_text(text)
        self.haproxy.check()
        self.haproxy.reload()

    def workers(self) -> Workers:
        return replies.read_workers(self.haproxy.ask("show proc"))

    def processes(self) -> list[Process]:
        return self.haproxy.processes()


@pytest.fixture
def control(
    lab: Lab, namespace: Namespace, backends: object, program: Path, authority: Authority
) -> Iterator[Control]:
    directory = lab.directory()
    certificate, listed = directory / "site.pem", directory / "list.pem"
    certificate.write_bytes(issue(authority).pem)
    listed.write_text(crt_list([str(certificate)]))
    with BareHaproxy(program, directory, namespace, "control") as haproxy:
        haproxy.start(Wanted.first().text(CONTROL, "control", directory, listed))
        yield Control(haproxy, listed)


def traffic(namespace: Namespace, vip: str, authority: Authority) -> Traffic:
    tls = site(authority)
    http, https = Place(namespace, vip, HTTP), Place(namespace, vip, HTTPS, tls)
    long_http = Place(namespace, vip, HTTP, path=LONG)
    long_https = Place(namespace, vip, HTTPS, tls, path=LONG)
    lines = Place(namespace, vip, TCP)
    return Traffic(
        [
            *(HttpVisitor(http), HttpVisitor(http)),
            HttpVisitor(long_http, kind="HTTP/1.1, long answers"),
            *(Http2Visitor(https), Http2Visitor(https)),
            Http2Visitor(long_https, streams=2, kind="HTTP/2 over TLS, long answers"),
            *(TcpVisitor(lines), TcpVisitor(lines)),
        ]
    )


# What happens


def changes(count: int) -> Iterator[Wanted]:
    """So many changes of members, of all pools by turns. A guest comes, is changed in everything
    that a member has, and goes."""
    wanted = Wanted.first()
    yielded = 0
    for lap in itertools.count():
        laps = [_changes_of(wanted, listener, lap) for listener in NAMES]
        for step in zip(*laps, strict=True):
            for listener, members in zip(NAMES, step, strict=True):
                wanted = wanted.with_members(listener, *members)
                yield wanted
                yielded += 1
                if yielded == count:
                    return


def _changes_of(wanted: Wanted, listener: int, lap: int) -> Iterator[tuple[Member, ...]]:
    first, second = wanted.members[listener]
    port, other = (LINE_PORT, OTHER_LINE_PORT) if listener == TCP else (WEB_PORT, OTHER_WEB_PORT)
    guest = Member(stable_id(f"{listener} guest {lap}"), GUEST, port, weight=5)
    yield first, second, guest
    yield first, second, replace(guest, weight=9)
    heavy = replace(first, weight=2 + lap % 50)
    yield heavy, second, replace(guest, weight=9)
    guest = replace(guest, weight=9, address=MOVED)
    yield heavy, second, guest
    guest = replace(guest, port=other)
    yield heavy, second, guest
    yield heavy, second, replace(guest, weight=0)
    yield heavy, second, guest
    yield heavy, second, replace(guest, enabled=False)
    yield heavy, second, guest
    yield heavy, second


def test_nobody_notices_changes_at_run_time(
    balancer: Balancer,
    backends: Mapping[str, Backend],
    namespace: Namespace,
    authority: Authority,
    amount: Amount,
    tell: Callable[[str], None],
) -> None:
    before, memory = balancer.workers(), pss(balancer)
    guests = {who: backends[who].counts.connections for who in ("guests", "guests' lines")}
    certificate = issue(authority)
    begun = time.monotonic()

    with traffic(namespace, VIP, authority) as running:
        running.wait_for(2)
        for number, wanted in enumerate(changes(amount.changes), 1):
            if number % 50 == 0:
                certificate = issue(authority)
                balancer.put_certificate(certificate)
            balancer.apply(wanted)
        seconds = time.monotonic() - begun
        running.wait_for(2)
    grown = pss(balancer) - memory
    what = f"{amount.changes} changes in {seconds:.1f} s"
    tell(described(what, running.result, memory, grown))

    total = running.result.total
    assert not total.troubles
    assert not running.result.exhausted
    assert total.connections == KEPT_VISITORS + running.result.kinds["TCP"].connections
    assert balancer.workers() == before
    assert balancer.servers() == as_shown(wanted)
    for who, connections in guests.items():
        assert backends[who].counts.connections > connections, f"{who} were never used"
    assert grown < _MOST_GROWTH
    all_are_told(balancer.amphora, running.result)
    answer = get(namespace, VIP, HTTPS, tls=Tls())
    assert answer.peer is not None
    assert answer.peer.serial == certificate.serial


def test_nobody_notices_reloads_more_than_those_of_haproxy_alone(
    balancer: Balancer,
    control: Control,
    program: Path,
    namespace: Namespace,
    authority: Authority,
    amount: Amount,
    tell: Callable[[str], None],
) -> None:
    results = {}
    sides: tuple[tuple[str, str, Balancer | Control], ...] = (
        ("agent", VIP, balancer),
        ("haproxy alone", CONTROL, control),
    )
    for who, vip, side in sides:
        before, memory, most = side.workers(), pss(side), 0
        begun = time.monotonic()
        with traffic(namespace, vip, authority) as running:
            running.wait_for(2)
            for number in range(amount.reloads):
                side.apply(replace(Wanted.first(), client_timeout=50001 + number))
                most = max(most, len(side.workers().leaving))
            seconds = time.monotonic() - begun
            running.wait_for(2)
        # One of 2.6 sometimes stays with nothing left to do, whoever reloads.
        with contextlib.suppress(TimeoutError):
            until(lambda: not side.workers().leaving, "old workers have left")  # noqa: B023
        stayed, grown = len(side.workers().leaving), pss(side) - memory
        what = f"{amount.reloads} reloads by {who} in {seconds:.1f} s"
        what += f", at most {most} workers leaving, {stayed} left behind"
        tell(described(what, running.result, memory, grown))
        results[who] = running.result

        assert side.workers().current != before.current
        assert len(side.processes()) == 2 + stayed
        assert grown < _MOST_GROWTH * (1 + stayed)
        assert not running.result.exhausted
        # No more often than a worker was replaced.
        kept = running.result.total.connections - running.result.kinds["TCP"].connections
        assert kept <= KEPT_VISITORS * (amount.reloads + 1)

        if who == "agent":
            assert most <= _MOST_LEAVING
            assert stayed <= (_MOST_LEAVING if "2.6" in haproxies.version(program) else 0)

    assert results["agent"].failed == 0, results["agent"]
    all_are_told(balancer.amphora, results["agent"])


def as_shown(wanted: Wanted) -> dict[str, tuple[str, str, str]]:
    """What haproxy should say of its servers."""
    return {
        member.id: (member.address, str(member.port), str(member.weight))
        for members in wanted.members.values()
        for member in members
        if member.enabled
    }


def all_are_told(amphora: Amphora, result: TrafficResult) -> None:
    """Every connection is in one heartbeat, and in no more."""
    made = dict.fromkeys(NAMES, 0)
    for kind, tally in result.kinds.items():
        made[TCP if kind == "TCP" else HTTPS if "TLS" in kind else HTTP] += tally.connections
    told = dict.fromkeys(NAMES, 0)

    def add(beat: Heartbeat) -> bool:
        for port, name in NAMES.items():
            if (listener := beat.listeners.get(stable_id(name))) is not None:
                told[port] += listener["stats"]["totconns"]
        return all(told[port] >= made[port] for port in NAMES)

    with contextlib.suppress(TimeoutError):  # what is missing is said below
        amphora.heartbeats.wait_for(add)
    add(amphora.heartbeats.next())
    assert told == made


def pss(side: Balancer | Control) -> int:
    """The memory of all its processes, in bytes: what they share counts once."""
    found = 0
    for process in side.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += psutil.Process(process.pid).memory_full_info().pss
    return found


def described(what: str, result: TrafficResult, memory: int, grown: int) -> str:
    haproxy = f"memory of haproxy {memory / _MIB:.1f} MiB, then {grown / _MIB:+.1f}"
    return f"{what}; {haproxy}\n{result}"
