"""Makes things what they should be: look, compute the difference, carry it out, look again."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from amphora_agent.errors import NotFound, OperationFailed
from amphora_agent.model.addressing import Address, Mac
from amphora_agent.namespace import Namespace
from amphora_agent.network.netlink.links import LINK_EVENTS, Events, Netlink
from amphora_agent.network.netlink.messages import Link
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

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Two looks are enough, the second finding nothing to do; others may change things meanwhile.
_MOST_LOOKS = 5


class Reconciler:
    """Works on the interfaces of `namespace`, and on those that wait outside to be moved in.

    Args:
        namespace: the amphora's. It exists.
        clock: monotonic seconds.
        pci_rescan: the kernel's file that makes it look for new devices.
    """

    def __init__(self, namespace: Namespace, clock: Callable[[], float], pci_rescan: Path) -> None:
        self._namespace = namespace
        self._clock = clock
        self._pci_rescan = pci_rescan

    def links(self) -> list[Link]:
        """The interfaces in the namespace."""
        return self._inside(Netlink.links)

    def holder_of(self, address: Address) -> str | None:
        """The name of the interface in the namespace that has `address`."""
        return self._inside(lambda kernel: kernel.holder_of(address))

    def exists(self, mac: Mac) -> bool:
        """Whether there is such a port, in the namespace or outside."""
        here = self._inside(lambda kernel: kernel.link_of(mac))
        return (here or self._outside(lambda kernel: kernel.link_of(mac))) is not None

    def await_port(self, mac: Mac, deadline: float) -> None:
        """Return when the port is there. It may be plugged into the machine late.

        Raises:
            NotFound: it is not, at `deadline`. The controller asks again when it reads this text.
        """
        # Opened before the first look: what appears in between is an event.
        with Events(LINK_EVENTS) as events:
            if self.exists(mac):
                return
            self._rescan()
            while not self.exists(mac):
                remaining = deadline - self._clock()
                if remaining <= 0:
                    raise NotFound(f"No port {mac}", "No suitable network interface found")
                events.wait(remaining)

    def state(self, spec: InterfaceSpec) -> InterfaceState:
        """What the interface has now.

        Raises:
            NotFound: there is no such port.
        """
        sysctls = [key for key, _ in spec.sysctls]

        def look(kernel: Netlink) -> InterfaceState | None:
            link = kernel.link_of(spec.mac)
            return kernel.state(link, sysctls) if link else None

        inside = self._inside(look)
        if inside is not None:
            return inside
        link = self._outside(lambda kernel: _existing(kernel, spec.mac))
        return InterfaceState(name=link.name, mtu=link.mtu, up=link.up, inside=False)

    def plan(self, spec: InterfaceSpec) -> NetOps:
        """What `converge` would do, as far as one look tells.

        Raises:
            NotFound: there is no such port.
        """
        return diff(spec, self.state(spec))

    def has_learned_address(self, spec: InterfaceSpec) -> bool:
        """Whether the interface has an IPv6 address by a router advertisement, ready for use."""
        return any(
            not (address.permanent or address.tentative or address.failed)
            for address in self.state(spec).addresses
        )

    def converge(self, spec: InterfaceSpec, before_up: Callable[[], None] | None = None) -> NetOps:
        """Make the interface what `spec` says; returns what was done.

        Args:
            before_up: called before the interface is set up, if it has to be.

        Raises:
            NotFound: there is no such port (any more).
            OperationFailed: the kernel refuses something, an IPv6 address is a duplicate, or
                something else keeps changing the interface.
        """
        done: NetOps = ()
        refused: set[Route] = set()
        ops: NetOps = ()
        for _ in range(_MOST_LOOKS):
            ops = _without(refused, self.plan(spec))
            if not ops:
                return done
            refused |= self._carry_out(spec, ops, before_up)
            done += ops
        raise OperationFailed(
            "The network does not settle", f"{spec.name}: again to do: {'; '.join(map(str, ops))}"
        )

    def _carry_out(
        self, spec: InterfaceSpec, ops: NetOps, before_up: Callable[[], None] | None
    ) -> set[Route]:
        """Returns the routes that nobody depends on and the kernel refused."""
        if isinstance(ops[0], Move | Rename):
            self._inside(lambda kernel: kernel.free_name(spec.name, spec.mac))
        if isinstance(ops[0], Move):
            self._move(spec, ops[0])
            ops = ops[1:]
        return self._inside(lambda kernel: _apply_each(kernel, spec, ops, before_up))

    def _move(self, spec: InterfaceSpec, op: Move) -> None:
        _log(spec, op)
        self._outside(
            lambda kernel: kernel.move(_existing(kernel, spec.mac), self._namespace.path, op)
        )

    def _rescan(self) -> None:
        # The kernel sometimes misses that a device was plugged in.
        if not self._pci_rescan.exists():
            return
        try:
            self._pci_rescan.write_text("1")
        except OSError as error:
            logger.warning("PCI rescan: %s", error)

    def _inside(self, function: Callable[[Netlink], T]) -> T:
        return self._namespace.run(lambda: self._outside(function))

    def _outside(self, function: Callable[[Netlink], T]) -> T:
        with Netlink(self._clock) as kernel:
            return function(kernel)


def _existing(kernel: Netlink, mac: Mac) -> Link:
    link = kernel.link_of(mac)
    if link is None:
        raise NotFound(f"No port {mac}", "No suitable network interface found")
    return link


def _apply_each(
    kernel: Netlink, spec: InterfaceSpec, ops: NetOps, before_up: Callable[[], None] | None
) -> set[Route]:
    link = _existing(kernel, spec.mac)
    refused = set()
    for op in ops:
        if isinstance(op, SetUp) and before_up:
            before_up()
        _log(spec, op)
        try:
            kernel.apply(link, op)
        except OperationFailed as error:
            if not isinstance(op, AddRoute) or op.route not in spec.optional:
                raise
            logger.error("%s; the subnet's host route is left out", error)
            refused.add(op.route)
    return refused


def _without(refused: set[Route], ops: NetOps) -> NetOps:
    return tuple(op for op in ops if not (isinstance(op, AddRoute) and op.route in refused))


def _log(spec: InterfaceSpec, op: NetOp) -> None:
    logger.info("%s (%s): %s", spec.name, spec.mac, op)
