"""Compute the amphora's firewall: one nftables table, a function of the plugged interfaces.

    prerouting, output   TCP of open interfaces is not tracked: it needs no state, and a busy load
                         balancer would fill the table of connections
    postrouting          UDP and SCTP leave with the address of the interface, so that members
                         answer the amphora and not the client
    input                guarded interfaces let in only what they must and what their rules say
    forward              answers to what IPVS sent to members, and nothing else: IPVS needs a
                         kernel that forwards, the amphora is no router

The ruleset is in nftables' JSON, with numbers instead of names wherever there are any: names depend
on the machine's /etc/protocols and the version of nft.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from typing import Any, TypeAlias

from amphora_agent.model.addressing import Network
from amphora_agent.model.plugging import InterfaceRule, Protocol

FAMILY = "inet"
TABLE = "amphora_table"

Json: TypeAlias = dict[str, Any]

_TCP, _UDP, _VRRP, _SCTP = 6, 17, 112, 132
_IPV4 = 2  # NFPROTO_IPV4
_ESTABLISHED, _RELATED = 2, 4

_TABLE: Json = {"table": {"family": FAMILY, "name": TABLE}}
_ACCEPT: Json = {"accept": None}

# Errors about packets of ours: destination unreachable (path MTU discovery is one of these), time
# exceeded, parameter problem. An echo request tells an operator that the port works.
_ICMP = [3, 8, 11, 12]
# The same, beginning with packet too big. Without neighbour solicitation (135), advertisement (136)
# and router advertisement (134) there is no IPv6; without answers to listener queries (130) a
# switch stops passing on the multicast that solicitations are.
_ICMPV6 = [1, 2, 3, 4, 128, 130, 134, 135, 136]

_HOOKS: dict[str, Json] = {
    "prerouting": {"type": "filter", "prio": -300, "policy": "accept"},
    "output": {"type": "filter", "prio": -300, "policy": "accept"},
    "postrouting": {"type": "nat", "prio": 100, "policy": "accept"},
    "input": {"type": "filter", "prio": 0, "policy": "drop"},
    "forward": {"type": "filter", "prio": 0, "policy": "drop"},
}


@dataclass(frozen=True)
class Port:
    """A plugged interface. `rules` guard it, even if they are empty; None lets everything in."""

    name: str
    rules: tuple[InterfaceRule, ...] | None = None


@dataclass(frozen=True)
class Ruleset:
    """The whole table. Equal rulesets do the same.

    `objects` are nftables' JSON in canonical spelling: the table, its chains by name, and the rules
    of each chain in order.
    """

    objects: tuple[str, ...]


def build_ruleset(ports: Iterable[Port]) -> Ruleset:
    """Return the firewall of ports, whose names are distinct."""
    rules = _build_rules(sorted(ports, key=lambda port: port.name))
    objects = [_TABLE]
    for chain, expressions in rules.items():
        if expressions:
            objects.append({"chain": _place_in_table(name=chain, hook=chain, **_HOOKS[chain])})
            objects += [{"rule": _place_in_table(chain=chain, expr=rule)} for rule in expressions]
    return _make_ruleset(objects)


def parse_listing(nft_json: str) -> Ruleset | None:
    """Return the ruleset that `nft --json --numeric list` prints; None without the agent's table.

    Raises:
        ValueError: it is not JSON.
    """
    printed = [_drop_handles(item) for item in json.loads(nft_json)["nftables"]]
    ours = [item for item in printed if _is_of_table(item)]
    return _make_ruleset(ours) if ours else None


def build_transaction(ruleset: Ruleset) -> bytes:
    """Return the input of `nft --json --file` that replaces the agent's table, or changes nothing.
    Other tables stay."""
    commands: list[Json] = [
        {"add": _TABLE},
        {"delete": _TABLE},
    ]  # a missing table cannot be deleted
    commands += [{"add": json.loads(item)} for item in ruleset.objects]
    return json.dumps({"nftables": commands}).encode()


# The rules


def _build_rules(ports: list[Port]) -> dict[str, list[list[Json]]]:
    """Return rules by chain. A chain without rules is not made."""
    every = [port.name for port in ports]
    opened = [port.name for port in ports if port.rules is None]
    untracked = [_match_any(_meta("l4proto"), [_TCP]), {"notrack": None}]
    masqueraded = [_match_any(_meta("l4proto"), [_UDP, _SCTP]), {"masquerade": None}]
    return {
        "prerouting": [[_match_any(_meta("iifname"), opened), *untracked]] if opened else [],
        "output": [[_match_any(_meta("oifname"), opened), *untracked]] if opened else [],
        "postrouting": [[_match_any(_meta("oifname"), every), *masqueraded]] if every else [],
        "input": list(_build_input(ports, opened)) if len(opened) < len(every) else [],
        "forward": [[_match_answers(), _ACCEPT]],
    }


def _build_input(ports: list[Port], opened: list[str]) -> Iterator[list[Json]]:
    yield [_match_any(_meta("iifname"), ["lo", *opened]), _ACCEPT]
    yield [_match_answers(), _ACCEPT]
    yield [_match_any(_field("icmp", "type"), _ICMP), _ACCEPT]
    yield [_match_any(_field("icmpv6", "type"), _ICMPV6), _ACCEPT]
    # Answers of DHCP servers; DHCPv6 is spoken between link-local addresses.
    yield [
        _match_any(_meta("nfproto"), [_IPV4]),
        _match_any(_field("udp", "sport"), [67]),
        _match_any(_field("udp", "dport"), [68]),
        _ACCEPT,
    ]
    link_local = _match(_field("ip6", "saddr"), _spell_network(IPv6Network("fe80::/10")))
    yield [link_local, _match_any(_field("udp", "dport"), [546]), _ACCEPT]
    for port in ports:
        for match in _match_rules(port.rules or ()):
            yield [_match_any(_meta("iifname"), [port.name]), match, _ACCEPT]


def _match_rules(rules: Iterable[InterfaceRule]) -> Iterator[Json]:
    """Yield at most three matches for each protocol, however many rules there are."""
    for protocol in Protocol:
        sources: defaultdict[int, set[Network | None]] = defaultdict(set)
        for rule in rules:
            if rule.protocol is protocol:
                sources[_VRRP if protocol is Protocol.VRRP else rule.port].add(rule.cidr)
        what = _meta("l4proto") if protocol is Protocol.VRRP else _field(protocol.lower(), "dport")
        from_anywhere = [number for number, cidrs in sources.items() if None in cidrs]
        if from_anywhere:
            yield _match_any(what, from_anywhere)
        for version, header in ((4, "ip"), (6, "ip6")):
            from_networks = [
                {"concat": [_spell_network(network), number]}
                for number, cidrs in sources.items()
                if None not in cidrs
                for network in _merge_networks(cidrs)
                if network.version == version
            ]
            if from_networks:
                source = _field(header, "saddr")
                yield _match({"concat": [source, what]}, {"set": from_networks})


def _merge_networks(cidrs: set[Network | None]) -> Iterator[Network]:
    """Merge networks: the kernel refuses a set in which one contains another."""
    yield from collapse_addresses(cidr for cidr in cidrs if isinstance(cidr, IPv4Network))
    yield from collapse_addresses(cidr for cidr in cidrs if isinstance(cidr, IPv6Network))


# Pieces of nftables' JSON


def _place_in_table(**members: object) -> Json:
    return {"family": FAMILY, "table": TABLE, **members}


def _meta(key: str) -> Json:
    return {"meta": {"key": key}}


def _field(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


def _match_any(what: Json, values: list[Any]) -> Json:
    """Match one of `values`."""
    return _match(what, {"set": values} if len(values) > 1 else values[0])


def _match(what: Json, value: object, op: str = "==") -> Json:
    return {"match": {"op": op, "left": what, "right": value}}


def _match_answers() -> Json:
    """Match packets of connections that were let in or out before."""
    return _match({"ct": {"key": "state"}}, [_ESTABLISHED, _RELATED], op="in")


def _spell_network(network: Network) -> object:
    address = str(network.network_address)
    if network.prefixlen == network.max_prefixlen:
        return address
    return {"prefix": {"addr": address, "len": network.prefixlen}}


# One spelling


def _make_ruleset(objects: list[Json]) -> Ruleset:
    return Ruleset(tuple(_spell(_respell(item)) for item in sorted(objects, key=_sort_key)))


def _sort_key(described: Json) -> tuple[int, str]:
    """Return a key that keeps the rules of a chain in order."""
    if "table" in described:
        return 0, ""
    if "rule" in described:
        return 2, described["rule"]["chain"]
    return 1, _spell(described)


def _respell(value: Any) -> Any:
    if isinstance(value, dict):
        respelled = {key: _respell(member) for key, member in value.items()}
        if "set" in respelled and isinstance(respelled["set"], list):
            respelled["set"] = sorted(respelled["set"], key=_spell)  # nft has an order of its own
        return respelled
    if isinstance(value, list):
        return [_respell(member) for member in value]
    if isinstance(value, str) and ":" in value:
        return _respell_address(value)
    return value


def _respell_address(text: str) -> str:
    """Python and nft write `::ffff:10.0.0.1` differently."""
    try:
        return str(IPv6Address(text))
    except ValueError:
        return text


def _spell(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _drop_handles(printed: Json) -> Json:
    [(kind, members)] = printed.items()
    return {kind: {key: value for key, value in members.items() if key != "handle"}}


def _is_of_table(printed: Json) -> bool:
    [(kind, members)] = printed.items()
    table = members.get("name" if kind == "table" else "table")
    return (members.get("family"), table) == (FAMILY, TABLE)
