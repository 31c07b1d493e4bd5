"""L7 policies: every action, decided by every kind of rule."""

from collections.abc import Callable

import pytest
from controller import loadbalancers
from controller.amphora import VIP, WEB1, WEB3, Amphora
from controller.health_manager import HealthManager
from octavia.common import constants, data_models

from lab.backend import Backend
from lab.http import get
from lab.network import Namespace


@pytest.fixture
def listener(amphora: Amphora, webs: dict[str, Backend]) -> data_models.Listener:
    """An HTTP listener whose default pool is web1."""
    found = loadbalancers.listener(amphora.serve(), "HTTP", 80)
    loadbalancers.pool(found, "HTTP", [(WEB1, 80)])
    return found


def test_redirect_to_pool(
    listener: data_models.Listener,
    amphora: Amphora,
    health: HealthManager,
    client: Namespace,
    backend: Callable[..., Backend],
) -> None:
    backend("special", f"{WEB3}:80")
    special = loadbalancers.pool(listener, "HTTP", [(WEB3, 80)], default=False)
    loadbalancers.monitor(special, "HTTP", url_path="/health")
    loadbalancers.policy(
        listener,
        constants.L7POLICY_ACTION_REDIRECT_TO_POOL,
        [("PATH", "STARTS_WITH", "/special"), ("HOST_NAME", "EQUAL_TO", "www.example.com")],
        redirect_pool=special,
    )
    amphora.worker.deploy(listener.load_balancer)

    assert get(client, VIP, 80, "/special/1", host="www.example.com").json()["name"] == "special"
    assert get(client, VIP, 80, "/special/1", host="www.example.org").json()["name"] == "web1"
    assert get(client, VIP, 80, "/", host="www.example.com").json()["name"] == "web1"
    health.wait_for(lambda _: special.operating_status == constants.ONLINE)


def test_redirect_to_url(
    listener: data_models.Listener, amphora: Amphora, client: Namespace
) -> None:
    loadbalancers.policy(
        listener,
        constants.L7POLICY_ACTION_REDIRECT_TO_URL,
        [("HEADER", "CONTAINS", "old browser", "User-Agent")],
        redirect_url="https://www.example.com/new?a=b",
        redirect_http_code=307,
    )
    loadbalancers.policy(
        listener,
        constants.L7POLICY_ACTION_REDIRECT_TO_URL,
        [("COOKIE", "EQUAL_TO", "yes", "moved")],
        redirect_url="http://www.example.com/",
    )
    amphora.worker.deploy(listener.load_balancer)

    old = get(client, VIP, 80, headers={"User-Agent": "a very old browser"})
    assert (old.status, old.headers["location"]) == (307, "https://www.example.com/new?a=b")
    moved = get(client, VIP, 80, headers={"Cookie": "a=b; moved=yes"})
    assert (moved.status, moved.headers["location"]) == (302, "http://www.example.com/")
    assert get(client, VIP, 80, headers={"Cookie": "moved=no"}).status == 200


def test_redirect_prefix(
    listener: data_models.Listener, amphora: Amphora, client: Namespace
) -> None:
    loadbalancers.policy(
        listener,
        "REDIRECT_PREFIX",
        [("HOST_NAME", "ENDS_WITH", ".example.org")],
        redirect_prefix="https://www.example.com",
        redirect_http_code=301,
    )
    amphora.worker.deploy(listener.load_balancer)

    moved = get(client, VIP, 80, "/a/b?c=d", host="www.example.org")
    assert (moved.status, moved.headers["location"]) == (301, "https://www.example.com/a/b?c=d")
    assert get(client, VIP, 80, "/a/b", host="www.example.com").status == 200


def test_reject(listener: data_models.Listener, amphora: Amphora, client: Namespace) -> None:
    loadbalancers.policy(
        listener,
        constants.L7POLICY_ACTION_REJECT,
        [("PATH", "REGEX", r"^/(admin|\.git)(/.*)?$")],
    )
    not_static = loadbalancers.policy(
        listener, constants.L7POLICY_ACTION_REJECT, [("PATH", "STARTS_WITH", "/static/")]
    )
    loadbalancers.rule(not_static, "FILE_TYPE", "REGEX", "jp.?g$", invert=True)
    amphora.worker.deploy(listener.load_balancer)

    statuses = {
        path: get(client, VIP, 80, path).status
        for path in ("/", "/admin", "/.git/config", "/xgit", "/static/a.jpeg", "/static/a.php")
    }
    assert statuses == {
        "/": 200,
        "/admin": 403,
        "/.git/config": 403,
        "/xgit": 200,
        "/static/a.jpeg": 200,
        "/static/a.php": 403,
    }


def test_disabled_policies_and_policies_without_rules_do_nothing(
    listener: data_models.Listener, amphora: Amphora, client: Namespace
) -> None:
    reject = constants.L7POLICY_ACTION_REJECT
    loadbalancers.policy(listener, reject, [("PATH", "EQUAL_TO", "/off")], enabled=False)
    loadbalancers.policy(listener, reject, [])
    values = [("HEADER", "EQUAL_TO", "a b \\ c", "X-Odd")]
    loadbalancers.policy(listener, reject, values)
    amphora.worker.deploy(listener.load_balancer)

    assert get(client, VIP, 80, "/off").status == 200
    assert get(client, VIP, 80, headers={"X-Odd": "a b \\ c"}).status == 403
    assert get(client, VIP, 80, headers={"X-Odd": "a b c"}).status == 200


def test_a_pool_shared_by_listeners_and_policies_is_one_pool_to_the_controller(
    listener: data_models.Listener, amphora: Amphora, health: HealthManager, client: Namespace
) -> None:
    shared = listener.default_pool
    loadbalancers.monitor(shared, "HTTP", url_path="/health")
    second = loadbalancers.listener(listener.load_balancer, "HTTP", 81)
    loadbalancers.attach(second, shared)
    third = loadbalancers.listener(listener.load_balancer, "HTTP", 82)
    loadbalancers.policy(
        third,
        constants.L7POLICY_ACTION_REDIRECT_TO_POOL,
        [("PATH", "STARTS_WITH", "/")],
        redirect_pool=shared,
    )
    amphora.worker.deploy(listener.load_balancer)

    assert {get(client, VIP, port).json()["name"] for port in (80, 81, 82)} == {"web1"}
    health.wait_for(lambda _: shared.operating_status == constants.ONLINE)
    assert set(health.fresh()["listeners"]) == {listener.id, second.id, third.id}
    assert shared.members[0].operating_status == constants.ONLINE
