"""Reconcile an interface with its spec: look, compute the difference, carry it out, look again."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from amphora_agent.errors import NotFound, OperationFailed
from amphora_agent.kernel.netlink_socket import NetlinkEvents
from amphora_agent.model.addressing import Address, Mac
from amphora_agent.namespace import Namespace
from amphora_agent.network.plan.diff import (
    AddRoute,
    InterfaceState,
    Move,
    NetOp,
    NetOps,
    Rename,
    SetUp,
    diff,
)
from amphora_agent.network.plan.interface import InterfaceSpec, Route

if TYPE_CHECKING:
    from amphora_agent.network.netlink.links import Netlink
    from amphora_agent.network.netlink.messages import Link

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The multicast group of rtnetlink for links, as a bit.
_LINK_EVENTS = 0x1

#: The second look finds nothing to do, unless others change the interface meanwhile.
_MOST_LOOKS = 5


class Reconciler:
    """Reconciles the interfaces of `namespace`, also those that have yet to be moved into it.

    Args:
        namespace: the amphora's, which exists.
        pci_rescan: the kernel's file that makes it look for new devices.
    """

    def __init__(self, namespace: Namespace, pci_rescan: Path) -> None:
        self._namespace = namespace
        self._pci_rescan = pci_rescan

    def links(self) -> "list[Link]":
        """Return the interfaces in the namespace."""
        return self._inside(lambda netlink: netlink.links())

    def find_holder(self, address: Address) -> str | None:
        """Return the name of the interface in the namespace that has `address`."""
        return self._inside(lambda netlink: netlink.find_holder(address))

    def exists(self, mac: Mac) -> bool:
        """Return whether there is such a port, in the namespace or outside."""
        inside = self._inside(lambda netlink: netlink.find_link(mac))
        return (inside or self._outside(lambda netlink: netlink.find_link(mac))) is not None

    def await_port(self, mac: Mac, deadline: float) -> None:
        """Wait for a port, which may be plugged into the machine late.

        Raises:
            NotFound: there is none at `deadline`. The controller repeats its request at this text.
        """
        # Opened before the first look, so that no change in between is missed.
        with NetlinkEvents(_LINK_EVENTS) as events:
            if self.exists(mac):
                return
            self._rescan()
            while not self.exists(mac):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise NotFound(f"No port {mac}", "No suitable network interface found")
                events.wait(remaining)

    def _read_state(self, spec: InterfaceSpec) -> InterfaceState:
        """Return what the interface has now.

        Raises:
            NotFound: there is no such port.
        """
        sysctls = [key for key, _ in spec.sysctls]

        def look(netlink: "Netlink") -> InterfaceState | None:
            link = netlink.find_link(spec.mac)
            return netlink.read_state(link, sysctls) if link else None

        if inside := self._inside(look):
            return inside
        link = self._outside(lambda netlink: _require_link(netlink, spec.mac))
        return InterfaceState(name=link.name, mtu=link.mtu, up=link.up, inside=False)

    def plan(self, spec: InterfaceSpec) -> NetOps:
        """Return what `converge` would do, as far as one look tells.

        Raises:
            NotFound: there is no such port.
        """
        return diff(spec, self._read_state(spec))

    def has_learned_address(self, spec: InterfaceSpec) -> bool:
        """Return whether the interface has a usable IPv6 address from a router advertisement."""
        return any(
            address.usable and not address.permanent for address in self._read_state(spec).addresses
        )

    def converge(self, spec: InterfaceSpec, before_up: Callable[[], None] | None = None) -> NetOps:
        """Reconcile the interface with `spec`; return what was done.

        Args:
            before_up: called before the interface is set up, if it has to be.

        Raises:
            NotFound: there is no such port.
            OperationFailed: the kernel refuses something, an IPv6 address is a duplicate, or
                something else keeps changing the interface.
        """
        done: NetOps = ()
        ops: NetOps = ()
        for _ in range(_MOST_LOOKS):
            ops = self.plan(spec)
            if not ops:
                return done
            refused = self._carry_out(spec, ops, before_up)
            routes = tuple(route for route in spec.routes if route not in refused)
            spec = msgspec.structs.replace(spec, routes=routes)
            done += ops
        raise OperationFailed(
            "The network does not settle", f"{spec.name}: again to do: {'; '.join(map(str, ops))}"
        )

    def _carry_out(
        self, spec: InterfaceSpec, ops: NetOps, before_up: Callable[[], None] | None
    ) -> set[Route]:
        """Carry out operations; return the optional routes that the kernel refused."""
        if isinstance(ops[0], Move | Rename):
            self._inside(lambda netlink: netlink.free_name(spec.name, spec.mac))
        if isinstance(move := ops[0], Move):
            _log(spec, move)
            self._outside(
                lambda netlink: netlink.move(
                    _require_link(netlink, spec.mac), self._namespace.path, move
                )
            )
            ops = ops[1:]
        return self._inside(lambda netlink: _apply_each(netlink, spec, ops, before_up))

    def _rescan(self) -> None:
        # The kernel sometimes misses a device that was plugged in.
        try:
            if self._pci_rescan.exists():
                self._pci_rescan.write_text("1")
        except OSError as error:
            logger.warning("cannot rescan the PCI bus: %s", error)

    def _inside(self, function: "Callable[[Netlink], T]") -> T:
        return self._namespace.run(lambda: self._outside(function))

    def _outside(self, function: "Callable[[Netlink], T]") -> T:
        # Costs memory and time: loaded only when there is something to do.
        from amphora_agent.network.netlink.links import Netlink

        with Netlink() as netlink:
            return function(netlink)


def _require_link(netlink: "Netlink", mac: Mac) -> "Link":
    link = netlink.find_link(mac)
    if link is None:
        raise NotFound(f"No port {mac}", "No suitable network interface found")
    return link


def _apply_each(
    netlink: "Netlink", spec: InterfaceSpec, ops: NetOps, before_up: Callable[[], None] | None
) -> set[Route]:
    link = _require_link(netlink, spec.mac)
    refused = set()
    for op in ops:
        if isinstance(op, SetUp) and before_up:
            before_up()
        _log(spec, op)
        try:
            netlink.apply(link, op)
        except OperationFailed as error:
            if not isinstance(op, AddRoute) or op.route not in spec.optional:
                raise
            logger.error("%s; the host route of the subnet is left out", error)
            refused.add(op.route)
    return refused


def _log(spec: InterfaceSpec, op: NetOp) -> None:
    logger.info("%s (%s): %s", spec.name, spec.mac, op)
