"""Compare what an interface must have with what it has: the difference is a list of operations.

The operations add what is missing, remove what the agent added and no longer wants, and leave the
rest. Additions come first: a change of gateway or address leaves no moment without one. After the
operations the next difference is empty.
"""

from collections.abc import Iterator
from typing import ClassVar, TypeAlias

import msgspec

from amphora_agent.model.addressing import Address, Interface
from amphora_agent.network.plan.interface import (
    OWN_PROTOCOL,
    HostAddress,
    InterfaceSpec,
    Route,
    Rule,
)


class HeldAddress(msgspec.Struct, frozen=True):
    """An address that an interface has.

    tentative: duplicate-address detection (DAD) has not ended. failed: DAD found another holder,
    and the kernel does not use the address. permanent: it has no lifetime, unlike a learned one.
    """

    interface: Interface
    deprecated: bool = False
    permanent: bool = True
    tentative: bool = False
    failed: bool = False

    @property
    def usable(self) -> bool:
        return not (self.tentative or self.failed)


class InterfaceState(msgspec.Struct, frozen=True):
    """The state of an interface. One outside the namespace (`inside`) loses everything at its move.

    `sysctls`: those that the kernel offers.
    """

    name: str
    mtu: int
    up: bool
    inside: bool = True
    addresses: frozenset[HeldAddress] = frozenset()
    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    sysctls: frozenset[tuple[str, str]] = frozenset()


class NetworkOperation(msgspec.Struct, frozen=True):
    """A change, which `text` describes with its fields."""

    text: ClassVar[str]

    def __str__(self) -> str:
        return self.text.format(self)


class Move(NetworkOperation, frozen=True):
    """Take the interface from the agent's own namespace into the amphora's."""

    text = "move {0.name} into the namespace as {0.new_name}"
    name: str
    new_name: str


class Rename(NetworkOperation, frozen=True):
    text = "rename {0.name} to {0.new_name}"
    name: str
    new_name: str


class SetMtu(NetworkOperation, frozen=True):
    text = "set mtu {0.mtu}"
    mtu: int


class SetSysctl(NetworkOperation, frozen=True):
    text = "set {0.key}={0.value}"
    key: str
    value: str


class SetUp(NetworkOperation, frozen=True):
    text = "set up"


class SetDown(NetworkOperation, frozen=True):
    text = "set down"


class AddAddress(NetworkOperation, frozen=True):
    """Add an address, or set the lifetime of one that exists."""

    text = "add address {0.address}"
    address: HostAddress


class RemoveAddress(NetworkOperation, frozen=True):
    text = "remove address {0.interface}"
    interface: Interface


class AwaitAddresses(NetworkOperation, frozen=True):
    """Wait for the end of duplicate-address detection of these addresses."""

    addresses: tuple[Address, ...]

    def __str__(self) -> str:
        return f"await {', '.join(map(str, self.addresses))}"


class AddRoute(NetworkOperation, frozen=True):
    text = "add route {0.route}"
    route: Route


class RemoveRoute(NetworkOperation, frozen=True):
    text = "remove route {0.route}"
    route: Route


class AddRule(NetworkOperation, frozen=True):
    text = "add rule {0.rule}"
    rule: Rule


class RemoveRule(NetworkOperation, frozen=True):
    text = "remove rule {0.rule}"
    rule: Rule


NetOp: TypeAlias = (
    Move
    | Rename
    | SetMtu
    | SetSysctl
    | SetUp
    | SetDown
    | AddAddress
    | RemoveAddress
    | AwaitAddresses
    | AddRoute
    | RemoveRoute
    | AddRule
    | RemoveRule
)
NetOps: TypeAlias = tuple[NetOp, ...]


def diff(desired: InterfaceSpec, actual: InterfaceState) -> NetOps:
    """Return the operations that turn `actual` into `desired`, in order.

    An interface with the wrong name is only renamed: on older kernels it loses routes and addresses
    by that, and another diff follows after another look.
    """
    if not actual.inside:
        unknown = frozenset((key, "") for key, _ in desired.sysctls)
        moved = InterfaceState(name=desired.name, mtu=actual.mtu, up=False, sysctls=unknown)
        return (Move(actual.name, desired.name), *_configure(desired, moved))
    if actual.name != desired.name:
        return (Rename(actual.name, desired.name),)
    return tuple(_configure(desired, actual))


def _configure(desired: InterfaceSpec, actual: InterfaceState) -> Iterator[NetOp]:
    if desired.mtu is not None and desired.mtu != actual.mtu:
        yield SetMtu(desired.mtu)
    has = dict(actual.sysctls)
    for key, value in desired.sysctls:
        if has.get(key, value) != value:
            yield SetSysctl(key, value)
    if desired.up and not actual.up:
        # After the sysctls: no router advertisement must come in before them.
        yield SetUp()

    held = {address.interface: address for address in actual.addresses}
    yield from _remove_obstacles(desired, held)
    for address in desired.addresses:
        if not _is_as_wanted(address, held.get(address.interface)):
            yield AddAddress(address)

    # Operations that do not need the end of DAD come before the wait, which may fail.
    routes = [route for route in desired.routes if route not in actual.routes]
    yield from (AddRoute(route) for route in routes if not _needs_dad(route))
    if desired.owns_rules:
        yield from (AddRule(rule) for rule in desired.rules if rule not in actual.rules)
    usable = {interface for interface, address in held.items() if address.usable}
    unfinished = tuple(
        address.interface.ip
        for address in desired.addresses
        if address.interface.version == 6 and address.interface not in usable
    )
    if unfinished:
        yield AwaitAddresses(unfinished)
    yield from (AddRoute(route) for route in routes if _needs_dad(route))

    if desired.owns_rules:
        for rule in sorted(actual.rules - set(desired.rules), key=str):
            if rule.protocol == OWN_PROTOCOL:
                yield RemoveRule(rule)
    for route in sorted(actual.routes - set(desired.routes), key=str):
        if route.protocol == OWN_PROTOCOL:
            yield RemoveRoute(route)
    ips = {address.interface.ip for address in desired.addresses}
    for interface in sorted(desired.retired, key=str):
        # Addresses with the ip of a wanted one are removed by _remove_obstacles.
        if interface in held and (interface.version == 4 or interface.ip not in ips):
            yield RemoveAddress(interface)
    if actual.up and not desired.up:
        yield SetDown()


def _remove_obstacles(
    desired: InterfaceSpec, held: dict[Interface, HeldAddress]
) -> Iterator[RemoveAddress]:
    """Yield removals that must come before additions."""
    wanted = {address.interface for address in desired.addresses}
    ips = {interface.ip for interface in wanted}
    for interface, address in sorted(held.items(), key=lambda item: str(item[0])):
        # DAD begins anew only for a new address.
        again = interface in wanted and address.failed
        # IPv6 allows one prefix length for an address: another one is in the way.
        other_prefix = interface.version == 6 and interface.ip in ips and interface not in wanted
        if again or other_prefix:
            yield RemoveAddress(interface)


def _is_as_wanted(address: HostAddress, held: HeldAddress | None) -> bool:
    return (
        held is not None
        and not held.failed
        and held.permanent
        and held.deprecated == address.deprecated
    )


def _needs_dad(route: Route) -> bool:
    """Return whether the kernel refuses a route before DAD of its source has ended."""
    return route.source is not None and route.source.version == 6
