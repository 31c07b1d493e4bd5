"""A port is tried in the namespace before haproxy is asked to listen there."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.config.queries import ListenAddress
from amphora_agent.haproxy.process import startup
from amphora_agent.namespace import Namespace
from lab.network import Lab
from lab.network import Namespace as LabNamespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

HERE, THERE = ListenAddress("127.0.0.1", 80), ListenAddress("::1", 80)
ELSEWHERE = ListenAddress("192.0.2.1", 80)


@pytest.fixture(scope="module")
def namespace() -> Iterator[LabNamespace]:
    with Lab("ports") as lab:
        yield lab.namespace("one")


def require(namespace: LabNamespace, *addresses: ListenAddress) -> None:
    startup.require_ports(Namespace(namespace.path), addresses)


def test_a_free_port_is_left_alone(namespace: LabNamespace) -> None:
    require(namespace, HERE, THERE)
    with pytest.raises(ConnectionRefusedError):
        namespace.connect(*HERE)


def test_ports_of_the_host_do_not_count(namespace: LabNamespace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        require(namespace, ListenAddress("127.0.0.1", other.getsockname()[1]))


def test_a_haproxy_that_listens_already_is_no_obstacle(namespace: LabNamespace) -> None:
    with namespace.make_socket(HERE.host) as haproxy:
        haproxy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        haproxy.bind(HERE)
        haproxy.listen()
        require(namespace, HERE)


def test_all_that_is_not_to_be_had_is_named(namespace: LabNamespace) -> None:
    with namespace.make_socket(HERE.host) as other:
        other.bind(HERE)
        other.listen()
        with pytest.raises(OperationFailed) as refusal:
            require(namespace, HERE, THERE, ELSEWHERE)
    assert refusal.value.details.splitlines() == [
        "cannot bind socket (Address already in use) for [127.0.0.1:80]",
        "cannot bind socket (Cannot assign requested address) for [192.0.2.1:80]",
    ]


def test_an_address_that_comes_late_is_awaited(namespace: LabNamespace) -> None:
    def plug() -> None:
        namespace.address("lo", f"{ELSEWHERE.host}/32")

    late = threading.Timer(0.3, plug)
    late.start()
    try:
        require(namespace, ELSEWHERE)
    finally:
        late.join()
