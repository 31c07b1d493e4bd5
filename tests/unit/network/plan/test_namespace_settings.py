"""The difference between the wanted and the actual firewall and settings of a namespace."""

from __future__ import annotations

from amphora_agent.network.plan.firewall_rules import Port, build_ruleset
from amphora_agent.network.plan.namespace_settings import (
    NamespaceOp,
    NamespaceState,
    diff_namespace,
    find_missing,
)

WANTED, OTHER = build_ruleset([Port("eth1")]), build_ruleset([])
GOOD = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/netfilter/nf_conntrack_buckets": "65536",
    "net/netfilter/nf_conntrack_max": "131072",
}


def lines(ops: tuple[NamespaceOp, ...]) -> list[str]:
    return [str(op) for op in ops]


def state(**changed: str) -> NamespaceState:
    values = GOOD | {key.replace("__", "/"): value for key, value in changed.items()}
    return NamespaceState(WANTED, frozenset(values.items()))


def test_plans_nothing_for_a_namespace_in_order() -> None:
    assert diff_namespace(WANTED, state()) == ()


def test_a_new_namespace_is_filtered_before_it_forwards() -> None:
    new = NamespaceState(None, frozenset({("net/ipv4/ip_forward", "0")}))
    assert lines(diff_namespace(WANTED, new)) == [
        "set the firewall's ruleset",
        "set net/ipv4/ip_forward=1",
    ]


def test_another_ruleset_is_replaced() -> None:
    assert lines(diff_namespace(OTHER, state())) == ["set the firewall's ruleset"]


def test_limits_are_raised_and_never_lowered() -> None:
    small = state(net__netfilter__nf_conntrack_max="65536")
    assert lines(diff_namespace(WANTED, small)) == ["set net/netfilter/nf_conntrack_max=131072"]
    large = state(net__netfilter__nf_conntrack_max="1000000")
    assert diff_namespace(WANTED, large) == ()


def test_plans_only_settings_without_a_ruleset() -> None:
    assert lines(diff_namespace(None, state(net__ipv4__ip_forward="0"))) == [
        "set net/ipv4/ip_forward=1"
    ]


def test_misses_no_setting_that_the_kernel_offers_late() -> None:
    missing = find_missing(NamespaceState(None, frozenset()))
    assert "net/core/somaxconn" in missing
    assert not any("conntrack" in key for key in missing)


def test_users_without_capabilities_may_ping() -> None:
    assert lines(diff_namespace(WANTED, state(net__ipv4__ping_group_range="1 0"))) == [
        "set net/ipv4/ping_group_range=0 2147483647"
    ]
