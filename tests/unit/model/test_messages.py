"""What is wrong with a body, in words."""

from typing import Any

import msgspec
import pytest

from amphora_agent.errors import InvalidRequest
from amphora_agent.model.decode import decode
from amphora_agent.model.loadbalancer import LoadBalancer
from tests.builders.bodies import balancer, listener, policy, pool, rule


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (balancer(listener("HTPP")), "listeners[0].protocol: 'HTPP' is not one of HTTP, HTTPS, "),
        (
            balancer(listener(), listener(l7policies=[policy("REJECT", rule(value=""))])),
            "listeners[1].l7policies[0].rules[0].value: not allowed there: What to compare with",
        ),
        (balancer(listener(listener_id="a\n")), "listeners[0].listener_id: not allowed there: An "),
        (balancer(listener(protocol_port=0)), "listeners[0].protocol_port: Expected `int` >= 1"),
        (balancer(listener(default_pool={})), "listeners[0].default_pool.pool_id: is missing"),
        (balancer(listener(nickname="x")), "listeners[0].nickname: unknown; known: admin_state_up"),
        (
            balancer(listener(insert_headers={"X-Other": "true"})),
            "listeners[0].insert_headers: 'X-Other' is not one of X-Client-IP, ",
        ),
        (balancer(pools=(pool(tls_versions=["TLSv1.4"]),)), "pools[0].tls_versions[0]: 'TLSv1.4' "),
        (balancer(vip_address="192.0.2"), "vip_address: '192.0.2' does not appear to be"),
        ({}, "loadbalancer_id: is missing"),
        ([], "body: Expected `object`, got `array`"),
    ],
)
def test_wrong_body_is_refused_with_its_place(body: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(msgspec.json.encode(body), LoadBalancer)
    assert refused.value.details.startswith(words)
