"""What a listener allows and adds: connections, time, headers, source addresses."""

import time
from collections.abc import Callable

import pytest
from controller import loadbalancers
from controller.amphora import VIP, WEB1, Amphora
from controller.health_manager import HealthManager
from controller.release import needs_allowed_cidrs, needs_interface_rules
from octavia.common import constants, data_models

from lab.backend import Backend
from lab.http import get
from lab.network import Namespace


def test_connections_beyond_the_limit_wait_and_the_controller_is_told(
    amphora: Amphora, health: HealthManager, client: Namespace, backend: Callable[..., Backend]
) -> None:
    backend("tcp1", f"{WEB1}:7000", mode="tcp")
    listener = loadbalancers.listener(amphora.serve(), "TCP", 7000, connection_limit=2)
    loadbalancers.pool(listener, "TCP", [(WEB1, 7000)])
    amphora.worker.deploy(listener.load_balancer)

    first, second = (client.connect(VIP, 7000) for _ in range(2))
    with second:
        assert first.recv(100) == second.recv(100) == b"tcp1\n"
        third = client.connect(VIP, 7000, timeout=1)
        with third:
            with pytest.raises(TimeoutError):
                third.recv(100)
            health.wait_for(lambda _: listener.operating_status == constants.DEGRADED)
            assert listener.load_balancer.operating_status == constants.DEGRADED
            first.close()
            assert third.recv(100) == b"tcp1\n"
    health.wait_for(lambda _: listener.operating_status == constants.ONLINE)


def test_a_silent_client_is_let_go_after_its_timeout(
    amphora: Amphora, client: Namespace, backend: Callable[..., Backend]
) -> None:
    backend("tcp1", f"{WEB1}:7000", mode="tcp")
    listener = loadbalancers.listener(
        amphora.serve(), "TCP", 7000, timeout_client_data=1000, timeout_tcp_inspect=500
    )
    loadbalancers.pool(listener, "TCP", [(WEB1, 7000)])
    amphora.worker.deploy(listener.load_balancer)

    with client.connect(VIP, 7000, timeout=10) as connection:
        assert connection.recv(100) == b"tcp1\n"
        begun = time.monotonic()
        assert connection.recv(100) == b""
        assert 0.8 < time.monotonic() - begun < 5


def test_a_member_is_waited_for_as_long_as_the_listener_says(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    patient = loadbalancers.listener(balancer, "HTTP", 80)
    hasty = loadbalancers.listener(balancer, "HTTP", 81, timeout_member_data=500)
    for listener in (patient, hasty):
        loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)

    assert get(client, VIP, 80, "/slow?seconds=1").status == 200
    assert get(client, VIP, 81, "/slow?seconds=1").status == 504


def test_a_member_that_is_not_there_is_given_up(amphora: Amphora, client: Namespace) -> None:
    listener = loadbalancers.listener(amphora.serve(), "HTTP", 80, timeout_member_connect=200)
    # An address of the members' segment that nobody has.
    loadbalancers.pool(listener, "HTTP", [("10.2.0.200", 80)])
    amphora.worker.deploy(listener.load_balancer)

    answer = get(client, VIP, 80)
    assert answer.status == 503
    assert answer.seconds < 3


def test_headers_are_inserted(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    names = ("X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto")
    with_headers = loadbalancers.listener(
        balancer, "HTTP", 8080, insert_headers={name: "true" for name in names}
    )
    without = loadbalancers.listener(balancer, "HTTP", 8081, insert_headers={names[0]: "false"})
    for listener in (with_headers, without):
        loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)

    # A client's own words for two of them are replaced.
    lies = {"X-Forwarded-Port": "1", "X-Forwarded-Proto": "gopher"}
    seen = get(client, VIP, 8080, headers=lies).json()["headers"]
    assert (seen["x-forwarded-for"], seen["x-forwarded-port"]) == ("10.1.0.1", "8080")
    assert seen["x-forwarded-proto"] == "http"
    assert not {name.lower() for name in names} & get(client, VIP, 8081).json()["headers"].keys()


@pytest.mark.api_1_0("reports disabled listeners")
def test_a_disabled_listener_is_neither_served_nor_reported(
    amphora: Amphora, health: HealthManager, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    on = loadbalancers.listener(balancer, "HTTP", 80)
    off = loadbalancers.listener(balancer, "HTTP", 81)
    for listener in (on, off):
        loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)
    assert get(client, VIP, 81).status == 200

    off.enabled = False
    amphora.worker.deploy(balancer)

    with pytest.raises(ConnectionRefusedError):
        get(client, VIP, 81)
    assert get(client, VIP, 80).status == 200
    assert set(health.fresh()["listeners"]) == {on.id}
    health.wait_for(lambda _: off.operating_status == constants.OFFLINE)
    assert on.operating_status == constants.ONLINE


def allow(listener: data_models.Listener, *cidrs: str) -> None:
    listener.allowed_cidrs = [data_models.ListenerCidr(listener.id, cidr) for cidr in cidrs]


@needs_allowed_cidrs
def test_allowed_cidrs_leave_the_configuration_alone(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend]
) -> None:
    """The controller enforces them before the amphora, with the VIP port's security group."""
    listener = loadbalancers.listener(amphora.serve(), "HTTP", 80)
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    allow(listener, "10.1.0.0/24", "192.0.2.0/24")
    amphora.worker.deploy(listener.load_balancer)

    assert get(client, VIP, 80).status == 200


@needs_interface_rules
def test_allowed_cidrs_of_an_sriov_port_are_rules_of_the_interface(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend]
) -> None:
    """Where Neutron's security groups do not reach, the controller sends rules to the amphora."""
    listener = loadbalancers.listener(amphora.serve(), "HTTP", 80)
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(listener.load_balancer)
    rules = [{"protocol": "TCP", "cidr": "10.1.0.9/32", "port": 80}]

    amphora.worker.driver.set_interface_rules(amphora.model, VIP, rules)

    def connect(source: str) -> None:
        with client.make_socket(source) as connection:
            connection.settimeout(1)
            connection.bind((source, 0))
            connection.connect((VIP, 80))

    connect("10.1.0.9")
    with pytest.raises((TimeoutError, ConnectionError)):
        connect("10.1.0.1")
