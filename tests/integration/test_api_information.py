"""Discovery, info, details and listeners (WIRE §2 to §4)."""

import os
import re
import socket
import subprocess
from typing import Any

import pytest

from lab.pki import Authority
from tests.integration.amphora import Amphora, LoadBalancer, read_answer, request_bytes


@pytest.mark.parametrize("target", ["/", "//"])
def test_discovery(amphora: Amphora, target: str) -> None:
    answer = amphora.request("GET", target)
    assert (answer.status, answer.json()) == (200, {"api_version": "1.0"})


def test_info_introduces_the_amphora(amphora: Amphora) -> None:
    info = amphora.api.info()
    assert info.keys() == {
        "hostname",
        "haproxy_version",
        "api_version",
        "keepalived_version",
        "ipvsadm_version",
    }
    assert info["hostname"] == socket.gethostname()
    assert info["api_version"] == "1.0"
    installed = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True)
    assert f"version {info['haproxy_version']} " in installed.stdout


DETAILS: dict[str, Any] = {
    "hostname": str,
    "haproxy_version": str,
    "api_version": str,
    "networks": dict,
    "active": bool,
    "haproxy_count": int,
    "lvs_listener_process_count": int,
    "cpu_count": int,
    "cpu": {"total": int, "user": str, "system": str, "soft_irq": str},
    "memory": dict.fromkeys(
        ("total", "free", "buffers", "cached", "swap_used", "shared", "slab"), int
    ),
    "disk": {"used": int, "available": int},
    "load": list,
    "active_tuned_profiles": str,
    "topology": str,
    "topology_status": str,
    "listeners": list,
    "packages": dict,
    "keepalived_version": str,
    "ipvsadm_version": str,
}


def shape(value: Any, like: Any) -> Any:
    if isinstance(like, dict) and isinstance(value, dict):
        return {key: shape(inner, like.get(key)) for key, inner in value.items()}
    return type(value)


def test_details_have_every_member_of_the_contract_with_its_type(amphora: Amphora) -> None:
    assert shape(amphora.api.details(), DETAILS) == DETAILS


def test_details_are_about_this_machine(amphora: Amphora) -> None:
    details = amphora.api.details()
    assert details["cpu_count"] == os.cpu_count()
    assert details["active"] is True
    assert (details["topology"], details["topology_status"]) == ("SINGLE", "OK")
    assert details["packages"] == {}
    assert len(details["load"]) == 3
    assert all(float(average) >= 0 for average in details["load"])
    user, system, soft_irq = (int(details["cpu"][kind]) for kind in ("user", "system", "soft_irq"))
    assert user + system + soft_irq <= details["cpu"]["total"]
    # The test's agents say that they are amphorae of 1 GiB.
    memory = details["memory"]
    assert 0 < memory["free"] + memory["buffers"] + memory["cached"] <= memory["total"]
    assert abs(memory["total"] - 1024 * 1024) <= 1


def test_details_count_load_balancers_that_run(amphora: Amphora, balancer: LoadBalancer) -> None:
    details = amphora.api.details()
    assert details["haproxy_count"] == 1
    assert details["listeners"] == [balancer.listener.id]
    amphora.api.stop(balancer.id)
    details = amphora.api.details()
    assert details["haproxy_count"] == 0
    assert details["listeners"] == [balancer.listener.id]


def test_details_list_listeners_sorted(amphora: Amphora) -> None:
    balancers = [amphora.new_balancer() for _ in range(3)]
    for balancer in balancers:
        balancer.upload()
    assert amphora.api.details()["listeners"] == sorted(b.listener.id for b in balancers)
    for balancer in balancers:
        balancer.delete()
    assert amphora.api.details()["listeners"] == []


def test_listeners_tell_status_and_type(amphora: Amphora, balancer: LoadBalancer) -> None:
    row = {"status": "ACTIVE", "uuid": balancer.listener.id, "type": "HTTP"}
    assert amphora.api.listeners() == [row]
    amphora.api.stop(balancer.id)
    assert amphora.api.listeners() == [{**row, "status": "OFFLINE"}]
    amphora.api.start(balancer.id)
    assert amphora.api.listeners() == [row]


def test_listeners_of_each_type(amphora: Amphora, authorities: tuple[Authority, Authority]) -> None:
    tcp = amphora.new_balancer(kind="TCP")
    secure = amphora.new_balancer(kind="TERMINATED_HTTPS")
    site = amphora.agent.cert_path / secure.id / "site.pem"
    secure.crt_list = str(site.with_name("listener.pem"))
    amphora.api.upload_certificate(secure.id, "site.pem", authorities[0].issue("site").pem)
    amphora.api.upload_certificate(secure.id, "listener.pem", f"{site}\n".encode())
    try:
        tcp.upload()
        secure.upload()
        assert {row["uuid"]: row["type"] for row in amphora.api.listeners()} == {
            tcp.listener.id: "TCP",
            secure.listener.id: "TERMINATED_HTTPS",
        }
    finally:
        tcp.delete()
        secure.delete()


def test_an_amphora_without_load_balancers_has_no_listeners(amphora: Amphora) -> None:
    assert amphora.api.listeners() == []


def test_one_connection_serves_many_requests(amphora: Amphora) -> None:
    with amphora.connect() as connection:
        for target in ("/", "/1.0/info", "/1.0/nonsense", "/1.0/details", "/1.0/info"):
            connection.sendall(request_bytes("GET", target))
            answer = read_answer(connection)
            assert answer.status == (404 if "nonsense" in target else 200)
            assert answer.headers.get("connection", "keep-alive").lower() == "keep-alive"


def test_a_client_that_wants_the_connection_closed_gets_it_closed(amphora: Amphora) -> None:
    with amphora.connect() as connection:
        connection.sendall(request_bytes("GET", "/1.0/info", headers={"Connection": "close"}))
        answer = read_answer(connection)
        assert answer.status == 200
        assert answer.headers["connection"].lower() == "close"
        assert connection.recv(1) == b""


def test_requests_that_are_sent_ahead_are_answered_in_order(amphora: Amphora) -> None:
    with amphora.connect() as connection:
        connection.sendall(
            request_bytes("GET", "/1.0/info")
            + request_bytes("GET", "/1.0/nonsense")
            + request_bytes("GET", "/")
        )
        # One reader for all three: it may hold bytes of the next answer already.
        received = b""
        while received.count(b"api_version") < 2:
            piece = connection.recv(65536)
            assert piece, received
            received += piece
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"404", b"200"]


def test_head_is_get_without_a_body(amphora: Amphora) -> None:
    with amphora.connect() as connection:
        connection.sendall(request_bytes("HEAD", "/1.0/info"))
        answer = read_answer(connection, "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        connection.sendall(request_bytes("GET", "/1.0/info"))
        assert read_answer(connection).status == 200
