"""The conversation with the real kernel: what it refuses, much of it, and changes in between."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.kernel.netlink_socket import NetlinkEvents, NetlinkRequest, NetlinkSocket
from amphora_agent.model.addressing import Interface
from amphora_agent.network.netlink import messages as netlink_messages
from amphora_agent.network.netlink.links import Netlink
from amphora_agent.network.netlink.messages import Link, build_change
from amphora_agent.network.plan.diff import (
    AddAddress,
    AddRoute,
    AddRule,
    RemoveAddress,
    RemoveRoute,
    RemoveRule,
    SetDown,
    SetUp,
)
from amphora_agent.network.plan.interface import HostAddress, Route, Rule
from lab.network import Lab, Namespace

_PAIRS = 60
_ADDRESSES = 2000
_IPV4_ADDRESS_EVENTS = 0x10

_NLM_F_ACK = 0x4

#: An interface that there is not.
_NOBODY = Link(index=4711, name="nobody", mac="", mtu=1500, up=True)

_numbers = itertools.count()


@pytest.fixture(name="inside")
def _inside() -> Iterator[Namespace]:
    """A namespace with one interface that is up."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Lab(f"nl{os.getpid()}-{next(_numbers)}") as lab:
        namespace = lab.namespace("inside")
        lab.cable(namespace, "eth1", lab.namespace("far"), "eth0", mac_a="fa:16:3e:00:00:01")
        yield namespace


def test_a_refusal_says_why(inside: Namespace) -> None:
    def ask(kernel: Netlink, link: Link) -> None:
        with pytest.raises(OperationFailed, match=r"eth1: add route 10.9.0.0/24 .*: .*down"):
            kernel.apply(link, AddRoute(_route("10.9.0.0/24", "10.1.0.1")))

    inside.down("eth1")
    _with_eth1(inside, ask)


def test_a_refusal_has_the_kernels_own_words(inside: Namespace) -> None:
    def ask() -> None:
        with NetlinkSocket() as netlink:
            request = build_change(_NOBODY, AddRoute(_route("10.9.0.0/24", "10.1.0.1")))
            with pytest.raises(OSError, match=r"No such device: .*required for onlink") as refused:
                netlink.change(request)
            assert refused.value.errno == errno.ENODEV
            # And the socket still works.
            netlink.change(build_change(_NOBODY, AddRule(Rule(ip_network("10.1.0.5/32")))))

    inside.inside(ask)


def test_a_dump_may_be_refused(inside: Namespace) -> None:
    def ask() -> None:
        with (
            Netlink() as kernel,
            pytest.raises(OperationFailed, match=r"Cannot read the state of the network: .*device"),
        ):
            kernel.read_state(_NOBODY, ())

    inside.inside(ask)


def test_what_is_done_already_is_fine(inside: Namespace) -> None:
    address = ip_interface("10.1.0.7/24")
    route = _route("10.9.0.0/24", "10.1.0.1")
    rule = Rule(ip_network("10.1.0.5/32"))

    def ask(kernel: Netlink, link: Link) -> None:
        for _ in range(2):
            for op in (SetUp(), AddAddress(HostAddress(address)), AddRoute(route), AddRule(rule)):
                kernel.apply(link, op)
        state = kernel.read_state(link, ())
        assert {each.interface for each in state.addresses} >= {address}
        assert route in state.routes
        assert rule in state.rules
        for _ in range(2):
            for undo in (RemoveRule(rule), RemoveRoute(route), RemoveAddress(address), SetDown()):
                kernel.apply(link, undo)
        state = kernel.read_state(link, ())
        assert not kernel.links()[-1].up
        assert address not in {each.interface for each in state.addresses}
        assert route not in state.routes
        assert rule not in state.rules

    _with_eth1(inside, ask)


def test_routes_that_the_kernel_joins_are_two_and_go_one_by_one(inside: Namespace) -> None:
    one, other = (_route("2001:db8::/32", gateway, 1025) for gateway in ("fd01::1", "fd01::2"))

    def ask(kernel: Netlink, link: Link) -> None:
        for route in (one, other):
            kernel.apply(link, AddRoute(route))
        assert kernel.read_state(link, ()).routes >= {one, other}
        kernel.apply(link, RemoveRoute(one))
        assert kernel.read_state(link, ()).routes & {one, other} == {other}

    _with_eth1(inside, ask)
    assert "via fd01::2" in inside.ip("-6", "route", "show", "2001:db8::/32")


def test_only_what_belongs_to_the_interface_is_its_state(inside: Namespace) -> None:
    inside.address("lo", "10.8.0.1/24", "fd08::1/64")
    inside.address("eth1", "10.1.0.7/24")
    inside.route("10.9.0.0/24", via="10.8.0.2")

    def ask(kernel: Netlink, link: Link) -> None:
        state = kernel.read_state(link, ())
        assert {str(each.interface) for each in state.addresses if each.interface.version == 4} == {
            "10.1.0.7/24"
        }
        assert {str(each.destination) for each in state.routes} == {"10.1.0.0/24", "fe80::/64"}

    _with_eth1(inside, ask)


def test_much_is_read_whole(inside: Namespace) -> None:
    _many_links(inside)
    expected = _many_addresses(inside)
    names = {"lo", "eth1"} | {f"{side}{n}" for n in range(_PAIRS) for side in "ab"}

    def ask(kernel: Netlink, link: Link) -> None:
        assert {each.name for each in kernel.links()} == names
        assert kernel.find_link("fa:16:3e:00:00:01") == link
        held = {each.interface for each in kernel.read_state(link, ()).addresses}
        assert held >= expected
        assert kernel.find_holder(max(expected).ip) == "eth1"
        assert kernel.find_holder(ip_address("10.255.0.1")) is None

    _with_eth1(inside, ask)


def test_a_dump_that_others_interrupt_is_begun_anew(inside: Namespace) -> None:
    expected = _many_addresses(inside)
    first = min(expected)

    def ask() -> None:
        [link] = [each for each in _links() if each.name == "eth1"]
        with _Interrupted(build_change(link, RemoveAddress(first))) as netlink:
            messages = netlink.dump(netlink_messages.addresses(4))
        held = [netlink_messages.parse_address(message).interface for message in messages]
        held.remove(ip_interface("127.0.0.1/8"))
        assert sorted(held) == sorted(expected - {first})

    inside.inside(ask)


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(inside: Namespace) -> None:
    def ask() -> None:
        with NetlinkSocket() as netlink:
            refused = build_change(_NOBODY, AddRoute(_route("10.9.0.0/24", "10.1.0.1")))
            netlink._send(refused, _NLM_F_ACK)
            netlink.change(build_change(_NOBODY, AddRule(Rule(ip_network("10.1.0.5/32")))))

    inside.inside(ask)
    assert "from 10.1.0.5" in inside.ip("rule", "show")


def test_more_events_than_anyone_could_read_are_an_event(inside: Namespace) -> None:
    with inside.inside(lambda: NetlinkEvents(_IPV4_ADDRESS_EVENTS)) as events:
        _many_addresses(inside)
        events.wait(60)
        events.wait(60)


class _Interrupted(NetlinkSocket):
    """After the first message of the first answer, someone else changes something."""

    def __init__(self, change: NetlinkRequest) -> None:
        super().__init__()
        self._changes = [change]

    def _answers(self) -> Iterator[tuple[bytes, int | None, int]]:
        for answer in super()._answers():
            yield answer
            while self._changes:
                with NetlinkSocket() as other:
                    other.change(self._changes.pop())


def _with_eth1(inside: Namespace, function: Callable[[Netlink, Link], None]) -> None:
    def ask() -> None:
        with Netlink() as kernel:
            [link] = [each for each in kernel.links() if each.name == "eth1"]
            function(kernel, link)

    inside.inside(ask)


def _links() -> list[Link]:
    with Netlink() as kernel:
        return kernel.links()


def _route(destination: str, gateway: str, metric: int = 1) -> Route:
    return Route(ip_network(destination), metric, gateway=ip_address(gateway))


def _many_links(inside: Namespace) -> None:
    _batch(inside, (f"link add a{n} type veth peer name b{n}" for n in range(_PAIRS)))


def _many_addresses(inside: Namespace) -> set[Interface]:
    made = {ip_interface(f"10.{20 + n // 250}.{n % 250}.1/32") for n in range(_ADDRESSES)}
    _batch(inside, (f"address add {each} dev eth1" for each in sorted(made)))
    return made


def _batch(inside: Namespace, lines: Iterable[str]) -> None:
    inside.run(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")
