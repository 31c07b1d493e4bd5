"""Carrying out the difference of any two interfaces leaves none, and leaves what others own."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from amphora_agent.model.addressing import Interface
from amphora_agent.network.plan.diff import (
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
from amphora_agent.network.plan.interface import HostAddress, InterfaceSpec, Route, Rule
from tests.unit.network.test_interface_diff import KEEPALIVED, KERNEL, MAC, RA, SPEC


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
def test_leaves_no_difference_after_its_operations(
    desired: InterfaceSpec, actual: InterfaceState
) -> None:
    ops = diff(desired, actual)
    actual = carried_out(actual, ops)
    if ops and isinstance(ops[0], Rename):
        assert len(ops) == 1
        actual = carried_out(actual, diff(desired, actual))
    assert diff(desired, actual) == ()


@given(specs(), states())
def test_touches_nothing_of_others(desired: InterfaceSpec, actual: InterfaceState) -> None:
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
