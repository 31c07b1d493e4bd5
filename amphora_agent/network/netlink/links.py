"""Read links, addresses, routes and rules from the kernel, and carry out operations on them.

A `Netlink` belongs to the namespace in which it is opened, the agent's own or that of a
`Namespace.run`, and to one thread.
"""

import errno
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from amphora_agent.errors import OperationFailed
from amphora_agent.kernel.netlink_socket import NetlinkEvents, NetlinkRequest, NetlinkSocket
from amphora_agent.model.addressing import Address
from amphora_agent.network import sysctl
from amphora_agent.network.netlink import messages
from amphora_agent.network.netlink.messages import Link, build_change
from amphora_agent.network.plan import diff
from amphora_agent.network.plan.interface import Route, Rule

#: A multicast group of rtnetlink, as a bit.
_IPV6_ADDRESS_EVENTS = 0x100

#: Seconds. DAD takes one, and begins after a random delay of up to one more.
_DAD_TIMEOUT = 8.0

#: The kernel's refusals of operations that were carried out before.
_DONE_ALREADY = {
    diff.RemoveAddress: errno.EADDRNOTAVAIL,
    # An old route to the destination is removed later: there always is one.
    diff.AddRoute: errno.EEXIST,
    diff.RemoveRoute: errno.ESRCH,
    diff.AddRule: errno.EEXIST,
    diff.RemoveRule: errno.ENOENT,
}


class Netlink(AbstractContextManager["Netlink"]):
    """The kernel's view of the namespace in which it is opened, and changes there."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket()

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    # Read

    def links(self) -> list[Link]:
        return [messages.parse_link(message) for message in self._dump(messages.links())]

    def find_link(self, mac: str) -> Link | None:
        """Return the interface with a MAC address; of several, the one that holds the others."""
        candidates = [link for link in self.links() if link.mac == mac]
        return min(candidates, key=lambda link: (link.is_part_of_another, link.index), default=None)

    def read_state(self, link: Link, sysctls: Iterable[str]) -> diff.InterfaceState:
        """Return what `link` has, with those of `sysctls` that the kernel offers."""
        return diff.InterfaceState(
            name=link.name,
            mtu=link.mtu,
            up=link.up,
            addresses=frozenset(self._addresses(link)),
            routes=frozenset(self._routes(link)),
            rules=frozenset(self._rules()),
            sysctls=_read_sysctls(link.name, sysctls),
        )

    def find_holder(self, address: Address) -> str | None:
        """Return the name of the interface that has `address`."""
        for message in self._dump(messages.addresses(address.version)):
            if messages.parse_address(message).interface.ip == address:
                names = {link.index: link.name for link in self.links()}
                return names.get(message["index"])
        return None

    def addresses(self) -> frozenset[Address]:
        """Return all addresses of all interfaces."""
        return frozenset(
            messages.parse_address(message).interface.ip
            for message in self._dump(messages.addresses())
        )

    def _addresses(self, link: Link) -> Iterator[diff.HeldAddress]:
        for message in self._dump(messages.addresses()):
            if message["index"] == link.index:
                yield messages.parse_address(message)

    def _routes(self, link: Link) -> Iterator[Route]:
        for version in (4, 6):
            for message in self._dump(messages.unicast_routes(version, link)):
                yield from messages.parse_routes(link.index, message)

    def _rules(self) -> Iterator[Rule]:
        for version in (4, 6):
            for message in self._dump(messages.rules(version)):
                yield from messages.parse_rule(message)

    def _dump(self, request: NetlinkRequest) -> list[Any]:
        try:
            return self._socket.dump(request)
        except OSError as error:
            raise OperationFailed("Cannot read the state of the network", str(error)) from error

    # Change

    def move(self, link: Link, namespace: Path, op: diff.Move) -> None:
        """diff.Move `link` into `namespace` and rename it; the kernel does both or neither.

        Raises:
            OperationFailed: the kernel refuses.
        """
        with _explain_refusal(op.new_name, op):
            # They move along, and one that is taken inside prevents the move.
            for name in link.alternative_names:
                self._drop_alternative_name(link, name)
            with namespace.open("rb") as file:
                self._socket.change(messages.move_link(link, file.fileno(), op.new_name))

    def free_name(self, name: str, mac: str) -> None:
        """diff.Rename any other interface than that with `mac` that has `name`."""
        for link in self.links():
            if link.mac == mac or not link.is_called(name):
                continue
            self._drop_alternative_name(link, name)
            if link.name == name:
                op = diff.Rename(name, "amp" + link.mac.replace(":", ""))
                with _explain_refusal(name, op):
                    self._rename(link, op)

    def apply(self, link: Link, op: diff.NetOp) -> None:
        """Carry out `op` on `link`. It may be done already.

        Raises:
            OperationFailed: the kernel refuses, or an address is a duplicate or not usable in time.
        """
        with _explain_refusal(link.name, op):
            self._apply(link, op)

    def _apply(self, link: Link, op: diff.NetOp) -> None:
        match op:
            case diff.Rename():
                self._drop_alternative_name(link, op.new_name)
                self._rename(link, op)
            case diff.SetSysctl():
                # A kernel without IPv6 has no such file.
                with suppress(FileNotFoundError):
                    sysctl.write(_build_key(link.name, op.key), op.value)
            case diff.AwaitAddresses():
                self._await_addresses(link, op.addresses)
            case _:
                with _tolerate(_DONE_ALREADY.get(type(op))):
                    self._socket.change(build_change(link, op))

    def _drop_alternative_name(self, link: Link, name: str) -> None:
        if name in link.alternative_names:
            self._socket.change(messages.drop_alternative_name(link, name))

    def _rename(self, link: Link, op: diff.Rename) -> None:
        try:
            self._socket.change(build_change(link, op))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            # Kernels before 6.2 rename no interface that is up.
            self._socket.change(build_change(link, diff.SetDown()))
            self._socket.change(build_change(link, op))

    def _await_addresses(self, link: Link, addresses: tuple[Address, ...]) -> None:
        deadline = time.monotonic() + _DAD_TIMEOUT
        with NetlinkEvents(_IPV6_ADDRESS_EVENTS) as events:
            while True:
                awaited = [held for held in self._addresses(link) if held.interface.ip in addresses]
                if failed := [held.interface.ip for held in awaited if held.failed]:
                    raise OperationFailed(
                        "Duplicate IPv6 address",
                        f"another host on the network of {link.name} has {failed[0]}",
                    )
                if not any(held.tentative for held in awaited):
                    return
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise OperationFailed(
                        "IPv6 address not usable",
                        f"{link.name}: duplicate-address detection did not end in time",
                    )
                events.wait(remaining)


@contextmanager
def _explain_refusal(name: str, op: diff.NetOp) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OperationFailed("Cannot configure the network", f"{name}: {op}: {error}") from error


@contextmanager
def _tolerate(code: int | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != code:
            raise


def _build_key(name: str, key: str) -> str:
    family, setting = key.split("/")
    return f"net/{family}/conf/{name}/{setting}"


def _read_sysctls(name: str, keys: Iterable[str]) -> frozenset[tuple[str, str]]:
    keys_by_path = {_build_key(name, key): key for key in keys}
    return frozenset((keys_by_path[path], value) for path, value in sysctl.read(keys_by_path))
