"""HTTP listeners: traffic is balanced, and what the monitors see is what the controller learns."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from controller import loadbalancers
from controller.amphora import VIP, WEB1, WEB2, WEB3, Amphora
from controller.health_manager import HealthManager
from octavia.common import constants

from lab.backend import Backend
from lab.http import Client, get, spread
from lab.network import Namespace


def test_requests_are_balanced_and_the_controller_sees_everything_online(
    amphora: Amphora, health: HealthManager, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80), (WEB2, 80)])
    loadbalancers.monitor(pool, "HTTP", url_path="/health", expected_codes="200-202")
    amphora.worker.deploy(balancer)
    health.settle()

    with Client(client, VIP, 80) as browser:
        assert spread(browser, 10) == {"web1": 5, "web2": 5}

    health.wait_for(lambda _: pool.operating_status == constants.ONLINE)
    assert balancer.operating_status == constants.ONLINE
    assert listener.operating_status == constants.ONLINE
    assert {member.operating_status for member in pool.members} == {constants.ONLINE}
    assert health.complaints == []


def test_a_failing_member_is_found_out_and_comes_back(
    amphora: Amphora, health: HealthManager, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80), (WEB2, 80)])
    loadbalancers.monitor(pool, "HTTP", url_path="/health")
    first, second = pool.members
    amphora.worker.deploy(balancer)
    health.wait_for(lambda _: pool.operating_status == constants.ONLINE)

    webs["web1"].set_health(500)
    health.wait_for(lambda _: first.operating_status == constants.ERROR)
    assert second.operating_status == constants.ONLINE
    assert pool.operating_status == constants.DEGRADED
    assert balancer.operating_status == constants.DEGRADED
    with Client(client, VIP, 80) as browser:
        assert spread(browser, 5) == {"web2": 5}

    webs["web2"].set_health(500)
    health.wait_for(lambda _: second.operating_status == constants.ERROR)
    assert pool.operating_status == constants.ERROR
    assert balancer.operating_status == constants.ERROR
    assert get(client, VIP, 80).status == 503

    webs["web1"].set_health(200)
    health.wait_for(lambda _: first.operating_status == constants.ONLINE)
    assert pool.operating_status == constants.DEGRADED
    assert get(client, VIP, 80).json()["name"] == "web1"


@pytest.mark.parametrize("kind", ["TCP", "HTTP", "HTTPS", "TLS-HELLO"])
def test_every_kind_of_monitor_tells_good_from_bad(
    kind: str,
    amphora: Amphora,
    health: HealthManager,
    backend: Callable[..., Backend],
    member_certificate: Path,
) -> None:
    tls = member_certificate if kind in ("HTTPS", "TLS-HELLO") else None
    backend("good", f"{WEB1}:8443", tls=tls)
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "TCP", 443)
    pool = loadbalancers.pool(listener, "TCP", [(WEB1, 8443), (WEB2, 8443)])
    # Each release has its own way to write the host name into the request.
    web = {"url_path": "/health", "http_version": 1.1, "domain_name": "www.example.com"}
    loadbalancers.monitor(pool, kind, **(web if kind.startswith("HTTP") else {}))
    good, absent = pool.members

    amphora.worker.deploy(balancer)

    health.wait_for(
        lambda _: (
            (good.operating_status, absent.operating_status) == (constants.ONLINE, constants.ERROR)
        )
    )


def test_members_have_the_states_that_the_controller_gave_them(
    amphora: Amphora,
    health: HealthManager,
    client: Namespace,
    webs: dict[str, Backend],
    backend: Callable[..., Backend],
) -> None:
    backend("web3", f"{WEB3}:80")
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP")
    drained = loadbalancers.member(pool, WEB1, 80, weight=0)
    working = loadbalancers.member(pool, WEB2, 80)
    disabled = loadbalancers.member(pool, WEB3, 80, enabled=False)
    loadbalancers.monitor(pool, "HTTP", url_path="/health")
    amphora.worker.deploy(balancer)
    health.settle()

    health.wait_for(lambda _: working.operating_status == constants.ONLINE)
    assert drained.operating_status == constants.DRAINING
    assert disabled.operating_status == constants.OFFLINE
    assert pool.operating_status == constants.ONLINE
    with Client(client, VIP, 80) as browser:
        assert spread(browser, 5) == {"web2": 5}
    assert health.complaints == []


def test_without_a_monitor_members_are_not_judged(
    amphora: Amphora, health: HealthManager, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80), (WEB2, 80)])
    for member in pool.members:
        member.operating_status = constants.OFFLINE  # to see it change
    amphora.worker.deploy(balancer)

    health.wait_for(lambda _: pool.operating_status == constants.ONLINE)
    assert {member.operating_status for member in pool.members} == {constants.NO_MONITOR}


def test_backup_members_serve_when_the_others_are_down(
    amphora: Amphora, health: HealthManager, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP")
    main = loadbalancers.member(pool, WEB1, 80)
    loadbalancers.member(pool, WEB2, 80, backup=True)
    loadbalancers.monitor(pool, "HTTP", url_path="/health")
    amphora.worker.deploy(balancer)
    health.wait_for(lambda _: main.operating_status == constants.ONLINE)
    assert get(client, VIP, 80).json()["name"] == "web1"

    webs["web1"].set_health(500)
    health.wait_for(lambda _: main.operating_status == constants.ERROR)
    assert get(client, VIP, 80).json()["name"] == "web2"


@pytest.mark.parametrize(
    ("kind", "cookie"), [("SOURCE_IP", None), ("HTTP_COOKIE", None), ("APP_COOKIE", "session")]
)
def test_a_session_stays_with_its_member(
    kind: str, cookie: str | None, amphora: Amphora, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80), (WEB2, 80)])
    loadbalancers.persistence(pool, kind, cookie)
    amphora.worker.deploy(balancer)

    first = get(client, VIP, 80)
    given = first.headers.get("set-cookie", "").partition(";")[0]
    assert given.startswith("SRV=") == (kind == "HTTP_COOKIE")
    sent = {"Cookie": given} if given else {}
    served = Counter(get(client, VIP, 80, headers=sent).json()["name"] for _ in range(6))

    if kind == "APP_COOKIE":
        # The cookie is the application's to give, and ours never does: nothing to stick to.
        assert served == {"web1": 3, "web2": 3}
    else:
        assert served == {first.json()["name"]: 6}
