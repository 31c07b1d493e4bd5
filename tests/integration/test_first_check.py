"""A new member is checked at once, whatever the delay of its monitor, and serves from then on.

The delays are so long that no test passes by waiting for the next check.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab.backend import Backend
from lab.listeners import HealthMonitor
from lab.pki import Authority, write_private
from lab.waiting import until
from tests.integration.amphora import VIP, Amphora
from tests.integration.declared import DeclaredBalancer, monitor
from tests.integration.declared import member as declared_member
from tests.integration.declared import pool as declared_pool
from tests.integration.runtime import Changing, amphora, member

__all__ = ["amphora"]  # of each version of haproxy

DELAY = 60
#: No check fails because the machine is busy: the next one would come after the test.
PATIENCE = 20
EVERYBODY = {"web1", "web2", "web3"}


@pytest.fixture
def web3(amphora: Amphora) -> Iterator[Backend]:
    with Backend(amphora.namespace, "web3", [f"{VIP}:8003"]) as backend:
        yield backend


def served_by(balancer: Changing | DeclaredBalancer) -> set[str]:
    with balancer.client(keep_alive=False) as client:
        return {str(client.get("/").json()["name"]) for _ in range(12)}


def watched(amphora: Amphora, port: int, watch: HealthMonitor) -> Changing:
    """One whose two members serve; they have been checked once, at the start."""
    balancer = Changing(amphora, port, monitor=watch)
    balancer.push()
    until(lambda: served_by(balancer) == {"web1", "web2"}, "both serve")
    return balancer


@pytest.mark.parametrize("by", ["runtime", "reload"])
@pytest.mark.parametrize(
    ("kind", "rise", "fall"), [("HTTP", 1, 3), ("HTTP", 3, 3), ("HTTP", 3, 1), ("TCP", 3, 3)]
)
def test_a8_a_new_member_is_checked_at_once_and_serves(
    amphora: Amphora,
    webs: dict[str, Backend],
    web3: Backend,
    kind: str,
    rise: int,
    fall: int,
    by: str,
) -> None:
    watch = HealthMonitor(
        type=kind,  # type: ignore[arg-type]
        delay=DELAY,
        timeout=PATIENCE,
        rise=rise,
        fall=fall,
    )
    balancer = watched(amphora, 10930, watch)
    try:
        balancer.members.append(member(3))
        balancer.timeout += by == "reload"
        with balancer.load() as load:
            balancer.push()
            assert balancer.done() == by
            until(lambda: served_by(balancer) == EVERYBODY, "the new member serves", timeout=20)
            load.wait_for(20)
        assert load.result.failed == 0, load.result
        assert web3.counts.health == (1 if kind == "HTTP" else 0), "no check that nobody asked for"
    finally:
        balancer.delete()


@pytest.fixture
def others(amphora: Amphora, tmp_path: Path) -> Iterator[dict[str, HealthMonitor]]:
    """Monitors of the other types: by a port with TLS, and by the program that pings."""
    pem = tmp_path / "member.pem"
    write_private(pem, Authority.create("members", key="ec").issue("member", key="ec").pem)
    # haproxy's user gets there where base_path is below /var/lib; here its parents are private.
    for directory in (amphora.agent.directory, *amphora.agent.directory.parents):
        directory.chmod(directory.stat().st_mode | 0o011)
    # As plugging a VIP leaves it.
    amphora.namespace.sysctl("net.ipv4.ping_group_range", "0 2147483647")
    program = str(amphora.agent.base_path / "ping-wrapper.sh")
    plain = HealthMonitor(delay=DELAY, timeout=PATIENCE, rise=3, fall=3, program=program)
    with Backend(amphora.namespace, "checked", [f"{VIP}:8100"], tls=pem):
        yield {
            "HTTPS": replace(plain, type="HTTPS", port=8100),
            "TLS-HELLO": replace(plain, type="TLS-HELLO", port=8100),
            "PING": replace(plain, type="PING"),
        }


@pytest.mark.parametrize("kind", ["HTTPS", "TLS-HELLO", "PING"])
def test_a8_the_first_check_of_every_type_comes_at_once(
    amphora: Amphora,
    webs: dict[str, Backend],
    web3: Backend,
    others: dict[str, HealthMonitor],
    kind: str,
) -> None:
    """Whether that is at run time or by a reload."""
    balancer = watched(amphora, 10934, others[kind])
    try:
        balancer.members.append(member(3))
        with balancer.load() as load:
            balancer.push()
            until(lambda: served_by(balancer) == EVERYBODY, "the new member serves", timeout=20)
            load.wait_for(20)
        assert load.result.failed == 0, load.result
    finally:
        balancer.delete()


@pytest.mark.parametrize("by", ["runtime", "reload"])
@pytest.mark.parametrize("delay", [2, 10, DELAY])
def test_a8_a_new_member_that_is_not_well_is_found_at_once(
    amphora: Amphora, webs: dict[str, Backend], web3: Backend, delay: int, by: str
) -> None:
    web3.set_health(503)
    balancer = watched(amphora, 10931, HealthMonitor(delay=delay, rise=3, fall=3))
    try:
        balancer.members.append(member(3))
        balancer.timeout += by == "reload"
        with balancer.load() as load:
            balancer.push()
            until(lambda: web3.counts.health > 0, "it is checked", timeout=20)
            load.wait_for(50)
        assert load.result.failed == 0, load.result
        assert web3.requests == 0
    finally:
        balancer.delete()


def test_a8_a_member_that_is_enabled_again_serves_at_once(
    amphora: Amphora, webs: dict[str, Backend]
) -> None:
    balancer = watched(amphora, 10932, HealthMonitor(delay=DELAY, timeout=PATIENCE, rise=3, fall=3))
    try:
        for enabled in (False, True):
            balancer.members[1] = replace(balancer.members[1], enabled=enabled)
            balancer.push()
            assert balancer.done() == "runtime"
            assert served_by(balancer) == ({"web1", "web2"} if enabled else {"web1"})
    finally:
        balancer.delete()


def test_a8_members_stay_up_through_a_start(amphora: Amphora, webs: dict[str, Backend]) -> None:
    balancer = watched(amphora, 10933, HealthMonitor(delay=DELAY, timeout=PATIENCE, rise=3, fall=3))
    try:
        before = balancer.processes()
        before[0].send(signal.SIGKILL)
        # The worker lives on for a moment, and takes connections into its grave.
        until(lambda: not any(process.alive for process in before), "what ran has ended")
        until(balancer.accepts, "the next one listens")
        assert served_by(balancer) == {"web1", "web2"}
    finally:
        balancer.delete()


def test_a8_a_declared_member_is_checked_at_once(
    amphora: Amphora, webs: dict[str, Backend], web3: Backend
) -> None:
    balancer = DeclaredBalancer(amphora)
    watch = monitor(delay=DELAY, timeout=PATIENCE, max_retries=3, max_retries_down=3)
    balancer.body["pools"] = [declared_pool(healthmonitor=watch)]
    balancer.push()
    try:
        balancer.body["pools"][0]["members"].append(declared_member(8003))
        assert balancer.push()["step"] == "runtime"
        until(lambda: served_by(balancer) == EVERYBODY, "the new member serves", timeout=20)
    finally:
        balancer.delete()
