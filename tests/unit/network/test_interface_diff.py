"""The difference between wanted and actual, and that carrying it out leaves none."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from amphora_agent.model.addressing import Interface, parse_mac
from amphora_agent.network.diff import (
    AddAddress,
    AddRoute,
    AddRule,
    AwaitAddresses,
    HeldAddress,
    InterfaceState,
    Move,
    NetOp,
    NetOps,
    RemoveAddress,
    RemoveRoute,
    RemoveRule,
    Rename,
    SetMtu,
    SetSysctl,
    SetUp,
    diff,
)
from amphora_agent.network.interface import HostAddress, InterfaceSpec, Route, Rule

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


def test_nothing_to_do() -> None:
    assert diff(SPEC, DONE) == ()


def test_a_new_port() -> None:
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


def test_a_route_of_ours_is_added_beside_the_same_of_another() -> None:
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


# Properties


def carried_out(state: InterfaceState, ops: NetOps) -> InterfaceState:
    """What the kernel makes of `ops`, as far as it matters here."""
    for op in ops:
        state = _carried_out(state, op)
    return state


def _carried_out(state: InterfaceState, op: NetOp) -> InterfaceState:
    held = {address.interface: address for address in state.addresses}
    match op:
        case Move():
            settings = frozenset((key, "of the kernel") for key, _ in SPEC.sysctls)
            return InterfaceState(name=op.new_name, mtu=state.mtu, up=False, sysctls=settings)
        case Rename():
            return replace(state, name=op.new_name)
        case SetMtu():
            return replace(state, mtu=op.mtu)
        case SetUp():
            return replace(state, up=True)
        case SetSysctl():
            others = {pair for pair in state.sysctls if pair[0] != op.key}
            return replace(state, sysctls=frozenset(others | {(op.key, op.value)}))
        case AddAddress():
            interface = op.address.interface
            if interface.version == 6:
                assert not [i for i in held if i.ip == interface.ip and i != interface]
            is_new = interface not in held
            held[interface] = HeldAddress(
                interface,
                deprecated=op.address.deprecated,
                tentative=is_new and interface.version == 6,
            )
        case RemoveAddress():
            del held[op.interface]
        case AwaitAddresses():
            for interface, address in held.items():
                if interface.ip in op.addresses:
                    assert not address.failed
                    held[interface] = replace(address, tentative=False)
        case AddRoute():
            assert op.route not in state.routes
            source = op.route.source
            if source is not None:
                assert [a for a in held.values() if a.interface.ip == source and not a.tentative]
            return replace(state, routes=state.routes | {op.route})
        case RemoveRoute():
            assert op.route in state.routes
            return replace(state, routes=state.routes - {op.route})
        case AddRule():
            assert op.rule not in state.rules
            return replace(state, rules=state.rules | {op.rule})
        case RemoveRule():
            assert op.rule in state.rules
            return replace(state, rules=state.rules - {op.rule})
    return replace(state, addresses=frozenset(held.values()))


INTERFACES = st.sampled_from(
    [
        ip_interface(f"{address}/{length}")
        for address, lengths in (
            ("10.1.0.5", (24, 32)),
            ("10.1.0.7", (24, 32)),
            ("fd01::5", (64, 128)),
            ("fd01::7", (64, 128)),
            ("fe80::1", (64,)),
        )
        for length in lengths
    ]
)
PROTOCOLS = st.sampled_from([154, KERNEL, RA, KEEPALIVED])


def routes(sources: list[Interface], protocols: st.SearchStrategy[int]) -> st.SearchStrategy[Route]:
    return st.builds(
        Route,
        destination=st.sampled_from([ip_network("0.0.0.0/0"), ip_network("10.1.0.0/24")]),
        metric=st.sampled_from([0, 1]),
        table=st.sampled_from([1, 254]),
        gateway=st.sampled_from([None, ip_address("10.1.0.1")]),
        source=st.sampled_from([None, *(interface.ip for interface in sources)]),
        protocol=protocols,
    )


def rules(protocols: st.SearchStrategy[int]) -> st.SearchStrategy[Rule]:
    sources = st.sampled_from([ip_network("10.1.0.5/32"), ip_network("fd01::5/128")])
    return st.builds(Rule, source=sources, protocol=protocols)


@st.composite
def specs(draw: st.DrawFn) -> InterfaceSpec:
    interfaces = draw(st.lists(INTERFACES, unique_by=lambda interface: interface.ip))
    return InterfaceSpec(
        mac=MAC,
        name=draw(st.sampled_from(["eth1", "eth2"])),
        mtu=draw(st.sampled_from([None, 1450, 1500])),
        addresses=tuple(HostAddress(each, deprecated=draw(st.booleans())) for each in interfaces),
        routes=tuple(draw(st.lists(routes(interfaces, st.just(154)), unique=True))),
        rules=tuple(draw(st.lists(rules(st.just(154)), unique=True))),
        slaac=draw(st.booleans()),
        retired=draw(st.frozensets(INTERFACES)) - set(interfaces),
    )


@st.composite
def states(draw: st.DrawFn) -> InterfaceState:
    # IPv6 has an address once, IPv4 once for each prefix length.
    interfaces = draw(
        st.lists(
            INTERFACES,
            unique_by=lambda i: str(i) if i.version == 4 else str(i.ip),
        )
    )
    settings = draw(st.sampled_from([(), (("ipv6/accept_ra", "1"), ("ipv6/autoconf", "0"))]))
    return InterfaceState(
        name=draw(st.sampled_from(["eth1", "eth2", "ens7"])),
        mtu=1500,
        up=draw(st.booleans()),
        inside=draw(st.booleans()),
        addresses=frozenset(
            HeldAddress(
                each,
                deprecated=draw(st.booleans()),
                permanent=draw(st.booleans()),
                tentative=each.version == 6 and draw(st.booleans()),
                failed=each.version == 6 and draw(st.booleans()),
            )
            for each in interfaces
        ),
        routes=frozenset(draw(st.lists(routes(interfaces, PROTOCOLS)))),
        rules=frozenset(draw(st.lists(rules(PROTOCOLS)))),
        sysctls=frozenset(settings),
    )


@given(specs(), states())
def test_what_was_carried_out_leaves_no_difference(
    desired: InterfaceSpec, actual: InterfaceState
) -> None:
    ops = diff(desired, actual)
    actual = carried_out(actual, ops)
    if ops and isinstance(ops[0], Rename):
        assert len(ops) == 1
        actual = carried_out(actual, diff(desired, actual))
    assert diff(desired, actual) == ()


@given(specs(), states())
def test_what_belongs_to_others_is_never_touched(
    desired: InterfaceSpec, actual: InterfaceState
) -> None:
    wanted_ips = {address.interface.ip for address in desired.addresses}
    for op in diff(desired, actual):
        match op:
            case RemoveRoute():
                assert op.route.protocol == 154
            case RemoveRule():
                assert op.rule.protocol == 154
                assert desired.name == "eth1"
            case RemoveAddress():
                assert op.interface in desired.retired or op.interface.ip in wanted_ips
            case _:
                pass


@given(specs(), states())
def test_every_operation_can_be_read(desired: InterfaceSpec, actual: InterfaceState) -> None:
    for op in diff(desired, actual):
        assert str(op)
        assert "(" not in str(op)
