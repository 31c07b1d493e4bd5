"""The ruleset is a function of the ports; what nft prints is read back as the same value."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from amphora_agent.model.plugging import InterfaceRule
from amphora_agent.network.plan.firewall_rules import (
    Port,
    Ruleset,
    build_ruleset,
    build_transaction,
    parse_listing,
)
from tests.interface_rules import rule

ACCEPT = {"accept": None}


def objects(made: Ruleset, kind: str) -> list[dict[str, Any]]:
    return [found[kind] for found in map(json.loads, made.objects) if kind in found]


def chains(made: Ruleset) -> dict[str, dict[str, Any]]:
    return {chain["name"]: chain for chain in objects(made, "chain")}


def rules_of(made: Ruleset, chain: str) -> list[list[Any]]:
    return [found["expr"] for found in objects(made, "rule") if found["chain"] == chain]


def let_in(*rules: InterfaceRule) -> list[Any]:
    """The matches, but for the interface's, that the rules of a port make."""
    base = len(rules_of(build_ruleset([Port("eth1", ())]), "input"))
    made = rules_of(build_ruleset([Port("eth1", rules)]), "input")[base:]
    for interface, _, verdict in made:
        assert interface == match({"meta": {"key": "iifname"}}, "eth1")
        assert verdict == ACCEPT
    return [found[1] for found in made]


def match(left: dict[str, Any], right: object) -> dict[str, Any]:
    return {"match": {"op": "==", "left": left, "right": right}}


def field(protocol: str, name: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": name}}


def prefix(address: str, length: int) -> dict[str, Any]:
    return {"prefix": {"addr": address, "len": length}}


# What the ruleset is


def test_a_namespace_without_ports_forwards_nothing_and_keeps_nothing_out() -> None:
    made = build_ruleset([])
    assert set(chains(made)) == {"forward"}
    assert chains(made)["forward"]["policy"] == "drop"
    [[_, verdict]] = rules_of(made, "forward")
    assert verdict == ACCEPT


def test_open_interfaces_are_masqueraded_and_not_tracked() -> None:
    made = build_ruleset([Port("eth1"), Port("eth2")])
    assert set(chains(made)) == {"forward", "output", "postrouting", "prerouting"}
    both = {"set": ["eth1", "eth2"]}
    tcp = match({"meta": {"key": "l4proto"}}, 6)
    assert rules_of(made, "prerouting") == [
        [match({"meta": {"key": "iifname"}}, both), tcp, {"notrack": None}]
    ]
    assert rules_of(made, "output") == [
        [match({"meta": {"key": "oifname"}}, both), tcp, {"notrack": None}]
    ]
    udp_and_sctp = match({"meta": {"key": "l4proto"}}, {"set": [132, 17]})
    assert rules_of(made, "postrouting") == [
        [match({"meta": {"key": "oifname"}}, both), udp_and_sctp, {"masquerade": None}]
    ]


def test_a_guarded_interface_is_masqueraded_too_and_tracked() -> None:
    made = build_ruleset([Port("eth1", ()), Port("eth2")])
    [[where, _, _]] = rules_of(made, "prerouting")
    assert where == match({"meta": {"key": "iifname"}}, "eth2")
    [[where, _, _]] = rules_of(made, "postrouting")
    assert where == match({"meta": {"key": "oifname"}}, {"set": ["eth1", "eth2"]})
    assert chains(made)["input"]["policy"] == "drop"
    assert "output" not in chains(build_ruleset([Port("eth1", ())]))


def test_all_comes_in_by_an_open_interface_beside_a_guarded_one() -> None:
    made = build_ruleset([Port("eth1", ()), Port("eth2"), Port("eth3")])
    assert rules_of(made, "input")[0] == [
        match({"meta": {"key": "iifname"}}, {"set": ["eth2", "eth3", "lo"]}),
        ACCEPT,
    ]


def test_rules_of_a_port_are_for_this_port_only() -> None:
    made = build_ruleset([Port("eth1", (rule("TCP", 80),)), Port("eth2", (rule("TCP", 443),))])
    tcp_port = field("tcp", "dport")
    assert rules_of(made, "input")[-2:] == [
        [match({"meta": {"key": "iifname"}}, name), match(tcp_port, number), ACCEPT]
        for name, number in (("eth1", 80), ("eth2", 443))
    ]


def test_rules_from_anywhere_hold_in_both_families() -> None:
    assert let_in(rule("TCP", 443), rule("TCP", 80), rule("UDP", 53), rule("SCTP", 9)) == [
        match(field("tcp", "dport"), {"set": [443, 80]}),
        match(field("udp", "dport"), 53),
        match(field("sctp", "dport"), 9),
    ]


def test_rules_with_sources_hold_in_their_family() -> None:
    assert let_in(
        rule("TCP", 80, "10.0.0.0/8"), rule("TCP", 81, "10.1.0.9"), rule("TCP", 80, "fd01::/64")
    ) == [
        match(
            {"concat": [field("ip", "saddr"), field("tcp", "dport")]},
            {"set": [{"concat": ["10.1.0.9", 81]}, {"concat": [prefix("10.0.0.0", 8), 80]}]},
        ),
        match(
            {"concat": [field("ip6", "saddr"), field("tcp", "dport")]},
            {"set": [{"concat": [prefix("fd01::", 64), 80]}]},
        ),
    ]


def test_vrrp_has_no_ports() -> None:
    l4proto = {"meta": {"key": "l4proto"}}
    assert let_in(rule("VRRP", 1), rule("VRRP", 2)) == [match(l4proto, 112)]
    assert let_in(rule("VRRP", 80, "10.1.0.8"), rule("VRRP", 81, "fd01::8")) == [
        match(
            {"concat": [field(header, "saddr"), l4proto]},
            {"set": [{"concat": [address, 112]}]},
        )
        for header, address in (("ip", "10.1.0.8"), ("ip6", "fd01::8"))
    ]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (["10.0.0.0/8", "10.1.0.0/16", "10.1.0.9"], ["10.0.0.0/8"]),
        (["10.0.0.0/25", "10.0.0.128/25"], ["10.0.0.0/24"]),
        (["10.1.0.0/16", None], [None]),
        (["fd01::/64", None], [None]),
        (["0.0.0.0/0", "10.0.0.0/8", "::/0", "fd01::/64"], ["0.0.0.0/0", "::/0"]),
        (["10.1.0.9", "10.1.0.9"], ["10.1.0.9"]),
    ],
)
def test_sources_within_others_say_nothing(said: list[str | None], meant: list[str | None]) -> None:
    for protocol in ("TCP", "VRRP"):
        assert build_ruleset(
            [Port("eth1", tuple(rule(protocol, 80, cidr) for cidr in said))]
        ) == build_ruleset([Port("eth1", tuple(rule(protocol, 80, cidr) for cidr in meant))])


def test_the_number_of_rules_does_not_grow_with_what_is_let_in() -> None:
    many = [
        rule(protocol, port, f"{network}{port}")
        for protocol in ("TCP", "UDP", "SCTP", "VRRP")
        for network in ("10.0.0.", "fd01::")
        for port in range(1, 100)
    ]
    assert len(let_in(*many)) == 8


# What nft reads and prints


def printed(*found: dict[str, Any]) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *found]})


def as_printed(made: Ruleset) -> list[dict[str, Any]]:
    """As nft lists it after it was applied: with handles, sets in an order of its own."""

    def disordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: member[::-1] if key == "set" else disordered(member)
                for key, member in value.items()
            }
        return [disordered(member) for member in value] if isinstance(value, list) else value

    found = [json.loads(text) for text in made.objects]
    for handle, described in enumerate(found):
        for members in described.values():
            members["handle"] = handle
    return [disordered(described) for described in found]


def test_other_tables_are_not_looked_at() -> None:
    made = build_ruleset([Port("eth1", (rule("TCP"),))])
    foreign: list[dict[str, Any]] = [
        {"table": {"family": "inet", "name": "theirs"}},
        {"table": {"family": "ip", "name": "amphora_table"}},
        {"chain": {"family": "inet", "table": "theirs", "name": "input"}},
        {"rule": {"family": "ip", "table": "amphora_table", "chain": "input", "expr": [ACCEPT]}},
        {"set": {"family": "inet", "table": "theirs", "name": "s", "type": "ipv4_addr"}},
    ]
    assert parse_listing(printed(*foreign)) is None
    assert parse_listing(printed(*foreign, *as_printed(made))) == made


def test_returns_no_ruleset_without_a_table() -> None:
    assert parse_listing(printed()) is None


@pytest.mark.parametrize(
    "addition",
    [
        {"chain": {"family": "inet", "table": "amphora_table", "name": "more"}},
        {"set": {"family": "inet", "table": "amphora_table", "name": "s", "type": "ipv4_addr"}},
        {
            "rule": {
                "family": "inet",
                "table": "amphora_table",
                "chain": "forward",
                "expr": [ACCEPT],
            }
        },
    ],
)
def test_sees_what_others_put_into_the_table(addition: dict[str, Any]) -> None:
    made = build_ruleset([Port("eth1")])
    assert parse_listing(printed(*as_printed(made), addition)) != made


def test_a_dormant_table_is_not_ours() -> None:
    made = build_ruleset([Port("eth1")])
    found = as_printed(made)
    found[0]["table"]["flags"] = ["dormant"]
    assert parse_listing(printed(*found)) != made


def test_the_order_of_rules_in_a_chain_makes_a_difference() -> None:
    made = build_ruleset([Port("eth1", (rule("TCP"), rule("UDP")))])
    found = as_printed(made)
    *_, one, other = [
        number
        for number, described in enumerate(found)
        if described.get("rule", {}).get("chain") == "input"
    ]
    found[one], found[other] = found[other], found[one]
    assert parse_listing(printed(*found)) != parse_listing(printed(*as_printed(made)))


def test_addresses_are_the_same_in_any_spelling() -> None:
    made = build_ruleset([Port("eth1", (rule("TCP", 80, "::ffff:10.0.0.0/104"),))])
    text = printed(*as_printed(made))
    respelled = text.replace(str(ip_address("::ffff:10.0.0.0")), "0::FFFF:10.0.0.0")
    assert respelled != text
    assert parse_listing(respelled) == made


def test_refuses_a_listing_that_is_not_json() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        parse_listing("Error: Could not process rule")


def test_a_transaction_replaces_our_table_and_touches_no_other() -> None:
    made = build_ruleset([Port("eth1", (rule("TCP"),)), Port("eth2")])
    commands = json.loads(build_transaction(made))["nftables"]
    table = {"table": {"family": "inet", "name": "amphora_table"}}
    assert commands[:3] == [{"add": table}, {"delete": table}, {"add": table}]
    for command in commands[3:]:
        [described] = command["add"].values()
        assert (described["family"], described["table"]) == ("inet", "amphora_table")
    assert [command["add"] for command in commands[2:]] == list(map(json.loads, made.objects))
