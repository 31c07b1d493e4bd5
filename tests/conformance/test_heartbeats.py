"""Heartbeats as Octavia's health manager takes them."""

import signal

import pytest
from controller import loadbalancers, settings
from controller.amphora import VIP, WEB1, WEB2, Amphora
from controller.database import Database
from controller.health_manager import HealthManager, Message
from controller.release import needs_agent_configuration
from octavia.common import constants

from lab import processes
from lab.backend import Backend
from lab.http import get
from lab.network import Namespace


def test_an_amphora_without_a_load_balancer_makes_itself_known(
    amphora: Amphora, database: Database, health: HealthManager
) -> None:
    first = health.next()
    assert (first["id"], first["listeners"]) == (amphora.model.id, {})
    second = health.next()
    assert second["seq"] == first["seq"] + 1
    assert database.signs_of_health == []


@pytest.mark.api_1_0("counts increases")
def test_statistics_add_up_over_reloads_and_restarts(
    amphora: Amphora,
    database: Database,
    health: HealthManager,
    client: Namespace,
    webs: dict[str, Backend],
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)
    health.forget()
    sent = 0

    def request(times: int) -> None:
        nonlocal sent
        for _ in range(times):
            assert get(client, VIP, 80).status == 200
            sent += 1

    def counted() -> int:
        assert all(deltas for _, deltas in database.statistics)
        return database.counted("total_connections", listener.id)

    request(5)
    health.wait_for(lambda _: counted() == sent)
    request(3)
    loadbalancers.member(pool, WEB2, 80)
    amphora.worker.deploy(balancer)  # a reload
    request(2)
    health.wait_for(lambda _: counted() == sent)
    amphora.agent.kill()
    request(4)
    amphora.agent.start()
    request(1)
    health.wait_for(lambda _: counted() == sent)
    for _ in range(2):
        health.next()
    assert counted() == sent
    assert database.counted("bytes_out", listener.id) > sent * 100


def test_failed_requests_are_counted(
    amphora: Amphora, database: Database, health: HealthManager, client: Namespace
) -> None:
    listener = loadbalancers.listener(amphora.serve(), "HTTP", 80)
    amphora.worker.deploy(listener.load_balancer)

    for _ in range(3):
        with client.connect(VIP, 80) as connection:
            connection.sendall(b"this is not HTTP\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")

    health.wait_for(lambda _: database.counted("request_errors", listener.id) == 3)


def test_a_hung_haproxy_does_not_make_the_amphora_look_dead(
    amphora: Amphora, database: Database, health: HealthManager, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    loadbalancers.monitor(pool, "HTTP", url_path="/health")
    amphora.worker.deploy(balancer)
    health.wait_for(lambda _: pool.operating_status == constants.ONLINE)

    services = amphora.agent.services()
    for service in services:
        service.send(signal.SIGSTOP)
    try:
        health.fresh()
        signs = len(database.signs_of_health)
        for _ in range(3):
            message = health.next()
            assert set(message["listeners"]) == {listener.id}
            assert message["listeners"][listener.id]["status"] != constants.OPEN
        assert len(database.signs_of_health) - signs == 3
    finally:
        for service in services:
            service.send(signal.SIGCONT)
    health.wait_for(lambda message: message["listeners"][listener.id]["status"] == constants.OPEN)
    assert pool.operating_status == constants.ONLINE


def test_a_haproxy_that_dies_comes_back_and_is_never_missing(
    amphora: Amphora, health: HealthManager, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)
    health.settle()
    before = set(amphora.agent.services())

    processes.end(before)

    def back(message: Message) -> bool:
        assert set(message["listeners"]) == {listener.id}
        return message["listeners"][listener.id]["status"] == constants.OPEN and not (
            before & set(amphora.agent.services())
        )

    health.wait_for(back)
    assert get(client, VIP, 80).status == 200
    assert not any("health message reports" in complaint for complaint in health.complaints)


@needs_agent_configuration
def test_heartbeats_go_to_every_controller_in_turn(
    amphora: Amphora, database: Database, health: HealthManager
) -> None:

    other = HealthManager(database)
    try:
        amphora.worker.driver.update_amphora_agent_config(
            amphora.model,
            settings.agent_configuration(
                amphora.model.id,
                # Nobody can send to the second one.
                heartbeats_to=[health.address, "255.255.255.255:5555", other.address],
            ),
        )
        seen: set[int] = set()
        other.next()
        health.forget()
        for _ in range(3):
            seen |= {health.next()["seq"], other.next()["seq"]}
    finally:
        other.close()
    assert len(seen) == 6


@needs_agent_configuration
@pytest.mark.parametrize("key", ["", "a wrong key"])
def test_a_heartbeat_with_another_key_is_not_believed(
    key: str, amphora: Amphora, database: Database, health: HealthManager
) -> None:
    health.next()
    other = HealthManager(database, key=key)
    try:
        amphora.worker.driver.update_amphora_agent_config(
            amphora.model,
            settings.agent_configuration(amphora.model.id, heartbeats_to=[other.address]),
        )
        with pytest.raises(TimeoutError):
            other.next(timeout=3)
        assert any("HMAC" in complaint or "hmac" in complaint for complaint in other.complaints)
    finally:
        other.close()


@pytest.mark.api_1_0("has pools beside listeners")
def test_more_than_a_heartbeat_holds_leaves_the_amphora_alive_and_its_pools_online(
    amphora: Amphora, health: HealthManager
) -> None:
    """340 listeners and pools with 12 members each: ids alone take more than a datagram."""
    balancer = amphora.serve()
    for port in range(2000, 2340):
        listener = loadbalancers.listener(balancer, "TCP", port, connection_limit=5)
        loadbalancers.pool(listener, "TCP", [(WEB1, member) for member in range(8000, 8012)])

    amphora.worker.deploy(balancer)
    health.settle()

    beat = health.wait_for(lambda beat: len(beat["listeners"]) == len(balancer.listeners))
    assert {len(pool["members"]) for pool in beat["pools"].values()} == {0}
    health.wait_for(
        lambda _: {each.operating_status for each in balancer.pools} == {constants.ONLINE}
    )
    assert {each.operating_status for each in balancer.listeners} == {constants.ONLINE}
    assert health.complaints == []
