"""Reconcile a port with its record: at a plug, a boot, a new lease, an operator's command.

The sequence is always the same: wait for the port, write the record, set the firewall, reconcile
the interface, start or stop its DHCP client. A repetition finds no difference, or completes what
was interrupted. Other processes may do the same at the same time: the locks are files.
"""

import itertools
import logging
import re
import time
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
from amphora_agent.model.plugging import InterfaceRule, NetworkPlug, PluggedVip
from amphora_agent.namespace import Namespace
from amphora_agent.network.namespace_reconciler import NamespaceReconciler
from amphora_agent.network.plan.diff import Move, NetOp
from amphora_agent.network.plan.firewall_rules import Port, Ruleset, build_ruleset
from amphora_agent.network.plan.interface import (
    VIP_INTERFACE,
    InterfaceSpec,
    build_interface_spec,
    remove_all,
)
from amphora_agent.network.plan.namespace_settings import NamespaceOp
from amphora_agent.network.reconciler import Reconciler
from amphora_agent.network.records import Leases, PortRecord, PortRecords, add_plug

if TYPE_CHECKING:
    from amphora_agent.network.dhcp_client import DhcpClients
    from amphora_agent.network.netlink.messages import Link

logger = logging.getLogger(__name__)

#: The names of plugged interfaces.
INTERFACE = re.compile(r"eth[1-9][0-9]*")


@dataclass(frozen=True)
class Patience:
    """Seconds to wait: for a port that is plugged into the machine late, and for the answer of a
    DHCP server or a router."""

    port: float = 5.0
    address: float = 10.0


@dataclass(frozen=True)
class Settled:
    """A reconciled port: its record, the addresses that it has, the operations done, and whether
    the interface has just been moved into the namespace."""

    record: PortRecord
    addresses: tuple[Address, ...]
    done: tuple[NetOp, ...]
    moved: bool


class Ports:
    """The ports of the amphora. Many threads may call its methods at once.

    Args:
        namespace: the amphora's, which exists.
        dhcp: the DHCP clients; None in a command that ends.
        locks: the directory of the locks.
        pci_rescan: the kernel's file that makes it look for new devices.
    """

    def __init__(
        self,
        namespace: Namespace,
        records: PortRecords,
        leases: Leases,
        dhcp: "DhcpClients | None",
        alarms: Alarms,
        *,
        locks: Path,
        patience: Patience,
        pci_rescan: Path,
    ) -> None:
        self.records = records
        self._namespace_reconciler = NamespaceReconciler(namespace, alarms)
        self._leases = leases
        self._dhcp = dhcp
        self._locks = locks
        self.patience = patience
        self.reconciler = Reconciler(namespace, pci_rescan)

    def settle(
        self,
        mac: Mac,
        plug: PluggedVip | NetworkPlug | None = None,
        *,
        single: bool,
        deadline: float | None = None,
        before_up: Callable[[], None] | None = None,
    ) -> Settled:
        """Reconcile the port with its record, to which `plug` is added first.

        Args:
            plug: what the controller plugs on the port; None reconciles a plugged port again.
            deadline: until when to wait for the port, in monotonic seconds.
            before_up: called before the interface comes up, instead of `guard`: who settles many
                ports at once has the firewall set once.

        Raises:
            NotFound: there is no such port, not even after a wait; or nothing is plugged on it.
            Conflict: another port is the VIP interface.
            OperationFailed: the kernel or the disk refuses, an address is a duplicate, or none
                came by DHCP. Repeating may help.
        """
        if deadline is None:
            deadline = time.monotonic() + self.patience.port
        try:
            with self._lock(mac):
                if plug is None:
                    record = self.records.require(mac)
                else:
                    record = add_plug(self.records.get(mac), plug)
                self._await_port(record, deadline)
                return self._settle(record, single=single, before_up=before_up)
        except OSError as error:
            raise OperationFailed("Cannot configure the port", str(error)) from error

    def take_down(self, mac: Mac, *, single: bool) -> None:
        """Remove the agent's addresses, routes and rules from the interface and set it down, until
        it is settled again.

        Raises:
            NotFound: nothing is plugged on the port, or there is no such port.
            OperationFailed: the kernel refuses.
        """
        with self._lock(mac):
            record = self.records.require(mac)
            if self._dhcp:
                self._dhcp.stop(record.name)
            self.reconciler.converge(remove_all(self.build_spec(record, single=single)))

    def set_rules(self, mac: Mac, rules: tuple[InterfaceRule, ...]) -> None:
        """Let only what the rules allow into the interface.

        Raises:
            NotFound: nothing is plugged on the port.
            OperationFailed: they cannot be applied; the earlier ones stay.
        """
        with self._lock(mac), self._lock("firewall"):
            record = msgspec.structs.replace(self.records.require(mac), rules=rules)
            self._namespace_reconciler.apply(self._build_ruleset(record))
            self.records.put(record)

    def guard(self, *, fresh: bool = False) -> None:
        """Set the firewall and the settings of the namespace; only the settings if no port is
        plugged.

        Args:
            fresh: the namespace is new: there is no firewall to compare with.

        Raises:
            OperationFailed: the kernel refuses.
        """
        # Under the lock: of two callers, the second has the records of the first.
        with self._lock("firewall"):
            self._namespace_reconciler.apply(self._build_ruleset(), fresh=fresh)

    def build_spec(self, record: PortRecord, *, single: bool) -> InterfaceSpec:
        """Return what the interface of a port must have now."""
        return build_interface_spec(
            record.mac,
            record.name,
            vip=record.vip,
            network=record.network,
            single=single,
            lease=self._leases.get(record.mac),
            owned=record.owned,
        )

    def _build_ruleset(self, *changed: PortRecord) -> Ruleset | None:
        """Return the firewall of all ports, of which `changed` replace their records; None if no
        port is plugged."""
        records = {record.mac: record for record in (*self.records.all(), *changed)}
        if not records:
            return None
        return build_ruleset(
            Port(record.name, (record.rules or ()) if record.guarded else None)
            for record in records.values()
        )

    def plan_guard(self) -> tuple[NamespaceOp, ...]:
        """Return what `guard` would do."""
        return self._namespace_reconciler.plan(self._build_ruleset())

    # One port

    def _await_port(self, record: PortRecord, deadline: float) -> None:
        try:
            self.reconciler.await_port(record.mac, deadline)
        except NotFound:
            if known := self.records.get(record.mac):
                # The next call does not wait for it, and its name is free for others.
                self.records.put(msgspec.structs.replace(known, missing=True))
                if self._dhcp:
                    self._dhcp.stop(known.name)
            raise

    def _settle(
        self, record: PortRecord, *, single: bool, before_up: Callable[[], None] | None
    ) -> Settled:
        record, spec = self._write_record(record, single=single)
        if before_up is None:
            self.guard()
        done = self.reconciler.converge(spec, before_up)
        moved = any(isinstance(op, Move) for op in done)
        if spec.dhcp or record.name in (self._dhcp.interfaces() if self._dhcp else ()):
            self._reconcile_client(spec, moved=moved)
            if spec.dhcp:
                self._await_address(spec)
                record, spec = self._write_record(record, single=single)
                done += self.reconciler.converge(spec)
        # The addresses that were retired are gone.
        record = msgspec.structs.replace(record, owned=_list_interfaces(spec))
        self.records.put(record)
        return Settled(record, tuple(each.ip for each in record.owned), done, moved)

    def _reconcile_client(self, spec: InterfaceSpec, *, moved: bool) -> None:
        if self._dhcp is None:
            return
        if not spec.dhcp:
            self._dhcp.forget(spec.mac, spec.name)
        elif moved:
            self._dhcp.restart(spec.mac, spec.name)
        else:
            self._dhcp.start(spec.mac, spec.name)

    def _await_address(self, spec: InterfaceSpec) -> None:
        """Wait until the interface has an address, by DHCP or from a router."""
        if self._dhcp is None:
            return  # the agent that runs the client reconciles the port when the lease comes
        deadline = time.monotonic() + self.patience.address
        while self._leases.get(spec.mac) is None and not self.reconciler.has_learned_address(spec):
            if time.monotonic() >= deadline:
                raise OperationFailed(
                    "No address", f"{spec.name}: neither a DHCP server nor a router gave any"
                )
            self._leases.wait_for(spec.mac, min(deadline, time.monotonic() + 0.2))

    def _write_record(
        self, wanted: PortRecord, *, single: bool
    ) -> tuple[PortRecord, InterfaceSpec]:
        """Give the port its name and write the record, before the kernel is changed."""
        if wanted == self.records.get(wanted.mac):
            return self._put_record(wanted, single=single)
        with self._lock("names"):
            named = msgspec.structs.replace(wanted, name=self._settle_name(wanted))
            return self._put_record(named, single=single)

    def _put_record(self, wanted: PortRecord, *, single: bool) -> tuple[PortRecord, InterfaceSpec]:
        spec = self.build_spec(wanted, single=single)
        owned = (*_list_interfaces(spec), *sorted(spec.retired, key=str))
        record = msgspec.structs.replace(wanted, missing=False, owned=owned)
        self.records.put(record)
        return record, spec

    def _settle_name(self, wanted: PortRecord) -> str:
        """Return the name of the interface, and forget other ports that had it.

        Raises:
            Conflict: another port is the VIP interface.
        """
        links = self.reconciler.links()
        name = wanted.name or self._find_name(wanted.mac, links)
        others = [record for record in self.records.all() if record.mac != wanted.mac]
        namesakes = [record for record in others if record.name == name]
        if name == VIP_INTERFACE:
            rivals: list[str] = [
                other.mac for other in namesakes if self.reconciler.exists(other.mac)
            ]
            # A plugged port that has this name by mistake is renamed.
            plugged = {wanted.mac, *(record.mac for record in others)}
            rivals += [link.mac for link in links if link.name == name and link.mac not in plugged]
            if rivals:
                raise Conflict("Interface already exists", f"{name} is port {rivals[0]}")
        for other in namesakes:
            logger.warning("port %s, once %s, is gone: its record is removed", other.mac, name)
            self.records.remove(other.mac)
        return name

    def _find_name(self, mac: Mac, links: "Iterable[Link]") -> str:
        """Return the name that the port has, or the first free `ethN` for members."""
        taken = {
            record.name
            for record in self.records.all()
            if not record.missing or self.reconciler.exists(record.mac)
        }
        for link in links:
            if link.mac == mac and INTERFACE.fullmatch(link.name) and link.name not in taken:
                return link.name
            taken |= {link.name, *link.alternative_names}
        names = (f"eth{number}" for number in itertools.count(2))
        return next(name for name in names if name not in taken)

    def _lock(self, name: str) -> AbstractContextManager[None]:
        """Hold off others: of a port (its MAC address), of "names", or of "firewall"."""
        files.make_directory(self._locks)
        return files.locked(self._locks / f"{name.replace(':', '-')}.lock")


def _list_interfaces(spec: InterfaceSpec) -> tuple[Interface, ...]:
    return tuple(address.interface for address in spec.addresses)
