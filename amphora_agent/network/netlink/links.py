"""The kernel's side of the network: what is there, and the operations carried out.

A netlink socket belongs to the namespace in which it was opened: `Netlink` is opened in the
agent's own namespace, or inside `Namespace.run`, and used and closed there, by one thread.
"""

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from amphora_agent.errors import OperationFailed
from amphora_agent.kernel.netlink_socket import NetlinkSocket, Request
from amphora_agent.model.addressing import Address
from amphora_agent.network import sysctl
from amphora_agent.network.netlink import messages
from amphora_agent.network.netlink.messages import (
    Link,
    held_address,
    link_in,
    routes_through,
    rules_in,
)
from amphora_agent.network.plan.diff import (
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
    SetDown,
    SetMtu,
    SetSysctl,
    SetUp,
)
from amphora_agent.network.plan.interface import Route, Rule

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
    """The kernel's view of the namespace in which it is opened, and changes there."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._socket = NetlinkSocket()

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    # What is there

    def links(self) -> list[Link]:
        return [link_in(message) for message in self._dump(messages.links())]

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
            addresses=frozenset(self._addresses(link)),
            routes=frozenset(self._routes(link)),
            rules=frozenset(self._rules()),
            sysctls=_read_sysctls(link.name, sysctls),
        )

    def holder_of(self, address: Address) -> str | None:
        """The name of the interface that has `address`."""
        for message in self._dump(messages.addresses(address.version)):
            if held_address(message).interface.ip == address:
                names = {link.index: link.name for link in self.links()}
                return names.get(message["index"])
        return None

    def addresses(self) -> frozenset[Address]:
        """All addresses of all interfaces."""
        return frozenset(
            held_address(message).interface.ip for message in self._dump(messages.addresses())
        )

    def _addresses(self, link: Link) -> Iterator[HeldAddress]:
        for message in self._dump(messages.addresses()):
            if message["index"] == link.index:
                yield held_address(message)

    def _routes(self, link: Link) -> Iterator[Route]:
        for version in (4, 6):
            for message in self._dump(messages.unicast_routes(version, link)):
                yield from routes_through(link.index, message)

    def _rules(self) -> Iterator[Rule]:
        for version in (4, 6):
            for message in self._dump(messages.rules(version)):
                yield from rules_in(message)

    def _dump(self, request: Request) -> list[Any]:
        try:
            return self._socket.dump(request)
        except OSError as error:
            raise OperationFailed("Cannot look at the network", str(error)) from error

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
                self._change(messages.move_link(link, file.fileno(), op.new_name))

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
                self._change(messages.set_mtu(link, op.mtu))
            case SetUp():
                self._change(messages.set_up(link, True))
            case SetDown():
                self._change(messages.set_up(link, False))
            case SetSysctl():
                # A kernel without IPv6 has no such file, and no need for it.
                with suppress(FileNotFoundError):
                    sysctl.write(_sysctl(link.name, op.key), op.value)
            case AddAddress():
                wanted = op.address
                self._change(messages.replace_address(link, wanted.interface, wanted.deprecated))
            case RemoveAddress():
                with _tolerated(errno.EADDRNOTAVAIL):
                    self._change(messages.remove_address(link, op.interface))
            case AwaitAddresses():
                self._await_addresses(link, op.addresses)
            case AddRoute():
                # Of two routes to one destination, the old one goes afterwards: there is no moment
                # without any.
                with _tolerated(errno.EEXIST):
                    self._change(messages.append_route(link, op.route))
            case RemoveRoute():
                with _tolerated(errno.ESRCH):
                    self._change(messages.remove_route(link, op.route))
            case AddRule():
                with _tolerated(errno.EEXIST):
                    self._change(messages.add_rule(op.rule))
            case RemoveRule():
                with _tolerated(errno.ENOENT):
                    self._change(messages.remove_rule(op.rule))
            case Move():
                raise AssertionError("an interface that is inside cannot be moved inside")

    def _change(self, request: Request) -> None:
        self._socket.change(request)

    def _drop_alternative_name(self, link: Link, name: str) -> None:
        if name in link.alternative_names:
            self._change(messages.drop_alternative_name(link, name))

    def _rename(self, link: Link, name: str) -> None:
        try:
            self._change(messages.rename_link(link, name))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            # Kernels before 6.2 rename no interface that is up.
            self._change(messages.set_up(link, False))
            self._change(messages.rename_link(link, name))

    def _await_addresses(self, link: Link, addresses: tuple[Address, ...]) -> None:
        deadline = self._clock() + _DAD_TIMEOUT
        with Events(_IPV6_ADDRESS_EVENTS) as events:
            while True:
                held = [each for each in self._addresses(link) if each.interface.ip in addresses]
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
    except OSError as error:
        raise OperationFailed("Cannot configure the network", f"{name}: {op}: {error}") from error


@contextmanager
def _tolerated(code: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != code:
            raise


def _sysctl(name: str, key: str) -> str:
    family, setting = key.split("/")
    return f"net/{family}/conf/{name}/{setting}"


def _read_sysctls(name: str, keys: Iterable[str]) -> frozenset[tuple[str, str]]:
    keys_by_path = {_sysctl(name, key): key for key in keys}
    return frozenset((keys_by_path[path], value) for path, value in sysctl.read(keys_by_path))
