"""Listeners come and go; the amphora counts as healthy only while all of them are reported."""

import pytest
from controller import loadbalancers, secrets
from controller.amphora import VIP, WEB1, WEB2, Amphora
from controller.database import Database
from controller.health_manager import HealthManager
from octavia.common import constants

from lab.backend import Backend
from lab.http import Client, Tls, get
from lab.load import Load
from lab.network import Namespace
from lab.pki import Authority
from lab.waiting import until

MANY = 30


def test_many_listeners_are_all_served_and_all_reported(
    amphora: Amphora,
    database: Database,
    health: HealthManager,
    client: Namespace,
    webs: dict[str, Backend],
) -> None:
    balancer = amphora.serve()
    for port in range(8000, 8000 + MANY):
        listener = loadbalancers.listener(balancer, "HTTP", port)
        pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80), (WEB2, 80)])
        loadbalancers.monitor(pool, "HTTP", url_path="/health")
    amphora.worker.deploy(balancer)

    assert {get(client, VIP, port).status for port in range(8000, 8000 + MANY)} == {200}
    assert len(health.fresh()["listeners"]) == MANY
    health.wait_for(
        lambda _: {pool.operating_status for pool in balancer.pools} == {constants.ONLINE}
    )
    assert {one.operating_status for one in balancer.listeners} == {constants.ONLINE}
    assert {member.operating_status for member in database.members()} == {constants.ONLINE}

    health.complaints.clear()
    signs = len(database.signs_of_health)
    for _ in range(3):
        health.next()
    assert health.complaints == []
    assert len(database.signs_of_health) - signs == 3


def test_deleting_a_listener_leaves_the_others_alone(
    amphora: Amphora,
    database: Database,
    health: HealthManager,
    client: Namespace,
    webs: dict[str, Backend],
    tenant_ca: Authority,
) -> None:
    balancer = amphora.serve()
    shared, own = (
        secrets.store(tenant_ca.issue(name, dns=[name])) for name in ("shared.test", "own.test")
    )
    stays = loadbalancers.listener(balancer, "TERMINATED_HTTPS", 443, tls_certificate_id=shared)
    goes = loadbalancers.listener(
        balancer, "TERMINATED_HTTPS", 8443, tls_certificate_id=shared, sni=[own]
    )
    plain = loadbalancers.listener(balancer, "HTTP", 80)
    for listener in (stays, goes, plain):
        loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)
    tls = Tls(server_name="shared.test", ca=tenant_ca.certificate)
    assert get(client, VIP, 8443, tls=tls).status == 200

    with Load(lambda: Client(client, VIP, 80), clients=2) as load:
        load.wait_for(20)
        amphora.worker.delete(goes)
        load.wait_for(20)

    assert load.result.failed == 0, load.result
    assert get(client, VIP, 443, tls=tls).status == 200
    with pytest.raises(ConnectionRefusedError):
        get(client, VIP, 8443)
    health.settle()
    assert set(health.next()["listeners"]) == {stays.id, plain.id}
    assert balancer.operating_status == constants.ONLINE
    assert health.complaints == []


def test_deleting_the_last_listener_ends_haproxy_and_another_can_follow(
    amphora: Amphora,
    database: Database,
    health: HealthManager,
    client: Namespace,
    webs: dict[str, Backend],
) -> None:
    balancer = amphora.serve()
    last = loadbalancers.listener(balancer, "HTTP", 80)
    loadbalancers.pool(last, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)
    assert get(client, VIP, 80).status == 200

    calls = amphora.worker.delete(last)

    assert (calls[-1].method, calls[-1].status) == ("DELETE", 200)
    with pytest.raises(ConnectionRefusedError):
        get(client, VIP, 80)
    assert amphora.agent.services() == []
    signs = len(database.signs_of_health)
    assert health.fresh()["listeners"] == {}
    assert len(database.signs_of_health) > signs
    # What is gone may be deleted again.
    (amphora_model,) = balancer.amphorae
    api = amphora.worker.client_of(amphora_model)
    assert api.delete_listener(amphora_model, balancer.id)

    following = loadbalancers.listener(balancer, "HTTP", 81)
    loadbalancers.pool(following, "HTTP", [(WEB2, 80)])
    amphora.worker.deploy(balancer)
    assert get(client, VIP, 81).json()["name"] == "web2"
    health.wait_for(lambda _: following.operating_status == constants.ONLINE)


def test_changes_do_not_disturb_requests(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)

    with Load(lambda: Client(client, VIP, 80), clients=4) as load:
        load.wait_for(50)
        loadbalancers.member(pool, WEB2, 80)
        amphora.worker.deploy(balancer)
        load.wait_for(50)
        pool.members[0].weight = 0
        amphora.worker.deploy(balancer)
        load.wait_for(50)
        extra = loadbalancers.listener(balancer, "TCP", 7000)
        loadbalancers.pool(extra, "TCP", [(WEB2, 80)])
        amphora.worker.deploy(balancer)
        load.wait_for(50)

    assert load.result.failed == 0, load.result
    assert get(client, VIP, 80).json()["name"] == "web2"


def test_a_prometheus_listener_is_reported_and_tells_of_the_others(
    amphora: Amphora, health: HealthManager, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    metrics = loadbalancers.listener(balancer, "PROMETHEUS", 8088)
    amphora.worker.deploy(balancer)

    assert get(client, VIP, 80).status == 200
    assert set(health.fresh()["listeners"]) == {listener.id, metrics.id}
    served = f'octavia_listener_http_requests_total{{listener="{listener.id}"}} 1\n'
    until(lambda: served in get(client, VIP, 8088, "/metrics").text, "a client sees its request")
    told = get(client, VIP, 8088, "/metrics").text
    (pool,) = balancer.pools
    (member,) = pool.members
    of_member = f'pool="{pool.id}:{listener.id}",member="{member.id}"'
    assert f"octavia_member_sessions_total{{{of_member}}} 1\n" in told
    assert f'octavia_listener_status{{listener="{metrics.id}",state="UP"}} 1\n' in told
    assert "prometheus-exporter-internal" not in told
    assert told.count("# TYPE octavia_") == 144
