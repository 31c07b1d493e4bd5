"""A load balancer is served with the file descriptors that there are, and can shrink at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from lab.backend import Backend
from lab.listeners import many_listeners
from tests.integration.amphora import VIP, WEB_PORTS, Amphora, LoadBalancer
from tests.integration.declared import DeclaredBalancer, listener

LISTENERS = 1000
FIRST_PORT = 30000
#: What controllers ask for where a listener has no limit; more than this machine has descriptors.
MANY = 1_000_000


@pytest.fixture
def declared(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    made = DeclaredBalancer(amphora)
    made.push()
    yield made
    made.delete()


def alarms(amphora: Amphora, instance_id: str) -> list[dict[str, Any]]:
    """The alarms of an instance about its descriptors."""
    found = amphora.request("GET", f"/2.0/instances/{instance_id}").json()["alarms"]
    return [alarm for alarm in found if alarm["kind"] == "fewer-connections"]


def served_at_once(balancer: LoadBalancer | DeclaredBalancer) -> int:
    shown = re.search(r"(?m)^Maxconn: (\d+)", balancer.ask("@1 show info"))
    assert shown
    return int(shown[1])


def listens(amphora: Amphora, port: int) -> bool:
    try:
        amphora.namespace.connect(VIP, port).close()
    except ConnectionRefusedError:
        return False
    return True


def test_e6_a_thousand_listeners_become_one_and_a_thousand_again(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    more = many_listeners(
        LISTENERS - 1,
        members=[(VIP, port) for port in WEB_PORTS],
        first_port=FIRST_PORT,
        connection_limit=2,
    )
    with balancer.load() as load:
        for listeners in (more, [], more, []):
            balancer.push(*listeners)
            load.wait_for(20)
            assert listens(amphora, FIRST_PORT) == bool(listeners)
    assert load.result.failed == 0, load.result


def test_a2_more_connections_than_descriptors_are_served_and_told(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    text, count = re.subn(r"(?m)^    maxconn \d+$", f"    maxconn {MANY}", balancer.text())
    assert count == 2
    amphora.api.upload_haproxy(balancer.id, text)
    balancer.reload()

    assert balancer.get() in {"web1", "web2"}
    given = served_at_once(balancer)
    assert 1000 < given < MANY
    (alarm,) = alarms(amphora, balancer.id)
    assert f"at most {given} connections at once, not {MANY}" in alarm["text"]
    assert alarm["level"] == "ERROR"
    assert alarm["text"] in amphora.agent.log
    metrics = amphora.request("GET", "/metrics").body.decode()
    assert f'amphora_agent_alarm{{kind="fewer-connections",subject="{balancer.id}"' in metrics

    balancer.push()
    assert alarms(amphora, balancer.id) == []


def test_a2_a_configuration_with_all_listeners_disabled_is_served(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    text = re.sub(r"(?m)^    maxconn \d+$", f"    maxconn {MANY}", balancer.text(), count=1)
    without, _, _ = text.partition("frontend ")
    amphora.api.upload_haproxy(balancer.id, without)
    balancer.reload()

    assert not balancer.accepts()
    assert len(alarms(amphora, balancer.id)) == 1


def test_a2_an_alarm_goes_with_its_load_balancer(amphora: Amphora) -> None:
    balancer = amphora.new_balancer()
    text = re.sub(r"(?m)^    maxconn \d+$", f"    maxconn {MANY}", balancer.text())
    amphora.api.upload_haproxy(balancer.id, text)
    assert len(alarms(amphora, balancer.id)) == 1
    balancer.delete()
    assert balancer.id not in amphora.request("GET", "/metrics").body.decode()


def test_a2_a_declared_load_balancer_is_told_too(
    amphora: Amphora, declared: DeclaredBalancer
) -> None:
    declared.body["listeners"][0]["connection_limit"] = MANY
    declared.push()

    assert declared.served_by() == {"web1", "web2"}
    (alarm,) = alarms(amphora, declared.id)
    given = served_at_once(declared)
    assert f"at most {given} connections at once, not {MANY}" in alarm["text"]

    declared.body["listeners"][0]["connection_limit"] = 100
    declared.push()
    assert alarms(amphora, declared.id) == []


def test_e6_a_declared_load_balancer_shrinks_under_traffic(declared: DeclaredBalancer) -> None:
    one = declared.body["listeners"]
    one[0]["connection_limit"] = 2
    more = [
        listener(f"{declared.id}-{number}", FIRST_PORT + number, connection_limit=2)
        for number in range(400)
    ]
    with declared.load() as load:
        for listeners in (one + more, one, one + more, one):
            declared.body["listeners"] = listeners
            declared.push()
            load.wait_for(20)
    assert load.result.failed == 0, load.result
