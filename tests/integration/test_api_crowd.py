"""Crowds of clients that take nothing and send nothing: whoever else comes is served.

Nothing is timed: what would be blocked is done while the crowd is there.
"""

import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.pki import Authority
from lab.waiting import until
from tests.integration.amphora import Amphora, LoadBalancer, read_answer, request_bytes

CROWD = 200
TEN_MEGABYTES = 10 << 20
PEM = Authority.create("tenant", key="ec").issue("site", key="ec").pem


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def large(own_amphora: Amphora) -> Iterator[LoadBalancer]:
    """One whose configuration has ten megabytes."""
    made = own_amphora.new_balancer()
    comment = "# a long comment\n"
    text = made.text() + comment * (TEN_MEGABYTES // len(comment))
    own_amphora.api.upload_haproxy(made.id, text)
    yield made
    made.delete()


def read_slowly(balancer: LoadBalancer, ending: ExitStack) -> None:
    connection = ending.enter_context(balancer.amphora.connect())
    connection.sendall(request_bytes("GET", f"/1.0/loadbalancer/{balancer.id}/haproxy"))


def stall(amphora: Amphora, ending: ExitStack, lb_id: str) -> None:
    connection = ending.enter_context(amphora.connect())
    target = f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{lb_id}/haproxy"
    head = request_bytes("PUT", target, headers={"Content-Length": str(TEN_MEGABYTES)})
    connection.sendall(head + b"#" * 100_000)


def change(amphora: Amphora, lb_id: str) -> int:
    target = f"/1.0/loadbalancer/{lb_id}/certificates/x.pem"
    return amphora.request("PUT", target, PEM).status


def memory(amphora: Amphora) -> int:
    """Of all processes of the agent, in bytes."""
    return sum(_pss(process.pid) for process in amphora.agents().values())


def _pss(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    (line,) = (line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) << 10


def test_e7_e9_a_crowd_holds_no_thread_and_little_memory(
    own_amphora: Amphora, large: LoadBalancer, ending: ExitStack
) -> None:
    other = own_amphora.new_balancer()
    for _ in range(CROWD):
        read_slowly(large, ending)
    for _ in range(CROWD):
        stall(own_amphora, ending, other.id)
    until(
        lambda: own_amphora.agent.log.count(f"{large.id}/haproxy' status=200") >= CROWD,
        "all answers are made",
        timeout=120,
    )
    # More than there are threads, and each is answered while the crowd is there.
    for _ in range(20):
        assert own_amphora.request("GET", "/1.0/info").status == 200
        assert change(own_amphora, other.id) == 200
    assert memory(own_amphora) <= 120 << 20
    own_amphora.api.delete(other.id)


def test_e7_who_takes_the_answer_slowly_gets_all_of_it(
    own_amphora: Amphora, large: LoadBalancer
) -> None:
    with own_amphora.connect() as connection:
        connection.sendall(request_bytes("GET", f"/1.0/loadbalancer/{large.id}/haproxy") * 2)
        assert own_amphora.request("GET", "/1.0/info").status == 200
        first, second = (read_answer(connection) for _ in range(2))
    assert len(first.body) > TEN_MEGABYTES - 100
    assert first.body == second.body == large.configuration.read_bytes()


def test_e9_many_large_uploads_at_once_are_all_taken(own_amphora: Amphora) -> None:
    own_amphora.patience = 120  # haproxy checks 50 MB
    balancers = [own_amphora.new_balancer() for _ in range(8)]
    statuses: list[int] = []

    def upload(balancer: LoadBalancer) -> None:
        text = balancer.text() + "# a comment\n" * (6 << 20 >> 3)
        target = f"/1.0/loadbalancer/{own_amphora.agent.amphora_id}/{balancer.id}/haproxy"
        statuses.append(own_amphora.request("PUT", target, text.encode()).status)

    threads = [threading.Thread(target=upload, args=(each,)) for each in balancers]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert own_amphora.request("GET", "/1.0/info").status == 200
    assert statuses == [202] * len(balancers)
    for balancer in balancers:
        balancer.delete()


def test_e9_what_has_no_room_is_answered_with_503_and_never_with_413(own_amphora: Amphora) -> None:
    """It is more than the memory for uploads, and the disk takes not a byte."""
    other = own_amphora.new_balancer()
    target = f"/1.0/loadbalancer/{own_amphora.agent.amphora_id}/{other.id}/haproxy"
    worker = own_amphora.agents()["api"].pid
    assert own_amphora.request("GET", "/1.0/info").status == 200
    before = resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        answer = own_amphora.request("PUT", target, b"#" * TEN_MEGABYTES * 2)
    finally:
        resource.prlimit(worker, resource.RLIMIT_FSIZE, before)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
