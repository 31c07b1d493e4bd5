"""What the agent promises holds with every haproxy that it supports: 2.6, 2.8 and 3.0.

They differ in how a master reloads and what it says about it, so everything around a reload is
here; what does not depend on the version is tested elsewhere, with the system's haproxy.
"""

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from amphora_agent.client.v2 import AmphoraClient, AmphoraError
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.replies import Workers
from lab import haproxies
from lab.agent import AgentProcess
from lab.backend import Backend
from lab.heartbeats import Heartbeat, HeartbeatReceiver
from lab.http import Client, get, spread
from lab.listeners import (
    HealthMonitor,
    Listener,
    Member,
    crt_list,
    http_listener,
)
from lab.load import Load
from lab.network import Lab, Namespace
from lab.pki import AmphoraPki
from lab.waiting import until
from tests.builders.pushed import PushedBalancer
from tests.integration import programs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

VIP = "10.9.0.5"
WEBS = {"web1": "10.9.0.11", "web2": "10.9.0.12"}
ALL_MEMBERS = [(address, 80) for address in WEBS.values()]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("versions") as opened:
        yield opened


@pytest.fixture(scope="module")
def amphora_namespace(lab: Lab) -> Namespace:
    return lab.namespace("amphora")


@pytest.fixture(scope="module")
def outside(lab: Lab, amphora_namespace: Namespace) -> Namespace:
    """Clients and members, one cable away from the VIP."""
    namespace = lab.namespace("outside")
    lab.cable(namespace, "eth0", amphora_namespace, "eth1")
    namespace.address("eth0", "10.9.0.1/24", *(f"{address}/24" for address in WEBS.values()))
    amphora_namespace.address("eth1", f"{VIP}/24")
    return namespace


@pytest.fixture(scope="module")
def webs(outside: Namespace) -> Iterator[dict[str, Backend]]:
    with ExitStack() as ending:
        yield {
            name: ending.enter_context(Backend(outside, name, [f"{address}:80"]))
            for name, address in WEBS.items()
        }


@dataclass
class Amphora:
    """An agent whose haproxy is of one version."""

    series: str
    program: Path
    agent: AgentProcess
    api: AmphoraClient
    heartbeats: HeartbeatReceiver


@pytest.fixture(scope="module", params=haproxies.SERIES)
def amphora(
    request: pytest.FixtureRequest,
    lab: Lab,
    amphora_namespace: Namespace,
    webs: dict[str, Backend],
) -> Iterator[Amphora]:
    series: str = request.param
    program = programs.of_series(series)
    directory = lab.directory()
    pki = AmphoraPki.create(directory / "pki", str(uuid.uuid4()), key="ec")
    with (
        HeartbeatReceiver("key") as heartbeats,
        AgentProcess(
            directory,
            pki,
            namespace=str(amphora_namespace.name),
            controllers=[heartbeats.address],
            heartbeat_key=heartbeats.key,
            settings={"haproxy_amphora": {"haproxy_cmd": str(program)}},
            record=lab.record,
        ) as agent,
    ):
        api = AmphoraClient(agent.url, pki.amphora_id, pki.controller_pem, pki.server_ca)
        yield Amphora(series, program, agent, api, heartbeats)
        api.close()


@dataclass
class LoadBalancer(PushedBalancer):
    """A load balancer of its own for each test."""

    vip = VIP

    amphora: Amphora

    def server_states(self) -> dict[str, tuple[str, str]]:
        """Operational and administrative state by server, as numbers (`show servers state`)."""
        rows = (row.split() for row in self.ask("@1 show servers state").splitlines())
        return {row[3]: (row[5], row[6]) for row in rows if len(row) > 6 and row[0].isdigit()}


@pytest.fixture
def balancer(amphora: Amphora) -> Iterator[LoadBalancer]:
    made = LoadBalancer(amphora)
    yield made
    made.delete()


#: `show servers state`: the operational state of a server that is down.
_DOWN = "0"

HTTP = http_listener("http", port=80, members=ALL_MEMBERS)


def test_its_version_is_told_and_decides_what_it_can_do(amphora: Amphora, tmp_path: Path) -> None:
    assert amphora.api.info()["haproxy_version"].startswith(f"{amphora.series}.")
    can = Haproxy(amphora.program, tmp_path).capabilities()
    assert can.version == amphora.api.info()["haproxy_version"]
    assert can.delete_servers is (amphora.series != "2.6")


def test_the_first_reload_starts_it(balancer: LoadBalancer, outside: Namespace) -> None:
    balancer.push(HTTP)

    with Client(outside, VIP, 80) as client:
        assert set(spread(client, 4)) == set(WEBS)
    assert balancer.workers()._replace(current=None) == Workers(0, 0, None, ())
    assert [row["status"] for row in balancer.amphora.api.listeners()] == ["ACTIVE"]
    (master, worker) = balancer.amphora.agent.services()
    assert {process.program for process in (master, worker)} == {"haproxy"}


@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept", "fresh"])
def test_no_request_fails_while_it_reloads(
    balancer: LoadBalancer, outside: Namespace, keep_alive: bool
) -> None:
    balancer.push(HTTP)
    served_by = {balancer.workers().current}

    with Load(lambda: Client(outside, VIP, 80, keep_alive=keep_alive), clients=4) as load:
        for _ in range(5):
            load.wait_for(50)
            balancer.push(HTTP)
            served_by.add(balancer.workers().current)
        load.wait_for(50)

    assert load.result.failed == 0, load.result
    assert len(served_by) == 6
    assert None not in served_by


def test_a_worker_leaves_when_its_last_answer_is_complete(
    balancer: LoadBalancer, outside: Namespace
) -> None:
    balancer.push(HTTP)
    first = balancer.workers().current

    with outside.connect(VIP, 80) as connection:
        connection.sendall(b"GET /stream?seconds=1 HTTP/1.1\r\nHost: site\r\n\r\n")
        answer = connection.recv(1)
        balancer.push(HTTP)
        during = balancer.workers()
        while not answer.endswith(b"0\r\n\r\n"):
            piece = connection.recv(4096)
            assert piece, f"cut off after {answer!r}"
            answer += piece

    assert during.current != first
    assert during.leaving == (first,)
    until(lambda: balancer.workers().leaving == (), "the old worker has left")


def test_a_file_that_was_edited_after_its_check_never_runs(
    balancer: LoadBalancer, outside: Namespace
) -> None:
    balancer.push(HTTP)
    balancer.upload(HTTP)
    committed = balancer.configuration.read_bytes()
    balancer.configuration.write_bytes(committed + b"\nfrontend broken\n    nonsense here\n")

    with Load(lambda: Client(outside, VIP, 80, keep_alive=False)) as load:
        balancer.reload()
        load.wait_for(50)

    assert load.result.failed == 0, load.result
    assert balancer.configuration.read_bytes() == committed
    assert balancer.amphora.api.haproxy(balancer.id) == committed
    edited = balancer.configuration.with_name("haproxy.cfg.edited")
    assert b"nonsense here" in edited.read_bytes()
    balancer.push(HTTP)


def test_a_certificate_that_cannot_be_loaded_is_taken_back(
    balancer: LoadBalancer, outside: Namespace
) -> None:
    api, agent = balancer.amphora.api, balancer.amphora.agent
    certificate = agent.pki.server
    listener = replace(
        http_listener("https", port=443, members=ALL_MEMBERS, kind="TERMINATED_HTTPS"),
        crt_list=str(agent.cert_path / balancer.id / "listener.pem"),
    )
    path = agent.cert_path / balancer.id / "site.pem"
    api.upload_certificate(balancer.id, "site.pem", certificate.pem)
    api.upload_certificate(balancer.id, "listener.pem", crt_list([str(path)]).encode())
    balancer.push(listener)
    worker = balancer.workers().current

    balancer.upload(listener)
    api.delete_certificate(balancer.id, "site.pem")
    with pytest.raises(AmphoraError, match=r"site\.pem") as refusal:
        balancer.reload()

    assert refusal.value.status == 500
    assert path.read_bytes() == certificate.pem
    assert _still_serves(balancer, worker)


def test_a_port_that_is_taken_fails_the_reload_and_nothing_else(
    balancer: LoadBalancer, outside: Namespace, amphora_namespace: Namespace
) -> None:
    balancer.push(HTTP)
    worker, good = balancer.workers().current, balancer.configuration.read_bytes()
    second = http_listener("second", port=81, members=ALL_MEMBERS)

    with (
        _taken(amphora_namespace, 81),
        Load(lambda: Client(outside, VIP, 80, keep_alive=False)) as load,
    ):
        balancer.upload(HTTP, second)
        with pytest.raises(AmphoraError, match=rf"(?i)cannot bind socket.*{VIP}:81") as refusal:
            balancer.reload()
        load.wait_for(50)

    assert refusal.value.status == 500
    assert load.result.failed == 0, load.result
    assert _still_serves(balancer, worker)
    assert balancer.configuration.read_bytes() == good
    balancer.push(HTTP, second)
    assert get(outside, VIP, 81).status == 200


def test_every_connection_is_counted_once_over_reloads_good_and_bad(
    balancer: LoadBalancer, outside: Namespace, amphora_namespace: Namespace
) -> None:
    balancer.push(HTTP)
    heartbeats = balancer.amphora.heartbeats
    heartbeats.wait_for(lambda heartbeat: HTTP.id in heartbeat.listeners)
    heartbeats.drain()

    for round_ in range(3):
        for _ in range(10):
            get(outside, VIP, 80)
        if round_ == 0:
            balancer.push(HTTP)
        elif round_ == 1:
            with _taken(amphora_namespace, 81):
                balancer.upload(HTTP, http_listener("second", port=81, members=ALL_MEMBERS))
                with pytest.raises(AmphoraError):
                    balancer.reload()

    counted = 0

    def all_counted(heartbeat: Heartbeat) -> bool:
        nonlocal counted
        counted += int(heartbeat.listeners[HTTP.id]["stats"]["totconns"])
        return counted >= 30

    heartbeats.wait_for(all_counted)
    assert counted == 30
    # A master that tries a busy port for two seconds answers nothing meanwhile.
    told = heartbeats.wait_for(lambda beat: beat.listeners[HTTP.id]["status"] == "OPEN")
    assert told.listeners[HTTP.id]["stats"]["totconns"] == 0


def test_what_is_known_of_members_comes_through_a_reload(
    balancer: LoadBalancer, webs: dict[str, Backend]
) -> None:
    listener = http_listener(
        "watched", port=80, members=ALL_MEMBERS, monitor=HealthMonitor(fall=1, rise=1)
    )
    assert listener.pool is not None
    first, second = (member.id for member in listener.pool.members)
    balancer.push(listener)
    webs["web1"].set_health(503)
    try:
        until(lambda: balancer.server_states()[first][0] == _DOWN, "web1 is found unwell")
        balancer.ask(f"@1 set server {listener.pool.id}:{listener.id}/{second} state drain")
        drained = balancer.server_states()[second]

        balancer.push(listener)

        assert balancer.server_states() == {first: (_DOWN, "0"), second: drained}
    finally:
        webs["web1"].set_health(200)


def test_a_member_that_moves_to_another_port_is_reached_there(
    balancer: LoadBalancer, outside: Namespace
) -> None:
    """haproxy itself believes the port in its state file more than the configuration's."""

    def listener(port: int) -> Listener:
        made = http_listener("moving", port=80, members=[], monitor=HealthMonitor(rise=1))
        assert made.pool is not None
        member = Member("the-same", WEBS["web1"], port)
        return replace(made, pool=replace(made.pool, members=(member,)))

    with (
        Backend(outside, "old", [f"{WEBS['web1']}:8001"]),
        Backend(outside, "new", [f"{WEBS['web1']}:8002"]),
        Client(outside, VIP, 80, keep_alive=False) as client,
    ):
        balancer.push(listener(8001))
        assert set(spread(client, 2)) == {"old"}

        balancer.push(listener(8002))

        assert set(spread(client, 2)) == {"new"}


def _still_serves(balancer: LoadBalancer, worker: int | None) -> bool:
    """Whether this worker answers and is not on its way out: a failed reload changes nothing."""
    told: list[str] = balancer.ask(f"@!{worker} show info").splitlines()
    return f"Pid: {worker}" in told and "Stopping: 0" in told


@contextmanager
def _taken(namespace: Namespace, port: int) -> Iterator[None]:
    """Somebody else listens there."""
    with namespace.make_socket(VIP) as other:
        # Whatever is left of connections to an earlier listener.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((VIP, port))
        other.listen()
        yield
