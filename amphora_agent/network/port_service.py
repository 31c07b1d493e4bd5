"""Ports made what their records say, by whoever comes: a plug, a boot, a new lease, an operator.

It is one sequence, whatever was there before: wait for the port, write the record, set the
firewall, make the interface agree, see to its DHCP client. Repeated, it finds no difference; what
was interrupted anywhere is completed by its repetition. Other processes may do the same at the
same time: the locks are files.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from amphora_agent import files
from amphora_agent.errors import Conflict, NotFound, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.addressing import Address, Interface, Mac
from amphora_agent.model.plugging import InterfaceRule
from amphora_agent.namespace import Namespace
from amphora_agent.network.dhcp_leases import Leases
from amphora_agent.network.namespace_reconciler import NamespaceReconciler
from amphora_agent.network.plan.diff import Move, NetOp
from amphora_agent.network.plan.firewall_rules import Port, Ruleset, ruleset
from amphora_agent.network.plan.interface import (
    VIP_INTERFACE,
    InterfaceSpec,
    interface_spec,
    nothing,
)
from amphora_agent.network.plan.namespace_settings import NamespaceOp
from amphora_agent.network.port_record import Record, Records

if TYPE_CHECKING:
    from amphora_agent.network.dhcp_client import DhcpClients
    from amphora_agent.network.netlink.messages import Link
    from amphora_agent.network.reconciler import Reconciler

logger = logging.getLogger(__name__)

#: The names of plugged interfaces.
INTERFACE = re.compile(r"eth[1-9][0-9]*")


@dataclass(frozen=True)
class Patience:
    """How long, in seconds, one waits for what is not there yet.

    port: a network card that was promised. address: the answer of a DHCP server or a router.
    """

    port: float = 5.0
    address: float = 10.0


@dataclass(frozen=True)
class Settled:
    """How it ended for a port: its record, the addresses it has, and what was done for that."""

    record: Record
    addresses: tuple[Address, ...]
    done: tuple[NetOp, ...]

    @property
    def moved(self) -> bool:
        """Whether the interface has just come into the namespace."""
        return any(isinstance(op, Move) for op in self.done)


class Ports:
    """The ports of the amphora. Its methods may be called by many threads at once.

    Args:
        namespace: the amphora's. It exists.
        dhcp: the clients of DHCP; None in a command that ends.
        locks: the directory of the locks.
        clock: monotonic seconds.
        pci_rescan: the kernel's file that makes it look for new devices.
    """

    def __init__(
        self,
        namespace: Namespace,
        records: Records,
        leases: Leases,
        dhcp: "DhcpClients | None",
        alarms: Alarms,
        *,
        locks: Path,
        patience: Patience,
        clock: Callable[[], float],
        pci_rescan: Path,
    ) -> None:
        self.records = records
        self._namespace = namespace
        self._namespace_reconciler = NamespaceReconciler(namespace, alarms)
        self._leases = leases
        self._dhcp = dhcp
        self._locks = locks
        self._patience = patience
        self._clock = clock
        self._pci_rescan = pci_rescan

    @functools.cached_property
    def kernel(self) -> "Reconciler":
        # Imports the netlink library: only when there is something to do for it.
        from amphora_agent.network.reconciler import Reconciler

        return Reconciler(self._namespace, self._clock, self._pci_rescan)

    def settle(
        self,
        mac: Mac,
        change: Callable[[Record | None], Record],
        *,
        single: bool,
        deadline: float | None = None,
        before_up: Callable[[], None] | None = None,
    ) -> Settled:
        """Make the port what `change` makes of its record (None: it has none yet).

        Args:
            deadline: until when to wait for the port, on the clock.
            before_up: sees to the firewall, for whoever settles many ports at once; called before
                the interface comes up.

        Raises:
            NotFound: there is no such port, not even after a wait.
            Conflict: another port is the VIP interface.
            OperationFailed: the kernel or the disk refuses, an address is a duplicate, or none
                came by DHCP. Repeating may help.
        """
        if deadline is None:
            deadline = self._clock() + self._patience.port
        try:
            with self._port(mac):
                wanted = change(self.records.get(mac))
                self._await_port(wanted, deadline)
                return self._settle(wanted, single=single, before_up=before_up)
        except OSError as error:
            raise OperationFailed("Cannot configure the port", str(error)) from error

    def take_down(self, mac: Mac, *, single: bool) -> None:
        """Take our things from the interface and set it down, until it is settled again.

        Raises:
            NotFound: the port is not known, or not there.
            OperationFailed: the kernel refuses.
        """
        with self._port(mac):
            record = self._existing(mac)
            if self._dhcp:
                self._dhcp.stop(record.name)
            self.kernel.converge(nothing(self.spec(record, single=single)))

    def set_rules(self, mac: Mac, rules: tuple[InterfaceRule, ...]) -> None:
        """Let only what the rules allow into the interface from now on.

        Raises:
            NotFound: the port is not known.
            OperationFailed: they cannot be applied; the earlier ones stay.
        """
        with self._port(mac), self._locked("firewall"):
            record = msgspec.structs.replace(self._existing(mac), rules=rules)
            self._namespace_reconciler.apply(self.ruleset(record))
            self.records.put(record)

    def guard(self, *, fresh: bool = False) -> None:
        """Apply the firewall and the settings that all interfaces share; only these while no port
        is remembered.

        Args:
            fresh: the namespace has just been made; there is nothing to be looked at.

        Raises:
            OperationFailed: the kernel refuses.
        """
        # Made from the records under the lock: of two, the second has seen what the first has.
        with self._locked("firewall"):
            self._namespace_reconciler.apply(self._wanted_ruleset(), fresh=fresh)

    def spec(self, record: Record, *, single: bool) -> InterfaceSpec:
        """What the interface of a port must have, now."""
        return interface_spec(
            record.mac,
            record.name,
            vip=record.vip,
            network=record.network,
            single=single,
            lease=self._leases.get(record.mac),
            owned=record.owned,
        )

    def ruleset(self, *changed: Record) -> Ruleset:
        """The firewall of all ports, with some of them as in `changed`."""
        records = {record.mac: record for record in (*self.records.all(), *changed)}
        return ruleset(
            Port(record.name, (record.rules or ()) if record.guarded else None)
            for record in records.values()
        )

    def shared_ops(self) -> tuple[NamespaceOp, ...]:
        """What `guard` would do."""
        return self._namespace_reconciler.plan(self._wanted_ruleset())

    def _wanted_ruleset(self) -> Ruleset | None:
        return self.ruleset() if self.records.all() else None

    # One port

    def _await_port(self, record: Record, deadline: float) -> None:
        try:
            self.kernel.await_port(record.mac, deadline)
        except NotFound:
            if known := self.records.get(record.mac):
                # Not waited for again, and its name is free for others.
                self.records.put(msgspec.structs.replace(known, missing=True))
                if self._dhcp:
                    self._dhcp.stop(known.name)
            raise

    def _settle(
        self, wanted: Record, *, single: bool, before_up: Callable[[], None] | None
    ) -> Settled:
        record, spec = self._remember(wanted, single=single)
        if before_up is None:
            self.guard()
        done = self.kernel.converge(spec, before_up)
        if spec.dhcp or record.name in (self._dhcp.interfaces() if self._dhcp else ()):
            moved = any(isinstance(op, Move) for op in done)
            self._see_to_client(spec, moved=moved)
            if spec.dhcp:
                self._await_address(spec)
                record, spec = self._remember(record, single=single)
                done += self.kernel.converge(spec)
        # Nothing that was retired is there any more.
        record = msgspec.structs.replace(record, owned=_interfaces(spec))
        self.records.put(record)
        return Settled(record, tuple(each.ip for each in record.owned), done)

    def _see_to_client(self, spec: InterfaceSpec, *, moved: bool) -> None:
        if self._dhcp is None:
            return
        if not spec.dhcp:
            self._dhcp.forget(spec.mac, spec.name)
        elif moved:
            self._dhcp.restart(spec.mac, spec.name)
        else:
            self._dhcp.start(spec.mac, spec.name)

    def _await_address(self, spec: InterfaceSpec) -> None:
        """Return when the interface has got an address, by DHCP or from a router."""
        if self._dhcp is None:
            return  # whoever keeps the client makes the interface agree when the lease comes
        deadline = self._clock() + self._patience.address
        while self._leases.get(spec.mac) is None and not self.kernel.has_learned_address(spec):
            if self._clock() >= deadline:
                raise OperationFailed(
                    "No address", f"{spec.name}: neither a DHCP server nor a router gave any"
                )
            self._leases.wait_for(spec.mac, min(deadline, self._clock() + 0.2))

    def _remember(self, wanted: Record, *, single: bool) -> tuple[Record, InterfaceSpec]:
        """Settle the name and write the record, before the kernel is touched."""
        if wanted == self.records.get(wanted.mac):
            return self._write_down(wanted, single=single)
        with self._locked("names"):
            name = self._settle_name(wanted)
            return self._write_down(msgspec.structs.replace(wanted, name=name), single=single)

    def _write_down(self, wanted: Record, *, single: bool) -> tuple[Record, InterfaceSpec]:
        spec = self.spec(wanted, single=single)
        owned = (*_interfaces(spec), *sorted(spec.retired, key=str))
        record = msgspec.structs.replace(wanted, missing=False, owned=owned)
        self.records.put(record)
        return record, spec

    def _settle_name(self, wanted: Record) -> str:
        """The name of the interface, which no other port has from now on.

        Raises:
            Conflict: it is the VIP interface, and another port is that.
        """
        links = self.kernel.links()
        name = wanted.name or self._name_for(wanted.mac, links)
        others = [record for record in self.records.all() if record.mac != wanted.mac]
        if name == VIP_INTERFACE:
            self._refuse_second_vip_port(wanted.mac, links, others)
        for other in others:
            if other.name == name:
                logger.warning("port %s, once %s, is gone: forgotten", other.mac, name)
                self.records.remove(other.mac)
        return name

    def _name_for(self, mac: Mac, links: "Iterable[Link]") -> str:
        """The name that the port has already, or the first `ethN` for members that is free."""
        taken = {record.name for record in self.records.all() if not self._is_gone(record)}
        for link in links:
            if link.mac == mac and INTERFACE.fullmatch(link.name) and link.name not in taken:
                return link.name
            taken |= {link.name, *link.alternative_names}
        number = 2
        while f"eth{number}" in taken:
            number += 1
        return f"eth{number}"

    def _refuse_second_vip_port(
        self, mac: Mac, links: "Iterable[Link]", others: Iterable[Record]
    ) -> None:
        """Raises Conflict when another port than `mac` is the VIP interface."""
        names = {record.mac: record.name for record in others}
        for other, name in names.items():
            if name == VIP_INTERFACE and self.kernel.exists(other):
                raise Conflict("Interface already exists", f"{VIP_INTERFACE} is port {other}")
        for link in links:
            # One that only strayed to this name, and is remembered by another, makes way.
            if link.name == VIP_INTERFACE and link.mac != mac and link.mac not in names:
                raise Conflict("Interface already exists", f"{VIP_INTERFACE} is port {link.mac}")

    def _is_gone(self, record: Record) -> bool:
        return record.missing and not self.kernel.exists(record.mac)

    def _existing(self, mac: Mac) -> Record:
        record = self.records.get(mac)
        if record is None:
            raise NotFound("Port Not Found", f"no port {mac} is plugged")
        return record

    def _port(self, mac: Mac) -> AbstractContextManager[None]:
        """Held during a change of one port: two follow one another."""
        return self._locked(mac.replace(":", "-"))

    def _locked(self, name: str) -> AbstractContextManager[None]:
        files.make_directory(self._locks)
        return files.locked(self._locks / f"{name}.lock")


def _interfaces(spec: InterfaceSpec) -> tuple[Interface, ...]:
    return tuple(address.interface for address in spec.addresses)
