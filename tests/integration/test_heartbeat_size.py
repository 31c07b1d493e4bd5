"""Configurations with more listeners than a heartbeat can tell of."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from amphora_agent.client.v2 import AmphoraError
from amphora_agent.heartbeat.message import MOST_LISTENERS
from tests.builders import bodies
from tests.integration.amphora import VIP, Amphora, LoadBalancer

BIND_FROM = 20001


@pytest.fixture
def amphora(boot: Callable[..., Amphora]) -> Iterator[Amphora]:
    with ExitStack() as ending:
        yield boot(ending)


def text(balancer: LoadBalancer, listeners: int) -> str:
    """Its configuration with so many listeners, all but one without a pool."""
    frontends = (
        f"frontend {uuid.uuid4()}\n    mode tcp\n    bind {VIP}:{BIND_FROM + number}\n"
        f"    timeout client 50000\n"
        for number in range(listeners - 1)
    )
    return balancer.text() + "".join(frontends)


def declared(lb_id: str, listeners: int) -> bytes:
    made = (
        bodies.listener("TCP", str(uuid.uuid4()), protocol_port=BIND_FROM + number)
        for number in range(listeners)
    )
    return json.dumps(bodies.balancer(*made, loadbalancer_id=lb_id, vip_address=VIP)).encode()


def test_e8_a_text_beyond_the_number_is_refused_with_the_number(amphora: Amphora) -> None:
    first, second = amphora.new_balancer(), amphora.new_balancer()
    first.push()
    before = amphora.files()
    with pytest.raises(AmphoraError) as refusal:
        amphora.api.upload_haproxy(second.id, text(second, MOST_LISTENERS))
    assert refusal.value.status == 400
    assert str(MOST_LISTENERS) in str(refusal.value)
    assert str(MOST_LISTENERS + 1) in str(refusal.value)
    assert "heartbeat" in str(refusal.value)
    assert amphora.files() == before
    amphora.api.upload_haproxy(second.id, text(second, MOST_LISTENERS - 1))


def test_e8_a_put_beyond_the_number_is_refused_by_the_dry_run_too(amphora: Amphora) -> None:
    amphora.new_balancer().push()
    before, lb_id = amphora.files(), str(uuid.uuid4())
    for query in ("?dry_run=1", ""):
        answer = amphora.request(
            "PUT",
            f"/2.0/loadbalancers/{lb_id}{query}",
            declared(lb_id, MOST_LISTENERS),
            {"Content-Type": "application/json"},
        )
        assert answer.status == 400, answer.body
        assert str(MOST_LISTENERS + 1).encode() in answer.body
    assert amphora.files() == before


def test_e8_without_a_controller_there_is_no_such_number(boot: Callable[..., Amphora]) -> None:
    with ExitStack() as ending:
        balancer = boot(ending, controllers=[]).new_balancer()
        balancer.amphora.api.upload_haproxy(balancer.id, text(balancer, MOST_LISTENERS + 1))
