"""A pair of amphorae under the controller's own configuration: who serves, and what goes over."""

import re
import shutil
import socket
from collections.abc import Iterator

import pytest
from controller import loadbalancers, settings
from controller.amphora import MEMBER_SUBNET, VIP, WEB1, WEB2, Amphora
from controller.database import Database
from controller.health_manager import HealthManager
from controller.pair import Half, Pair, paths_of
from controller.release import MAJOR
from controller.worker import Worker
from octavia.common.config import cfg

from lab import processes
from lab.agent import AgentProcess
from lab.backend import Backend
from lab.http import FAILURES, get
from lab.network import Bridge, Lab, Namespace
from lab.pki import AmphoraPki, Authority
from lab.waiting import until

pytestmark = pytest.mark.skipif(
    MAJOR < 10, reason=f"octavia {MAJOR} updates the configurations of a pair in another way"
)


@pytest.fixture
def second_agent(
    lab: Lab, agent: AgentProcess, authorities: tuple[Authority, Authority]
) -> Iterator[AgentProcess]:
    """The controller speaks to one port, so it has another address."""
    directory = lab.directory()
    server, controller = authorities
    pki = AmphoraPki.create(
        directory / "pki",
        loadbalancers.new_id(),
        server_authority=server,
        client_authority=controller,
    )
    process = AgentProcess(
        directory,
        pki,
        namespace=f"{lab.prefix}-second",
        record=lab.record,
        address="127.0.0.2",
        port=agent.port,
    )
    yield process
    process.close()
    shutil.rmtree(directory)


@pytest.fixture
def pair(
    lab: Lab,
    agent: AgentProcess,
    second_agent: AgentProcess,
    health: HealthManager,
    database: Database,
    client: Namespace,
    vip_segment: Bridge,
    member_segment: Bridge,
    request: pytest.FixtureRequest,
) -> Iterator[Pair]:
    cfg.CONF.set_override("loadbalancer_topology", "ACTIVE_STANDBY", group="controller_worker")
    halves = []
    for process in (agent, second_agent):
        amphora = Amphora(
            lab=lab,
            agent=process,
            worker=None,  # type: ignore[arg-type]  # made below, with its paths in force
            model=loadbalancers.amphora(process.amphora_id, process.address),
            vip_segment=vip_segment,
            member_segment=member_segment,
        )
        process.directory.mkdir(exist_ok=True)
        with paths_of(amphora):
            text = settings.agent_configuration(process.amphora_id, heartbeats_to=[health.address])
            amphora.worker = Worker(database)
        process.config_file.write_text(
            text.replace("bind_host = 127.0.0.1", f"bind_host = {process.address}")
        )
        process.start()
        halves.append(Half(amphora))
    failed_before = request.session.testsfailed
    yield Pair((halves[0], halves[1]), MEMBER_SUBNET, database)
    for half in halves:
        if request.session.testsfailed > failed_before:
            print(f"--- the agent's log ---\n{half.amphora.agent.log}")
        half.amphora.worker.close()
        half.amphora.unplug()
    client.ip("neigh", "flush", "all")


def served_by(client: Namespace) -> str | None:
    """Which member answers at the VIP; None when nobody does."""
    try:
        return str(get(client, VIP, 80, timeout=1).json()["name"])
    except FAILURES:
        return None


def remembered(half: Half, balancer_id: str) -> int:
    """How many clients its stick tables know."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(half.amphora.agent.run_path / f"{balancer_id}.master"))
        connection.sendall(b"@1 show table\n")
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as answer:
            return sum(int(used) for used in re.findall(r"used:(\d+)", answer.read()))


@pytest.fixture
def master(pair: Pair, client: Namespace, webs: dict[str, Backend]) -> Half:
    """The pair serves an HTTP listener whose clients stay with their member."""
    listener = loadbalancers.listener(pair.balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80), (WEB2, 80)])
    loadbalancers.persistence(pool, "SOURCE_IP")
    pair.deploy()
    pair.start_vrrp()
    until(lambda: served_by(client) is not None, "the VIP is served", timeout=30)
    (holder,) = pair.holders()
    return holder


def test_the_standby_goes_on_where_the_master_ended(
    pair: Pair, master: Half, client: Namespace
) -> None:
    (standby,) = (half for half in pair.halves if half is not master)
    (member,) = {served_by(client) for _ in range(4)}
    until(lambda: remembered(standby, pair.balancer.id) == 1, "its peer has told the standby")

    agent = master.amphora.agent
    master.amphora.namespace.down("eth1")
    agent.kill()
    processes.end(agent.services())

    until(standby.has_vip, "the standby has the VIP", timeout=30)
    until(lambda: served_by(client) is not None, "the VIP is served again", timeout=30)
    assert {served_by(client) for _ in range(4)} == {member}
    # The tenant's host routes too, which the controller writes in words that keepalived has not.
    if MAJOR > 10:
        table = standby.amphora.namespace.ip("route", "show", "table", "1")
        assert "10.9.0.0/24 via 10.1.0.9 dev eth1" in table


def test_an_update_of_the_pair_moves_nothing(
    pair: Pair, master: Half, client: Namespace, health: HealthManager
) -> None:
    first = master.amphora.agent.services()
    keepalived = [process for process in first if process.program == "keepalived"]
    pair.deploy()
    pair.start_vrrp()
    master.amphora.worker.driver.reload_vrrp_service(pair.balancer)
    assert pair.holders() == [master]
    assert served_by(client) is not None
    assert [p for p in master.amphora.agent.services() if p.program == "keepalived"] == keepalived
    senders = {health.next()["id"] for _ in range(4)}
    assert senders == {half.model.id for half in pair.halves}


def test_a_vrrp_service_that_is_stopped_hands_over(
    pair: Pair, master: Half, client: Namespace
) -> None:
    (standby,) = (half for half in pair.halves if half is not master)
    worker = master.amphora.worker
    worker.driver.clients[master.model.api_version].stop_vrrp(master.model)
    until(standby.has_vip, "the standby has the VIP", timeout=30)
    until(lambda: served_by(client) is not None, "the VIP is served again", timeout=30)
    assert not master.has_vip()
