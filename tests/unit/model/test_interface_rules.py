"""Interface rules become typed values, or are refused with the place and the reason."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest

from amphora_agent.errors import InvalidRequest
from amphora_agent.model.decode import decode, encode
from amphora_agent.model.plugging import InterfaceRule, InterfaceRules, Protocol

RULE: dict[str, Any] = {"protocol": "TCP", "cidr": None, "port": 80}


def body(*rules: object) -> bytes:
    return json.dumps(rules).encode()


def test_rules_of_the_controller_are_decoded() -> None:
    sent = body(
        {"protocol": "TCP", "cidr": None, "port": 80},
        {"protocol": "UDP", "cidr": "10.1.2.3/8", "port": 53},
        {"protocol": "SCTP", "cidr": "FD01:0::/64", "port": 65535},
        {"protocol": "VRRP", "cidr": "10.1.0.8/32", "port": 112},
    )
    assert decode(sent, InterfaceRules) == (
        InterfaceRule(protocol=Protocol.TCP, cidr=None, port=80),
        InterfaceRule(protocol=Protocol.UDP, cidr=ip_network("10.0.0.0/8"), port=53),
        InterfaceRule(protocol=Protocol.SCTP, cidr=ip_network("fd01::/64"), port=65535),
        InterfaceRule(protocol=Protocol.VRRP, cidr=ip_network("10.1.0.8/32"), port=112),
    )


@pytest.mark.parametrize("protocol", ["vrrp", "VRRP", "Vrrp", "tcp", "udp", "sctp"])
def test_protocols_are_read_in_any_case(protocol: str) -> None:
    (rule,) = decode(body(RULE | {"protocol": protocol}), InterfaceRules)
    assert rule.protocol is Protocol(protocol.upper())


def test_empty_list_of_rules_is_decoded() -> None:
    assert decode(body(), InterfaceRules) == ()


def test_encoded_rules_are_decoded_to_equal_ones() -> None:
    rules = decode(body(RULE, RULE | {"cidr": "fd01::/64"}), InterfaceRules)
    assert decode(encode(rules), InterfaceRules) == rules


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"protocol": "ICMP"}, "[1].protocol"),
        ({"protocol": "vrrp "}, "[1].protocol"),
        ({"protocol": 6}, "[1].protocol"),
        ({"cidr": "10.0.0.0/33"}, "[1].cidr"),
        ({"cidr": "fe80::%eth0/64"}, "[1].cidr"),
        ({"cidr": ""}, "[1].cidr"),
        ({"cidr": 167772160}, "[1].cidr"),
        ({"port": 0}, "[1].port"),
        ({"port": 65536}, "[1].port"),
        ({"port": "80"}, "[1].port"),
        ({"port": 80.5}, "[1].port"),
        ({"port": True}, "[1].port"),
        ({"port": None}, "[1].port"),
        ({"action": "drop"}, "action"),
    ],
)
def test_wrong_rule_is_refused_with_its_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(body(RULE, RULE | changes), InterfaceRules)
    assert place in refused.value.details


@pytest.mark.parametrize("missing", ["protocol", "cidr", "port"])
def test_rule_without_a_field_is_refused(missing: str) -> None:
    incomplete = {name: value for name, value in RULE.items() if name != missing}
    with pytest.raises(InvalidRequest, match=missing):
        decode(body(incomplete), InterfaceRules)


def test_too_many_rules_are_refused() -> None:
    assert len(decode(body(*[RULE] * 10_000), InterfaceRules)) == 10_000
    with pytest.raises(InvalidRequest, match="length <= 10000"):
        decode(body(*[RULE] * 10_001), InterfaceRules)


def test_single_rule_without_list_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="array"):
        decode(json.dumps(RULE).encode(), InterfaceRules)
