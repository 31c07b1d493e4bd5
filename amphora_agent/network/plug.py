"""The service: ports plugged, remembered, restored, looked up and counted.

A plug is one sequence, whatever was there before: decode, compute the spec, wait for the port,
write the record, then make the kernel agree by the difference. A repeated plug finds no
difference; one that was interrupted anywhere is completed by its repetition.
"""

import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from amphora_agent.errors import AgentError, Conflict, InvalidRequest, NotFound, OperationFailed
from amphora_agent.model.addressing import Address, Interface, Mac, parse_address
from amphora_agent.model.decode import decode
from amphora_agent.model.plugging import NetworkPlug, PluggedVip, VipPlug
from amphora_agent.namespace import Namespace
from amphora_agent.network import netns
from amphora_agent.network.interface import (
    VIP_INTERFACE,
    InterfaceSpec,
    interface_spec,
    refuse_dhcp,
)
from amphora_agent.network.record import Record, Records

if TYPE_CHECKING:
    from amphora_agent.network.reconcile import Reconciler
    from amphora_agent.network.rtnetlink import Link

logger = logging.getLogger(__name__)

_INTERFACE = re.compile(r"eth[1-9][0-9]*")


class Network:
    """The amphora's network. Its methods may be called by many threads at once.

    Args:
        namespace: the amphora's, made when missing.
        records: the directory of what has been plugged.
        clock: monotonic seconds.
        port_timeout: seconds to wait for a port that was promised and has not appeared.
        pci_rescan: the kernel's file that makes it look for new devices.
    """

    def __init__(
        self,
        namespace: Namespace,
        records: Path,
        clock: Callable[[], float] = time.monotonic,
        port_timeout: float = 5.0,
        pci_rescan: Path = Path("/sys/bus/pci/rescan"),
    ) -> None:
        self._namespace = namespace
        self._records = Records(records)
        self._clock = clock
        self._port_timeout = port_timeout
        self._pci_rescan = pci_rescan
        #: Held while a name is chosen and written down: no two ports ever get the same.
        self._naming = threading.Lock()
        self._ports: dict[Mac, threading.Lock] = {}

    def ensure_namespace(self) -> bool:
        """Make the namespace, with `lo` up, unless it is there; True when it was made.

        Raises:
            OperationFailed: the kernel refuses.
        """
        return netns.ensure(self._namespace)

    def plug_vip(self, vip: str, body: bytes, *, single: bool) -> str:
        """Plug the port of `body` as the VIP interface, and return what was done.

        Raises:
            InvalidRequest: `vip` or `body` is wrong.
            NotSupported: it would take DHCP.
            NotFound: there is no port with that MAC address, not even after a wait.
            Conflict: another port is the VIP interface.
            OperationFailed: the kernel or the disk refuses; repeating may help.
        """
        address = _parse("Invalid VIP", vip)
        sent = decode(body, VipPlug)
        try:
            plugged = PluggedVip(vip=address, **msgspec.structs.asdict(sent))
        except ValueError as error:
            raise InvalidRequest("Invalid VIP", str(error)) from None
        with self._port(sent.mac_address):
            earlier = self._records.get(sent.mac_address) or Record(
                mac=sent.mac_address, name=VIP_INTERFACE
            )
            wanted = msgspec.structs.replace(earlier, name=VIP_INTERFACE, vip=plugged)
            self._plug(wanted, single=single)
        addresses = ", ".join(each.ip_address.exploded for each in plugged.vips)
        return f"VIPs plugged on interface {VIP_INTERFACE}: {addresses}"

    def plug_network(self, body: bytes, *, single: bool) -> str:
        """Plug the port of `body` as an interface of members, and return what was done.

        Raises: as `plug_vip`.
        """
        sent = decode(body, NetworkPlug)
        with self._port(sent.mac_address):
            earlier = self._records.get(sent.mac_address) or Record(mac=sent.mac_address, name="")
            vip = _merged(earlier.vip, sent.vip_net_info)
            wanted = msgspec.structs.replace(
                earlier,
                name=VIP_INTERFACE if vip else earlier.name,
                vip=vip,
                network=msgspec.structs.replace(sent, vip_net_info=None),
            )
            name, moved = self._plug(wanted, single=single)
        return f"Plugged on interface {name}" if moved else f"Updated existing interface {name}"

    def interface_of(self, address: str) -> str:
        """The name of the interface in the namespace that has `address`, in any textual form.

        Raises:
            InvalidRequest: it is not an address.
            NotFound: no interface has it.
        """
        wanted = _parse("Invalid IP address", address)
        name = self._kernel.holder_of(wanted) if self._namespace.exists() else None
        if name is None:
            raise NotFound("Error interface not found for IP address", str(wanted))
        return name

    def counters(self) -> dict[str, dict[str, int]]:
        """Bytes sent and received by each `eth*` in the namespace, since it was made.

        `{"eth1": {"network_tx": 1, "network_rx": 2}}`; empty while there is no namespace.
        """
        if not self._namespace.exists():
            return {}
        text = self._namespace.run(Path("/proc/thread-self/net/dev").read_text)
        counted = {}
        for line in text.splitlines()[2:]:
            name, _, numbers = line.strip().partition(":")
            if _INTERFACE.fullmatch(name):
                fields = numbers.split()
                counted[name] = {"network_tx": int(fields[8]), "network_rx": int(fields[0])}
        return counted

    def restore(self, *, single: bool) -> None:
        """Make the namespace and every remembered interface what they were, as at a boot.

        Nothing is changed that is as it should be. A port that is missing or cannot be configured
        is logged, and the next one is seen to.

        Raises:
            OperationFailed: there is no namespace and none can be made.
        """
        booting = self.ensure_namespace()
        records = self._records.all()
        # After a boot devices may still be appearing; later on, what is missing is gone. All share
        # one deadline.
        deadline = self._clock() + (self._port_timeout if booting else 0.0)
        for record in records:
            try:
                with self._port(record.mac):
                    # It may have been plugged anew since the list was made.
                    if current := self._records.get(record.mac):
                        self._plug(current, single=single, deadline=deadline)
            except AgentError as error:
                logger.error("%s (%s) is not restored: %s", record.name, record.mac, error)
            except Exception:  # whatever is wrong with one interface, the others must work
                logger.exception("%s (%s) is not restored", record.name, record.mac)

    @functools.cached_property
    def _kernel(self) -> "Reconciler":
        # Imports the netlink library, which costs 130 ms and 12 MB: only when there is something
        # to do for it.
        from amphora_agent.network.reconcile import Reconciler

        return Reconciler(self._namespace, self._clock, self._pci_rescan)

    def _port(self, mac: Mac) -> threading.Lock:
        """Held during a plug: two of one port follow one another."""
        with self._naming:
            return self._ports.setdefault(mac, threading.Lock())

    def _plug(
        self, wanted: Record, *, single: bool, deadline: float | None = None
    ) -> tuple[str, bool]:
        """Make the port what `wanted` says; returns its name, and whether it was moved in."""
        refuse_dhcp(wanted.vip, wanted.network)
        self.ensure_namespace()
        if deadline is None:
            deadline = self._clock() + self._port_timeout
        self._kernel.await_port(wanted.mac, deadline)
        try:
            record, spec = self._remember(wanted, single=single)
            moved = self._kernel.converge(spec)
            # Nothing that was retired is there any more.
            self._records.put(msgspec.structs.replace(record, owned=_addresses(spec)))
        except OSError as error:
            raise OperationFailed("Cannot plug the port", str(error)) from error
        return spec.name, moved

    def _remember(self, wanted: Record, *, single: bool) -> tuple[Record, InterfaceSpec]:
        """Settle the name and write the record, before the kernel is touched."""
        with self._naming:
            links = self._kernel.links()
            name = wanted.name or self._name_for(wanted.mac, links)
            if name == VIP_INTERFACE:
                self._refuse_second_vip_port(wanted.mac, links)
            spec = interface_spec(
                wanted.mac,
                name,
                vip=wanted.vip,
                network=wanted.network,
                single=single,
                owned=wanted.owned,
            )
            owned = (*_addresses(spec), *sorted(spec.retired, key=str))
            record = msgspec.structs.replace(wanted, name=name, owned=owned)
            self._records.put(record)
        return record, spec

    def _name_for(self, mac: Mac, links: "Iterable[Link]") -> str:
        """The name that the port has already, or the first `ethN` for members that is free."""
        taken = {record.name for record in self._records.all()}
        for link in links:
            if link.mac == mac and _INTERFACE.fullmatch(link.name) and link.name not in taken:
                return link.name
            taken |= {link.name, *link.alternative_names}
        number = 2
        while f"eth{number}" in taken:
            number += 1
        return f"eth{number}"

    def _refuse_second_vip_port(self, mac: Mac, links: "Iterable[Link]") -> None:
        """Raises Conflict when another port than `mac` is the VIP interface."""
        names = {record.mac: record.name for record in self._records.all() if record.mac != mac}
        for other, name in names.items():
            if name == VIP_INTERFACE:
                if self._kernel.exists(other):
                    raise Conflict("Interface already exists", f"{VIP_INTERFACE} is port {other}")
                logger.warning("port %s, once %s, is gone: forgotten", other, VIP_INTERFACE)
                self._records.remove(other)
        for link in links:
            # One that only strayed to this name, and is remembered by another, makes way.
            if link.name == VIP_INTERFACE and link.mac != mac and link.mac not in names:
                raise Conflict("Interface already exists", f"{VIP_INTERFACE} is port {link.mac}")


def _parse(message: str, text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise InvalidRequest(message, str(error)) from None


def _addresses(spec: InterfaceSpec) -> tuple[Interface, ...]:
    return tuple(address.interface for address in spec.addresses)


def _merged(earlier: PluggedVip | None, sent: PluggedVip | None) -> PluggedVip | None:
    """The VIP of a port on which a member network is plugged.

    The controller sends the VIP again with it, and always without the additional ones.
    """
    if earlier is None or sent is None:
        return sent or earlier
    return msgspec.structs.replace(
        sent,
        additional_vips=sent.additional_vips or earlier.additional_vips,
        is_sriov=sent.is_sriov or earlier.is_sriov,
    )
