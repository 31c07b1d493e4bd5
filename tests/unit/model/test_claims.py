"""What load balancers claim of addresses and ports, and what meets."""

import itertools

import pytest

from amphora_agent.haproxy.config import queries
from amphora_agent.model.addressing import Claim, claim, first_meeting
from amphora_agent.model.resolved import resolve
from tests.builders.bodies import balancer, decoded, listener


def bound(words: str) -> Claim:
    (found,) = queries.find_claims(f"frontend f\n    bind {words}\n")
    return found


#: Lines that listen at the same place, somewhere.
MEETING = (
    ("192.0.2.1:80", "192.0.2.1:80 ssl crt /x"),
    ("192.0.2.1:80", "*:80"),
    ("192.0.2.1:80", ":80"),
    ("192.0.2.1:80", "0.0.0.0:80"),
    ("192.0.2.1:80", ":::80"),
    ("192.0.2.1:80", "[::]:80"),
    ("192.0.2.1:80", "[::]:80 v4v6"),
    ("192.0.2.1:80", "[::ffff:192.0.2.1]:80"),
    ("192.0.2.1:80", "ipv4@192.0.2.1:80"),
    ("192.0.2.1:80", "192.0.2.1:70-90"),
    ("192.0.2.1:80-81", "*:81-82"),
    ("[2001:db8::1]:80", "2001:0db8:0::1:80"),
    ("[2001:db8::1]:80", "[::]:80 v6only"),
    ("[2001:db8::1]:80", "*:80"),
)
APART = (
    ("192.0.2.1:80", "192.0.2.1:81"),
    ("192.0.2.1:80", "192.0.2.2:80"),
    ("192.0.2.1:80", "[::]:80 v6only"),
    ("192.0.2.1:80", "[2001:db8::1]:80"),
    ("[2001:db8::1]:80", "0.0.0.0:80"),
    ("192.0.2.1:80", "192.0.2.1:81-90"),
)


@pytest.mark.parametrize(("one", "other"), MEETING)
def test_sockets_at_one_place_meet(one: str, other: str) -> None:
    assert bound(one).meets(bound(other))
    assert bound(other).meets(bound(one))
    assert first_meeting([bound(one)], [bound(other)]) == bound(one)
    assert first_meeting([bound(other)], [bound(one)]) == bound(other)


@pytest.mark.parametrize(("one", "other"), APART)
def test_sockets_at_different_places_do_not_meet(one: str, other: str) -> None:
    assert not bound(one).meets(bound(other))
    assert first_meeting([bound(other)], [bound(one)]) is None


def test_sockets_of_different_transports_do_not_meet() -> None:
    claims = [claim(transport, "192.0.2.1", 53) for transport in ("TCP", "UDP", "SCTP")]
    for one, other in itertools.combinations(claims, 2):
        assert not one.meets(other)


def test_load_balancer_claims_its_active_listeners_at_every_address() -> None:
    body = balancer(
        listener(name="a", protocol_port=80),
        listener("UDP", name="b", protocol_port=53),
        listener(name="c", protocol_port=81, admin_state_up=False),
        additional_vips=[{"ip_address": "2001:db8::1"}],
    )
    assert resolve(decoded(body)).claims() == {
        claim(transport, host, port)
        for transport, port in (("TCP", 80), ("UDP", 53))
        for host in ("192.0.2.10", "2001:db8::1")
    }
    assert resolve(decoded(body | {"admin_state_up": False})).claims() == frozenset()


def test_sockets_without_address_claim_nothing() -> None:
    lines = "".join(f"    bind {word}\n" for word in ("/run/x", "abns@x", "unix@/x", "fd@3"))
    assert queries.find_claims(f"frontend f\n{lines}") == frozenset()
