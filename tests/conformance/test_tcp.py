"""TCP listeners, and the PROXY protocol that tells members who the client is."""

import socket
from collections.abc import Callable, Iterator

import pytest
from controller import loadbalancers, secrets
from controller.amphora import VIP, VIP_SUBNET_V6, VIP_V6, WEB1, WEB2, Amphora
from controller.health_manager import HealthManager
from octavia.common import constants

from lab.backend import Backend
from lab.http import Tls, get
from lab.network import Namespace
from lab.pki import Authority

PROXY_POOLS = [("PROXY", 1), ("PROXYV2", 2)]


def first_line(connection: socket.socket) -> str:
    return read_lines(connection).__next__()


def read_lines(connection: socket.socket) -> Iterator[str]:
    with connection.makefile("r") as lines:
        for line in lines:
            yield line.rstrip("\n")


def test_connections_are_balanced_and_carry_bytes_both_ways(
    amphora: Amphora, health: HealthManager, client: Namespace, backend: Callable[..., Backend]
) -> None:
    backend("tcp1", f"{WEB1}:7000", mode="tcp")
    backend("tcp2", f"{WEB2}:7000", mode="tcp")
    listener = loadbalancers.listener(amphora.serve(), "TCP", 7000)
    pool = loadbalancers.pool(
        listener,
        "TCP",
        [(WEB1, 7000), (WEB2, 7000)],
        lb_algorithm=constants.LB_ALGORITHM_LEAST_CONNECTIONS,
    )
    loadbalancers.monitor(pool, "TCP")
    amphora.worker.deploy(listener.load_balancer)
    health.forget()

    with client.connect(VIP, 7000) as one, client.connect(VIP, 7000) as other:
        lines = read_lines(one)
        assert {next(lines), first_line(other)} == {"tcp1", "tcp2"}
        one.sendall(b"hello\n")
        assert next(lines) == "hello"
        message = health.wait_for(
            lambda message: message["listeners"][listener.id]["stats"]["conns"] == 2
        )
    assert message["listeners"][listener.id]["status"] == constants.OPEN


@pytest.mark.parametrize(("protocol", "version"), PROXY_POOLS)
def test_a_tcp_member_learns_the_clients_address(
    protocol: str,
    version: int,
    amphora: Amphora,
    health: HealthManager,
    client: Namespace,
    backend: Callable[..., Backend],
) -> None:
    backend("tcp1", f"{WEB1}:7000", mode="tcp", proxy=True)
    listener = loadbalancers.listener(amphora.serve(), "TCP", 7000)
    pool = loadbalancers.pool(listener, protocol, [(WEB1, 7000)])
    loadbalancers.monitor(pool, "TCP")
    amphora.worker.deploy(listener.load_balancer)

    with client.connect(VIP, 7000) as connection:
        _, port = connection.getsockname()
        assert first_line(connection) == f"tcp1 10.1.0.1:{port}"
    health.wait_for(lambda _: pool.operating_status == constants.ONLINE)


@pytest.mark.parametrize(("protocol", "version"), PROXY_POOLS)
def test_an_http_member_learns_the_clients_address(
    protocol: str,
    version: int,
    amphora: Amphora,
    client: Namespace,
    backend: Callable[..., Backend],
) -> None:
    backend("web1", f"{WEB1}:8080", proxy=True)
    listener = loadbalancers.listener(amphora.serve(), "HTTP", 80)
    loadbalancers.pool(listener, protocol, [(WEB1, 8080)])
    amphora.worker.deploy(listener.load_balancer)

    seen = get(client, VIP, 80).json()["proxy"]
    assert (seen["version"], seen["destination"]) == (version, f"{VIP}:80")
    assert seen["source"].startswith("10.1.0.1:")


def test_an_ipv6_client_is_named_too(
    amphora: Amphora, client: Namespace, backend: Callable[..., Backend]
) -> None:
    backend("tcp1", f"{WEB1}:7000", mode="tcp", proxy=True)
    balancer = amphora.serve(VIP_V6, VIP_SUBNET_V6)
    listener = loadbalancers.listener(balancer, "TCP", 7000)
    loadbalancers.pool(listener, "PROXYV2", [(WEB1, 7000)])
    amphora.worker.deploy(balancer)

    with client.connect(VIP_V6, 7000) as connection:
        _, port, *_ = connection.getsockname()
        assert first_line(connection) == f"tcp1 [2001:db8:1::1]:{port}"


def test_behind_terminated_tls_the_header_comes_with_tls_facts(
    amphora: Amphora, client: Namespace, backend: Callable[..., Backend], tenant_ca: Authority
) -> None:
    backend("web1", f"{WEB1}:8080", proxy=True)
    reference = secrets.store(tenant_ca.issue("www.example.com", dns=["www.example.com"]))
    listener = loadbalancers.listener(
        amphora.serve(), "TERMINATED_HTTPS", 443, tls_certificate_id=reference
    )
    loadbalancers.pool(listener, "PROXYV2", [(WEB1, 8080)])
    amphora.worker.deploy(listener.load_balancer)

    tls = Tls(server_name="www.example.com", ca=tenant_ca.certificate)
    seen = get(client, VIP, 443, tls=tls).json()["proxy"]
    assert (seen["version"], seen["destination"]) == (2, f"{VIP}:443")
