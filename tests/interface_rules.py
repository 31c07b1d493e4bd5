"""Interface rules and ports, for tests with and without a kernel."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import strategies as st

from amphora_agent.model.addressing import Network
from amphora_agent.model.plugging import InterfaceRule, Protocol
from amphora_agent.network.plan.firewall_rules import Port


def rule(protocol: str, port: int = 80, cidr: str | None = None) -> InterfaceRule:
    network = None if cidr is None else ip_network(cidr)
    return InterfaceRule(protocol=Protocol(protocol), cidr=network, port=port)


def _around(address: IPv4Address | IPv6Address, length: int) -> Network:
    return ip_network(f"{address}/{length}", strict=False)


_cidrs = st.one_of(
    st.none(),
    # Close to each other, so that some contain others.
    st.builds(_around, st.ip_addresses(network="10.0.0.0/14"), st.integers(0, 32)),
    st.builds(_around, st.ip_addresses(v=6), st.integers(0, 128)),
)
_rules = st.builds(
    InterfaceRule,
    protocol=st.sampled_from(Protocol),
    cidr=_cidrs,
    port=st.integers(1, 3) | st.integers(1, 65535),
)
ports_lists = st.lists(
    st.builds(
        Port,
        name=st.integers(1, 9).map(lambda number: f"eth{number}"),
        rules=st.none() | st.lists(_rules, max_size=8).map(tuple),
    ),
    unique_by=lambda port: port.name,
    max_size=4,
)
