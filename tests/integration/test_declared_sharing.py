"""A pool belongs to the load balancer: whoever uses it, it is checked once and told of once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lab.backend import Backend
from lab.heartbeats import Heartbeat
from lab.waiting import until
from tests.integration.amphora import VIP as WEB
from tests.integration.amphora import Amphora
from tests.integration.declared import (
    DeclaredBalancer,
    listener,
    member,
    monitor,
    new_id,
    pool,
)

LISTENERS = 10
#: Checks to count at the member of a pool that one listener uses: so many intervals.
CHECKS = 5
#: Two pools need not be checked at the same moment of an interval, and we look at one first.
OUT_OF_STEP = 2

#: The pools, each with one member and as many listeners.
POOLS = {"lonely": 1, "alike": LISTENERS, "differently": LISTENERS}
_PORTS = {name: 8011 + number for number, name in enumerate(POOLS)}


@pytest.fixture(scope="module")
def members(amphora: Amphora) -> Iterator[dict[str, Backend]]:
    """They count their checks."""
    with ExitStack() as ending:
        yield {
            name: ending.enter_context(Backend(amphora.namespace, name, [f"{WEB}:{port}"]))
            for name, port in _PORTS.items()
        }


def told(beat: Heartbeat) -> dict[str, Any]:
    """What a heartbeat says of each pool. Keys are the pool's id and, for the controller, another
    one behind a colon."""
    pools = {key.partition(":")[0]: said for key, said in beat.pools.items()}
    assert len(pools) == len(beat.pools)
    return pools


def use(pool_name: str, number: int) -> dict[str, Any]:
    """How a listener uses a pool: the time it waits for members is its own."""
    wait = {"timeout_member_data": 10_000 + number} if pool_name == "differently" else {}
    return {"default_pool_id": pool_name, **wait}


@pytest.fixture(scope="module")
def balancer(amphora: Amphora, members: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    """Its listeners have consecutive ports."""
    made = DeclaredBalancer(amphora)
    ports = itertools.count(made.port + 1000)
    made.body["listeners"] = [
        listener(f"{name}-{number}", next(ports), **use(name, number))
        for name, count in POOLS.items()
        for number in range(count)
    ]
    made.body["pools"] = [
        pool(name, member(port), healthmonitor=monitor(healthmonitor_id=f"monitor-{name}"))
        for name, port in _PORTS.items()
    ]
    made.push()
    yield made
    made.delete()


@pytest.fixture(scope="module")
def checks(
    balancer: DeclaredBalancer, members: dict[str, Backend]
) -> Callable[[str, int], dict[str, int]]:
    """How many checks come to each member while so many come to the one named."""

    def count(name: str, number: int) -> dict[str, int]:
        before = {each: member.counts.health for each, member in members.items()}
        until(
            lambda: members[name].counts.health >= before[name] + number,
            f"{number} checks of {name}",
            timeout=10 * number,
        )
        return {each: member.counts.health - before[each] for each, member in members.items()}

    return count


def test_ten_listeners_check_a_member_as_often_as_one(
    balancer: DeclaredBalancer, checks: Callable[[str, int], dict[str, int]]
) -> None:
    counted = checks("lonely", CHECKS)
    for name in ("alike", "differently"):
        assert abs(counted[name] - counted["lonely"]) <= OUT_OF_STEP, counted


def test_a_pool_is_told_of_once(balancer: DeclaredBalancer) -> None:
    """In heartbeats, as the controller knows it; so is its member."""
    up = {
        name: {"status": "UP", "members": {f"member-{port}": "UP"}} for name, port in _PORTS.items()
    }
    beat = balancer.amphora.heartbeats.wait_for(lambda beat: told(beat) == up)
    assert len(beat.listeners) == sum(POOLS.values())
    status = balancer.get("/status").json()
    assert [each["pool_id"] for each in status["pools"]] == list(POOLS)
    assert [len(each["members"]) for each in status["pools"]] == [1] * len(POOLS)


def test_all_listeners_know_what_the_one_check_has_found(
    balancer: DeclaredBalancer, members: dict[str, Backend]
) -> None:
    def answers(pool_name: str) -> set[int]:
        found = set()
        for each in balancer.body["listeners"]:
            if each["default_pool_id"] == pool_name:
                with balancer.client(each["protocol_port"]) as client:
                    found.add(client.get("/").status)
        return found

    def await_answers(pool_name: str, status: int) -> None:
        until(lambda: answers(pool_name) == {status}, f"{status} of all that use {pool_name}")

    def await_told(status: str) -> None:
        wanted = {
            name: {"status": status, "members": {f"member-{port}": status}}
            for name, port in _PORTS.items()
        }
        balancer.amphora.heartbeats.wait_for(lambda beat: told(beat) == wanted)

    for health, status, answer in ((200, "UP", 200), (500, "DOWN", 503), (200, "UP", 200)):
        for name in POOLS:
            members[name].set_health(health)
        for name in POOLS:
            await_answers(name, answer)
        await_told(status)


def test_processes_of_their_own_check_each_for_itself(
    amphora: Amphora, balancer: DeclaredBalancer, members: dict[str, Backend]
) -> None:
    """What sharing saves; and still the pool is told of once."""
    name, count = f"{new_id()}-pool", 3
    made = DeclaredBalancer(amphora)
    made.body["listeners"] = [
        listener(f"{made.id}-{number}", made.port + 2000 + number, default_pool_id=name)
        for number in range(count)
    ]
    with ExitStack() as ending:
        port = max(_PORTS.values()) + 1
        counting = ending.enter_context(Backend(amphora.namespace, "own", [f"{WEB}:{port}"]))
        made.body["pools"] = [pool(name, member(port), healthmonitor=monitor())]
        made.push("?process_model=listener")
        ending.callback(made.delete)
        checked = {"status": "UP", "members": {f"member-{port}": "UP"}}
        amphora.heartbeats.wait_for(lambda beat: told(beat).get(name) == checked)
        before = counting.counts.health
        alone = members["lonely"].counts.health
        until(
            lambda: counting.counts.health >= before + count * CHECKS,
            "checks of each process",
            timeout=10 * CHECKS,
        )
        alone = members["lonely"].counts.health - alone
        assert abs(alone - CHECKS) <= OUT_OF_STEP
