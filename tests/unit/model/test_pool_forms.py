"""The normal form of load balancers: what counts where a body says a thing twice."""

from __future__ import annotations

from typing import Any

import msgspec

from amphora_agent.model.decode import decode
from amphora_agent.model.loadbalancer import LoadBalancer
from amphora_agent.model.resolved import normalize
from tests.builders.bodies import balancer, listener, member, policy, pool


def normal(body: dict[str, Any]) -> LoadBalancer:
    content = msgspec.json.encode(body)
    return normalize(decode(content, LoadBalancer), content)


def front(found: LoadBalancer) -> Any:
    (only,) = found.listeners or ()
    return only


def test_normal_form_has_each_pool_once() -> None:
    redirects = policy("REDIRECT_TO_POOL", redirect_pool=pool(name="b"))
    found = normal(balancer(listener(default_pool=pool(name="a"), l7policies=[redirects])))
    assert [each.pool_id for each in found.pools or ()] == ["a", "b"]
    assert (front(found).default_pool, front(found).default_pool_id) == (None, "a")
    assert front(found).l7policies[0].redirect_pool is None
    assert front(found).l7policies[0].redirect_pool_id == "b"


def test_id_counts_more_than_the_pool_beside_it() -> None:
    body = balancer(
        listener(
            default_pool=pool(name="a"),
            default_pool_id="b",
            l7policies=[
                policy("REDIRECT_TO_POOL", redirect_pool=pool(name="a"), redirect_pool_id="b")
            ],
        ),
        pools=(pool(name="b"),),
    )
    found = normal(body)
    assert front(found).default_pool_id == "b"
    assert front(found).l7policies[0].redirect_pool_id == "b"
    assert {each.pool_id for each in found.pools or ()} == {"a", "b"}


def test_null_means_no_default_pool() -> None:
    for pools in ((), (pool(),)):
        body = balancer(listener(default_pool=pool(), default_pool_id=None), pools=pools)
        assert front(normal(body)).default_pool_id is None
        assert [each.pool_id for each in normal(body).pools or ()] == ["pool"]


def test_pool_of_the_load_balancer_counts() -> None:
    for members in ([member("a")], [], [member("a"), member("b")]):
        body = balancer(
            listener(default_pool=pool(members=[member("a", weight=3)])),
            pools=(pool(members=members),),
        )
        (found,) = normal(body).pools or ()
        assert [each.member_id for each in found.members or ()] == [
            each["member_id"] for each in members
        ]
        assert all(each.weight is None for each in found.members or ())


def test_normal_form_of_a_normal_form_is_the_same() -> None:
    body = balancer(listener(default_pool=pool()))
    content = msgspec.json.encode(normal(body), enc_hook=str)
    assert normalize(decode(content, LoadBalancer), content) == normal(body)
