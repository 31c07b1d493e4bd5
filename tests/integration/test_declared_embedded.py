"""Pools that come in their listeners, as Octavia sends them, can be changed in every way."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from lab.backend import Backend
from tests.builders.bodies import Body
from tests.integration.amphora import WEB_PORTS, Amphora
from tests.integration.declared import DeclaredBalancer, member, pool

ONE, TWO = (pool(name, member(port)) for name, port in zip(("one", "two"), WEB_PORTS, strict=True))


@pytest.fixture
def balancer(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    """Everything is said wherever Octavia says it."""
    made = DeclaredBalancer(amphora)
    made.body["pools"] = copy.deepcopy([ONE, TWO])
    made.body["listeners"][0] |= {"default_pool_id": "one", "default_pool": copy.deepcopy(ONE)}
    made.push()
    assert made.served_by() == {"web1"}
    yield made
    made.delete()


def bodies(balancer: DeclaredBalancer) -> Iterator[Body]:
    """What a driver may change: the body that it sent, or what GET answers."""
    yield copy.deepcopy(balancer.body)
    yield dict(balancer.get().json())


@pytest.fixture(params=[0, 1], ids=["as it was sent", "as GET tells it"])
def body(balancer: DeclaredBalancer, request: pytest.FixtureRequest) -> Body:
    found: list[Body] = list(bodies(balancer))
    return found[int(request.param)]


def put(balancer: DeclaredBalancer, body: Body) -> Any:
    answer = balancer.put(body=body)
    assert answer.status == 200, answer.json()
    return answer.json()


def status_of_a_request(balancer: DeclaredBalancer) -> int:
    with balancer.client(keep_alive=False) as client:
        return client.get("/").status


def test_d3_another_default_pool(balancer: DeclaredBalancer, body: Body) -> None:
    body["listeners"][0]["default_pool_id"] = "two"
    assert put(balancer, body)["step"] == "reload"
    assert balancer.served_by() == {"web2"}
    assert balancer.get().json()["listeners"][0]["default_pool_id"] == "two"
    assert put(balancer, balancer.get().json())["step"] == "nothing"


def test_d3_no_default_pool_and_one_again(balancer: DeclaredBalancer, body: Body) -> None:
    body["listeners"][0]["default_pool_id"] = None
    assert put(balancer, body)["step"] == "reload"
    assert status_of_a_request(balancer) == 503
    again = balancer.get().json()
    again["listeners"][0]["default_pool_id"] = "one"
    put(balancer, again)
    assert balancer.served_by() == {"web1"}


def test_d3_members_come_and_go(balancer: DeclaredBalancer, body: Body) -> None:
    body["pools"][0]["members"].append(member(WEB_PORTS[1]))
    assert put(balancer, body)["step"] != "nothing"
    assert balancer.served_by(20) == {"web1", "web2"}
    del body["pools"][0]["members"][0]
    put(balancer, body)
    assert balancer.served_by(20) == {"web2"}
    body["pools"][0]["members"] = []
    put(balancer, body)
    assert status_of_a_request(balancer) == 503


def test_d3_a_pool_is_deleted(balancer: DeclaredBalancer, body: Body) -> None:
    body["listeners"][0]["default_pool_id"] = "two"
    body["listeners"][0].pop("default_pool", None)
    del body["pools"][0]
    put(balancer, body)
    assert balancer.served_by() == {"web2"}
    assert [each["pool_id"] for each in balancer.get().json()["pools"]] == ["two"]


def test_d3_a_patch_of_what_came_embedded(balancer: DeclaredBalancer) -> None:
    answer = balancer.patch("/pools/one", {"members": [member(WEB_PORTS[1])]})
    assert answer.status == 200, answer.json()
    assert balancer.served_by() == {"web2"}
