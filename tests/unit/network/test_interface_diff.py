"""The difference between wanted and actual, and that carrying it out leaves none."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from msgspec.structs import replace

from amphora_agent.model.addressing import parse_mac
from amphora_agent.network.plan.diff import (
    HeldAddress,
    InterfaceState,
    NetOps,
    diff,
)
from amphora_agent.network.plan.interface import HostAddress, InterfaceSpec, Route, Rule

MAC = parse_mac("fa:16:3e:00:00:01")
KERNEL, RA, KEEPALIVED = 2, 9, 18

SPEC = InterfaceSpec(
    mac=MAC,
    name="eth1",
    mtu=1450,
    addresses=(
        HostAddress(ip_interface("10.1.0.7/24")),
        HostAddress(ip_interface("fd01::5/128"), deprecated=True),
    ),
    routes=(
        Route(ip_network("0.0.0.0/0"), 1, gateway=ip_address("10.1.0.1")),
        Route(ip_network("fd01::/64"), 1025, table=1, source=ip_address("fd01::5")),
    ),
    rules=(Rule(ip_network("fd01::5/128")),),
)
DONE = InterfaceState(
    name="eth1",
    mtu=1450,
    up=True,
    addresses=frozenset(
        {
            HeldAddress(ip_interface("10.1.0.7/24")),
            HeldAddress(ip_interface("fd01::5/128"), deprecated=True),
            HeldAddress(ip_interface("fe80::1/64")),
        }
    ),
    routes=frozenset(SPEC.routes)
    | {Route(ip_network("10.1.0.0/24"), 0, source=ip_address("10.1.0.7"), protocol=KERNEL)},
    rules=frozenset(SPEC.rules),
    sysctls=frozenset(SPEC.sysctls),
)


def lines(ops: NetOps) -> list[str]:
    return [str(op) for op in ops]


def test_plans_nothing_for_an_interface_in_order() -> None:
    assert diff(SPEC, DONE) == ()


def test_plans_everything_for_a_new_port() -> None:
    fresh = InterfaceState(name="ens7", mtu=1500, up=False, inside=False)
    assert lines(diff(SPEC, fresh)) == [
        "move ens7 into the namespace as eth1",
        "set mtu 1450",
        "set ipv6/accept_ra=0",
        "set ipv6/autoconf=0",
        "set ipv4/promote_secondaries=1",
        "set up",
        "add address 10.1.0.7/24",
        "add address fd01::5/128 deprecated",
        "add route 0.0.0.0/0 via 10.1.0.1 metric 1",
        "add rule from fd01::5/128 lookup 1 priority 100",
        "await fd01::5",
        "add route fd01::/64 src fd01::5 table 1 metric 1025",
    ]


def test_a_wrong_name_is_put_right_before_anything_else() -> None:
    assert lines(diff(SPEC, replace(DONE, name="eth7", mtu=9000))) == ["rename eth7 to eth1"]


def test_a_change_of_gateway_adds_before_it_removes() -> None:
    old = replace(SPEC.routes[0], gateway=ip_address("10.1.0.254"))
    state = replace(DONE, routes=DONE.routes - {SPEC.routes[0]} | {old})
    assert lines(diff(SPEC, state)) == [
        "add route 0.0.0.0/0 via 10.1.0.1 metric 1",
        "remove route 0.0.0.0/0 via 10.1.0.254 metric 1",
    ]


@pytest.mark.parametrize("protocol", [KERNEL, RA, KEEPALIVED])
def test_routes_and_rules_of_others_stay(protocol: int) -> None:
    state = replace(
        DONE,
        routes=DONE.routes | {Route(ip_network("10.5.0.0/24"), 0, table=1, protocol=protocol)},
        rules=DONE.rules | {Rule(ip_network("10.1.0.5/32"), protocol=protocol)},
    )
    assert diff(SPEC, state) == ()


def test_adds_its_route_beside_the_same_of_another() -> None:
    """Theirs may go at any time, as routes learned from router advertisements do."""
    state = replace(
        DONE, routes=DONE.routes - {SPEC.routes[0]} | {replace(SPEC.routes[0], protocol=RA)}
    )
    assert lines(diff(SPEC, state)) == ["add route 0.0.0.0/0 via 10.1.0.1 metric 1"]


def test_only_the_vip_interface_answers_for_rules() -> None:
    member = replace(SPEC, name="eth2", rules=())
    assert diff(member, replace(DONE, name="eth2")) == ()


def test_addresses_of_others_stay_and_retired_ones_go() -> None:
    held = {HeldAddress(ip_interface(text)) for text in ("10.1.0.5/32", "10.1.0.8/24")}
    state = replace(DONE, addresses=DONE.addresses | held)
    assert diff(SPEC, state) == ()
    retiring = replace(SPEC, retired=frozenset({ip_interface("10.1.0.8/24")}))
    assert lines(diff(retiring, state)) == ["remove address 10.1.0.8/24"]


def test_a_failed_address_gets_another_chance() -> None:
    failed = HeldAddress(ip_interface("fd01::5/128"), deprecated=True, tentative=True, failed=True)
    state = replace(DONE, addresses=frozenset({HeldAddress(ip_interface("10.1.0.7/24")), failed}))
    assert lines(diff(SPEC, state)) == [
        "remove address fd01::5/128",
        "add address fd01::5/128 deprecated",
        "await fd01::5",
    ]


def test_an_unfinished_address_is_awaited() -> None:
    tentative = HeldAddress(ip_interface("fd01::5/128"), deprecated=True, tentative=True)
    state = replace(
        DONE,
        addresses=frozenset({HeldAddress(ip_interface("10.1.0.7/24")), tentative}),
        routes=DONE.routes - {SPEC.routes[1]},
    )
    assert lines(diff(SPEC, state)) == [
        "await fd01::5",
        "add route fd01::/64 src fd01::5 table 1 metric 1025",
    ]


def test_a_learned_address_becomes_a_permanent_one() -> None:
    learned = HeldAddress(ip_interface("10.1.0.7/24"), permanent=False)
    vip = HeldAddress(ip_interface("fd01::5/128"), deprecated=True)
    state = replace(DONE, addresses=frozenset({learned, vip}))
    assert lines(diff(SPEC, state)) == ["add address 10.1.0.7/24"]


def test_an_ipv6_address_changes_its_prefix_length_by_going_first() -> None:
    state = replace(
        DONE,
        addresses=frozenset(
            {HeldAddress(ip_interface("10.1.0.7/24")), HeldAddress(ip_interface("fd01::5/64"))}
        ),
    )
    retiring = replace(SPEC, retired=frozenset({ip_interface("fd01::5/64")}))
    assert lines(diff(retiring, state))[:2] == [
        "remove address fd01::5/64",
        "add address fd01::5/128 deprecated",
    ]
    assert lines(diff(retiring, state)).count("remove address fd01::5/64") == 1


def test_a_setting_that_the_kernel_does_not_have_is_left_alone() -> None:
    assert diff(SPEC, replace(DONE, sysctls=frozenset())) == ()
