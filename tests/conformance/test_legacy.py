"""API 0.5: one haproxy for each listener, and heartbeats of version 1.

Driven by releases that know nothing else, and with `--api 0.5` by others that still can.
"""

import hashlib

import pytest
from controller import loadbalancers, secrets
from controller.amphora import VIP, WEB1, WEB2, Amphora
from controller.database import Database
from controller.health_manager import HealthManager
from controller.release import ONLY_LISTENERS
from octavia.common import constants, data_models

from lab.backend import Backend
from lab.http import Tls, get
from lab.network import Namespace
from lab.pki import Authority


@pytest.fixture(autouse=True)
def _in_0_5(api_version: str | None) -> None:
    if not ONLY_LISTENERS and api_version != "0.5":
        pytest.skip("this controller speaks API 1.0")


def http(balancer: data_models.LoadBalancer, port: int, web: str = WEB1) -> data_models.Listener:
    listener = loadbalancers.listener(balancer, "HTTP", port)
    loadbalancers.pool(listener, "HTTP", [(web, 80)])
    return listener


def test_each_listener_has_a_haproxy_of_its_own(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    one, other = http(balancer, 80), http(balancer, 81, WEB2)
    calls = amphora.worker.deploy(balancer)

    assert {call.path.split("/")[1] for call in calls} == {"0.5"}
    assert [get(client, VIP, port).json()["name"] for port in (80, 81)] == ["web1", "web2"]
    masters = {process.pid for process in amphora.agent.services()}
    assert len(masters) == 4  # a master and a worker each

    amphora.worker.delete(one)

    with pytest.raises(ConnectionRefusedError):
        get(client, VIP, 80)
    assert get(client, VIP, 81).json()["name"] == "web2"
    left = {process.pid for process in amphora.agent.services()}
    assert left < masters
    assert len(left) == 2
    api = amphora.worker.client_of(amphora.model)
    assert [row["uuid"] for row in api.get_all_listeners(amphora.model)] == [other.id]
    assert api.get_info(amphora.model)["api_version"] == "0.5"


def test_a_change_of_one_listener_leaves_the_worker_of_another(
    amphora: Amphora, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    one, other = http(balancer, 80), http(balancer, 81)
    amphora.worker.deploy(balancer)
    before = set(amphora.agent.services())

    amphora.worker.client_of(amphora.model).reload_listener(amphora.model, other.id)

    assert set(amphora.agent.services()) == before  # there is nothing to reload

    one.default_pool.lb_algorithm = constants.LB_ALGORITHM_LEAST_CONNECTIONS
    amphora.worker.deploy(balancer)

    after = set(amphora.agent.services())
    assert len(before & after) >= 3  # the other's master and worker, and this one's master
    assert len(after - before) == 1


def test_heartbeats_are_of_version_1_and_count_since_the_beginning(
    amphora: Amphora,
    database: Database,
    health: HealthManager,
    client: Namespace,
    webs: dict[str, Backend],
) -> None:
    balancer = amphora.serve()
    listener = http(balancer, 80)
    (pool,) = balancer.pools
    loadbalancers.monitor(pool, "HTTP", url_path="/health")
    amphora.worker.deploy(balancer)
    sent = 0

    def request(times: int) -> None:
        nonlocal sent
        for _ in range(times):
            assert get(client, VIP, 80).status == 200
            sent += 1

    def counted() -> int:
        assert not any(deltas for _, deltas in database.statistics)
        return database.counted("total_connections", listener.id)

    message = health.wait_for(lambda _: pool.operating_status == constants.ONLINE)
    assert message["ver"] == 1
    assert "pools" not in message
    assert set(message["listeners"][listener.id]["pools"]) == {pool.id}
    assert (listener.operating_status, balancer.operating_status) == (constants.ONLINE,) * 2
    request(3)
    health.wait_for(lambda _: counted() == sent)
    loadbalancers.member(pool, WEB2, 80)
    amphora.worker.deploy(balancer)  # a reload
    request(2)
    health.wait_for(lambda _: counted() == sent)
    amphora.agent.kill()
    request(4)
    amphora.agent.start()
    request(1)
    message = health.wait_for(lambda _: counted() == sent)
    assert message["ver"] == 1


def test_a_pool_of_two_listeners_is_watched_by_both_haproxies(
    amphora: Amphora, health: HealthManager, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    one = http(balancer, 80)
    (pool,) = balancer.pools
    loadbalancers.monitor(pool, "HTTP", url_path="/health")
    other = loadbalancers.listener(balancer, "HTTP", 81)
    loadbalancers.attach(other, pool)
    amphora.worker.deploy(balancer)

    health.wait_for(lambda _: pool.operating_status == constants.ONLINE)
    listeners = health.fresh()["listeners"]
    assert {name: set(row["pools"]) for name, row in listeners.items()} == {
        one.id: {pool.id},
        other.id: {pool.id},
    }


@pytest.mark.skipif(not ONLY_LISTENERS, reason="these controllers do not expect it")
def test_a_disabled_listener_is_not_served_and_still_reported(
    amphora: Amphora,
    database: Database,
    health: HealthManager,
    client: Namespace,
    webs: dict[str, Backend],
) -> None:
    balancer = amphora.serve()
    on, off = http(balancer, 80), http(balancer, 81)
    amphora.worker.deploy(balancer)
    assert get(client, VIP, 81).status == 200

    off.enabled = False
    amphora.worker.deploy(balancer)

    with pytest.raises(ConnectionRefusedError):
        get(client, VIP, 81)
    assert get(client, VIP, 80).status == 200
    health.settle()
    signs = len(database.signs_of_health)
    assert set(health.next()["listeners"]) == {on.id, off.id}
    assert len(database.signs_of_health) == signs + 1


def test_certificates_are_those_of_the_listener(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    balancer = amphora.serve()
    reference = secrets.store(tenant_ca.issue("www.test", dns=["www.test"]))
    for port in (443, 8443):
        listener = loadbalancers.listener(
            balancer, "TERMINATED_HTTPS", port, tls_certificate_id=reference
        )
        loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    first = amphora.worker.deploy(balancer)
    again = amphora.worker.deploy(balancer)

    tls = Tls(server_name="www.test", ca=tenant_ca.certificate)
    assert [get(client, VIP, port, tls=tls).status for port in (443, 8443)] == [200, 200]
    assert any("/certificates/" in call.path and call.method == "PUT" for call in first)
    assert not any("/certificates/" in call.path and call.method == "PUT" for call in again)
    api = amphora.worker.client_of(amphora.model)
    assert {row["type"] for row in api.get_all_listeners(amphora.model)} == {"TERMINATED_HTTPS"}


def test_a_crt_list_without_its_last_newline_is_taken_and_known_by_its_own_digest(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    """As release 4.1.4 sends it."""
    balancer = amphora.serve()
    reference = secrets.store(tenant_ca.issue("www.test", dns=["www.test"]))
    listener = loadbalancers.listener(
        balancer, "TERMINATED_HTTPS", 443, tls_certificate_id=reference
    )
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)
    directory = amphora.agent.cert_path / listener.id
    certificate = next(path for path in directory.iterdir() if path.stem != listener.id)
    api = amphora.worker.client_of(amphora.model)
    name, sent = f"{listener.id}.pem", str(certificate).encode()

    api.upload_cert_pem(amphora.model, listener.id, name, sent)

    digest = hashlib.md5(sent, usedforsecurity=False).hexdigest()
    assert api.get_cert_md5sum(amphora.model, listener.id, name) == digest
    if not ONLY_LISTENERS:  # the older ones name the certificate itself
        api.reload_listener(amphora.model, listener.id)
        tls = Tls(server_name="www.test", ca=tenant_ca.certificate)
        assert get(client, VIP, 443, tls=tls).status == 200


@pytest.mark.skipif(not ONLY_LISTENERS, reason="these clients do not ask for it")
def test_the_status_of_one_listener_has_its_pools(
    amphora: Amphora, health: HealthManager, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = http(balancer, 80)
    (pool,) = balancer.pools
    (member,) = pool.members
    amphora.worker.deploy(balancer)
    api = amphora.worker.client_of(amphora.model)

    assert api.get_listener_status(amphora.model, listener.id) == {
        "status": "ACTIVE",
        "uuid": listener.id,
        "type": "HTTP",
        "pools": [{"uuid": pool.id, "status": "UP", "members": [{member.id: "no check"}]}],
    }
    api.stop_listener(amphora.model, listener.id)
    assert api.get_listener_status(amphora.model, listener.id)["status"] == "OFFLINE"
