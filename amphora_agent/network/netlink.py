"""The kernel's side of the network: what is there, and the operations carried out.

The only module that touches pyroute2. Importing any part of that runs the package's `__init__`,
which imports all of it: 130 ms and 12 MB. Whoever imports this module does so where it is needed.

A netlink socket belongs to the namespace in which it was opened: `Netlink` is opened in the
agent's own namespace, or inside `Namespace.run`, and used and closed there, by one thread.
"""

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroute2.iproute.linux import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from amphora_agent.errors import OperationFailed
from amphora_agent.model.addressing import Address
from amphora_agent.network.diff import (
    AddAddress,
    AddRoute,
    AddRule,
    AwaitAddresses,
    HeldAddress,
    InterfaceState,
    Move,
    NetOp,
    RemoveAddress,
    RemoveRoute,
    RemoveRule,
    Rename,
    SetMtu,
    SetSysctl,
    SetUp,
)
from amphora_agent.network.interface import Route, Rule
from amphora_agent.network.rtnetlink import (
    FAMILY,
    Link,
    address_request,
    held_address,
    link_in,
    route_request,
    routes_through,
    rule_request,
    rules_in,
)

_NLM_F_DUMP_INTR = 0x10
#: Dumps that others may spoil, one after the other, before what one has is taken as it is.
_MOST_DUMPS = 20

#: Multicast groups of rtnetlink, as bits.
LINK_EVENTS = 0x1
_IPV6_ADDRESS_EVENTS = 0x100

#: Seconds. DAD takes one, and begins after a random delay of up to one more.
_DAD_TIMEOUT = 8.0
#: Seconds without an event after which one looks again, in case an event was lost.
_LONGEST_WAIT = 1.0


class Events:
    """Tells that something changed, from the moment it is opened; never says what."""

    def __init__(self, groups: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, groups))

    def wait(self, seconds: float) -> None:
        """Return at a change, or after `seconds`, or after a while for another look anyway."""
        self._socket.settimeout(max(0.001, min(seconds, _LONGEST_WAIT)))
        try:
            self._socket.recv(65536)
        except TimeoutError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # so many events that some were lost
                raise

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()


class Netlink:
    """A conversation with the kernel about the namespace in which it is opened."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._iproute = IPRoute()

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._iproute.close()

    # What is there

    def links(self) -> list[Link]:
        return [link_in(message) for message in self._dump(self._iproute.get_links)]

    def link_of(self, mac: str) -> Link | None:
        """The interface with that MAC address; of several, the one that holds the others."""
        found = [link for link in self.links() if link.mac == mac]
        return min(found, key=lambda link: (link.is_part_of_another, link.index), default=None)

    def state(self, link: Link, sysctls: Iterable[str]) -> InterfaceState:
        """All that `link` has, with those of its `sysctls` that the kernel offers."""
        return InterfaceState(
            name=link.name,
            mtu=link.mtu,
            up=link.up,
            addresses=frozenset(self._addresses(link.index)),
            routes=frozenset(self._routes(link.index)),
            rules=frozenset(self._rules()),
            sysctls=frozenset(_read_sysctls(link.name, sysctls)),
        )

    def holder_of(self, address: Address) -> str | None:
        """The name of the interface that has `address`."""
        for message in self._dump(self._iproute.get_addr, family=FAMILY[address.version]):
            if held_address(message).interface.ip == address:
                names = {link.index: link.name for link in self.links()}
                return names.get(message["index"])
        return None

    def _addresses(self, index: int) -> Iterator[HeldAddress]:
        for message in self._dump(self._iproute.get_addr, index=index):
            yield held_address(message)

    def _routes(self, index: int) -> Iterator[Route]:
        for family in FAMILY.values():
            for message in self._dump(self._iproute.get_routes, family=family):
                yield from routes_through(index, message)

    def _rules(self) -> Iterator[Rule]:
        for family in FAMILY.values():
            for message in self._dump(self._iproute.get_rules, family=family):
                yield from rules_in(message)

    def _dump(self, function: Callable[..., Iterable[Any]], **filters: object) -> list[Any]:
        # A dump during which others made changes may lack entries: the kernel says so.
        messages: list[Any] = []
        for _ in range(_MOST_DUMPS):
            messages = list(function(**filters))
            if not any(each["header"]["flags"] & _NLM_F_DUMP_INTR for each in messages):
                break
        return messages

    # Changes

    def move(self, link: Link, namespace: Path, op: Move) -> None:
        """Carry out `op`: moved and renamed at one instant, the kernel does both or neither.

        Raises:
            OperationFailed: the kernel refuses.
        """
        with _explained(op.new_name, op):
            # They travel along, and one that is taken inside would prevent the move.
            for name in link.alternative_names:
                self._drop_alternative_name(link, name)
            with namespace.open("rb") as file:
                self._iproute.link(
                    "set", index=link.index, net_ns_fd=file.fileno(), ifname=op.new_name
                )

    def free_name(self, name: str, mac: str) -> None:
        """Take `name` from whichever interface has it, unless that is the one with `mac`."""
        for link in self.links():
            if link.mac == mac or not link.is_called(name):
                continue
            self._drop_alternative_name(link, name)
            if link.name == name:
                spare = "amp" + link.mac.replace(":", "")
                with _explained(name, Rename(name, spare)):
                    self._rename(link, spare)

    def apply(self, link: Link, op: NetOp) -> None:
        """Carry out `op` on `link`. Adding what is there, or removing what is not, is fine.

        Raises:
            OperationFailed: the kernel refuses, or an address is taken or not usable in time.
        """
        with _explained(link.name, op):
            self._apply(link, op)

    def _apply(self, link: Link, op: NetOp) -> None:
        match op:
            case Rename():
                self._drop_alternative_name(link, op.new_name)
                self._rename(link, op.new_name)
            case SetMtu():
                self._iproute.link("set", index=link.index, mtu=op.mtu)
            case SetUp():
                self._iproute.link("set", index=link.index, state="up")
            case SetSysctl():
                _write_sysctl(link.name, op.key, op.value)
            case AddAddress():
                request = address_request(link, op.address.interface, op.address.deprecated)
                self._iproute.addr("replace", **request)
            case RemoveAddress():
                with _tolerated(errno.EADDRNOTAVAIL):
                    self._iproute.addr("delete", **address_request(link, op.interface))
            case AwaitAddresses():
                self._await_addresses(link, op.addresses)
            case AddRoute():
                # "append" does not refuse a destination that another route has already: the old
                # one goes afterwards, and there is no moment without any.
                with _tolerated(errno.EEXIST):
                    self._iproute.route("append", **route_request(link, op.route))
            case RemoveRoute():
                with _tolerated(errno.ESRCH):
                    self._iproute.route("delete", **route_request(link, op.route))
            case AddRule():
                with _tolerated(errno.EEXIST):
                    self._iproute.rule("add", **rule_request(op.rule))
            case RemoveRule():
                with _tolerated(errno.ENOENT):
                    self._iproute.rule("delete", **rule_request(op.rule))
            case Move():
                raise AssertionError("an interface that is inside cannot be moved inside")

    def _drop_alternative_name(self, link: Link, name: str) -> None:
        if name in link.alternative_names:
            self._iproute.link("property_del", index=link.index, altname=name)

    def _rename(self, link: Link, name: str) -> None:
        try:
            self._iproute.link("set", index=link.index, ifname=name)
        except NetlinkError as error:
            if error.code != errno.EBUSY:
                raise
            # Kernels before 6.2 rename no interface that is up.
            self._iproute.link("set", index=link.index, state="down")
            self._iproute.link("set", index=link.index, ifname=name)

    def _await_addresses(self, link: Link, addresses: tuple[Address, ...]) -> None:
        deadline = self._clock() + _DAD_TIMEOUT
        with Events(_IPV6_ADDRESS_EVENTS) as events:
            while True:
                held = [
                    each for each in self._addresses(link.index) if each.interface.ip in addresses
                ]
                for each in held:
                    if each.failed:
                        raise OperationFailed(
                            "Duplicate IPv6 address",
                            f"another host on the network of {link.name} has {each.interface.ip}",
                        )
                if not any(each.tentative for each in held):
                    return
                remaining = deadline - self._clock()
                if remaining <= 0:
                    raise OperationFailed(
                        "IPv6 address not usable",
                        f"{link.name}: duplicate-address detection did not end in time",
                    )
                events.wait(remaining)


@contextmanager
def _explained(name: str, op: NetOp) -> Iterator[None]:
    try:
        yield
    except (NetlinkError, OSError) as error:
        raise OperationFailed("Cannot configure the network", f"{name}: {op}: {error}") from error


@contextmanager
def _tolerated(code: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise


def _sysctl(name: str, key: str) -> Path:
    family, setting = key.split("/")
    return Path("/proc/sys/net", family, "conf", name, setting)


def _read_sysctls(name: str, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    # A kernel without IPv6 has no such file, and no need for it.
    for key in keys:
        with suppress(FileNotFoundError):
            yield key, _sysctl(name, key).read_text().strip()


def _write_sysctl(name: str, key: str, value: str) -> None:
    path = _sysctl(name, key)
    if path.exists():
        path.write_text(value)
