"""The records of plugged ports and their DHCP leases, on disk: files named by MAC addresses.

A record of a port keeps what the controller sent, not what was computed from it: each agent reads
it under the topology of its time. It is written before the kernel is changed, so that an
interrupted plug is completed by its repetition, or at the next start. A lease outlives the client,
the agent and the machine, until it expires.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from amphora_agent import files
from amphora_agent.errors import InvalidRequest, NotFound
from amphora_agent.model.addressing import Address, Interface, Mac
from amphora_agent.model.decode import decode, encode
from amphora_agent.model.plugging import InterfaceRule, NetworkPlug, PluggedVip
from amphora_agent.network.plan.interface import VIP_INTERFACE, Lease, parse_lease

T = TypeVar("T")

logger = logging.getLogger(__name__)

_FILE_NAME = re.compile(r"[0-9a-f]{2}(-[0-9a-f]{2}){5}\.json")
#: Seconds between two looks for a lease.
_LOOK = 0.02


class PortRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One port: its MAC address, its name in the namespace ("" until it has one), and its plugs.

    rules: None until the controller sends rules for the interface.
    owned: the addresses that the agent has put on the interface, or is about to.
    missing: there was no such port at the last look.
    """

    mac: Mac
    name: str
    vip: PluggedVip | None = None
    network: NetworkPlug | None = None
    rules: tuple[InterfaceRule, ...] | None = None
    owned: tuple[Interface, ...] = ()
    missing: bool = False

    @property
    def guarded(self) -> bool:
        """Whether only what rules allow may come in: nothing else filters for an SR-IOV port."""
        plugs = (self.vip, self.network)
        return self.rules is not None or any(plug and plug.is_sriov for plug in plugs)

    @property
    def vips(self) -> list[Address]:
        return [vip.ip_address for vip in self.vip.vips] if self.vip else []


class PortRecords:
    """The records below `directory`. A record that was put survives a power cut."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, mac: Mac) -> PortRecord | None:
        return _read(self._path(mac), PortRecord)

    def require(self, mac: Mac) -> PortRecord:
        """Return the record of a port.

        Raises:
            NotFound: it has none.
        """
        record = self.get(mac)
        if record is None:
            raise NotFound("Port Not Found", f"no port {mac} is plugged")
        return record

    def put(self, record: PortRecord) -> None:
        """Write a record. Raises OSError if the disk refuses; the earlier record stays."""
        if record != self.get(record.mac):
            files.write(self._path(record.mac), encode(record))

    def remove(self, mac: Mac) -> None:
        files.remove(self._path(mac))

    def all(self) -> list[PortRecord]:
        """Return the records that can be read, in the order of their interfaces' numbers."""
        records = []
        for path in sorted(self.directory.glob("*.json")):
            # The directory is a setting of the controller: it may have other files.
            if _FILE_NAME.fullmatch(path.name) and (record := _read(path, PortRecord)):
                records.append(record)
        return sorted(records, key=lambda record: (len(record.name), record.name))

    def _path(self, mac: Mac) -> Path:
        return _name_file(self.directory, mac)


def add_plug(earlier: PortRecord | None, plug: PluggedVip | NetworkPlug) -> PortRecord:
    """Return the record of a port after a plug; `earlier` is None at its first one."""
    record = earlier or PortRecord(mac=plug.mac_address, name="")
    if isinstance(plug, PluggedVip):
        return msgspec.structs.replace(record, name=VIP_INTERFACE, vip=plug)
    vip = _merge_vips(record.vip, plug.vip_net_info)
    return msgspec.structs.replace(
        record,
        name=VIP_INTERFACE if vip else record.name,
        vip=vip,
        network=msgspec.structs.replace(plug, vip_net_info=None),
    )


def _merge_vips(earlier: PluggedVip | None, sent: PluggedVip | None) -> PluggedVip | None:
    """Return the VIP of a port on which a member network is plugged.

    The controller sends the VIP again with it, and always without the additional ones.
    """
    if earlier is None or sent is None:
        return sent or earlier
    return msgspec.structs.replace(
        sent,
        additional_vips=sent.additional_vips or earlier.additional_vips,
        is_sriov=sent.is_sriov or earlier.is_sriov,
    )


class Leases:
    """The leases below `directory`: one file for each port, named by its MAC address.

    Args:
        now: seconds since the epoch, by which leases expire.
        clock: monotonic seconds, for deadlines.
    """

    def __init__(
        self,
        directory: Path,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = directory
        self._now = now
        self._clock = clock

    def get(self, mac: Mac) -> Lease | None:
        """Return the lease of a port, unless it has expired."""
        lease = _read(self.path(mac), Lease)
        return lease if lease and lease.expires > self._now() else None

    def wait_for(self, mac: Mac, deadline: float) -> Lease | None:
        """Return the lease of a port as soon as there is one; None if there is none at
        `deadline`."""
        while (lease := self.get(mac)) is None and self._clock() < deadline:
            time.sleep(_LOOK)
        return lease

    def forget(self, mac: Mac) -> bool:
        """Remove the lease of a port; return False if there was none."""
        return files.remove(self.path(mac))

    def record_event(self, mac: Mac, event: str, environment: Mapping[str, str]) -> bool:
        """Record an event of the client of a port, in udhcpc's words.

        Return whether the port is to be reconciled. It is at each renewal, also of the same lease:
        that completes what an earlier event did not.

        Raises:
            InvalidRequest: the event is unknown, or the lease invalid; the earlier lease stays.
            OSError: the disk refuses; the earlier lease stays.
        """
        match event:
            case "bound" | "renew":
                self._put(mac, parse_lease(environment, self._now()))
                return True
            case "nak":
                logger.warning("%s: the DHCP server takes its lease back", mac)
                return self.forget(mac)
            case "deconfig" | "leasefail":
                # A search begins, or ends without an answer. A client that was restarted searches,
                # too: the lease holds until it expires.
                if self.get(mac) is not None or not self.forget(mac):
                    return False
                logger.error("%s: the DHCP lease has ended, and no server answers", mac)
                return True
            case _:
                raise InvalidRequest("Unknown DHCP event", repr(event))

    def path(self, mac: Mac) -> Path:
        return _name_file(self.directory, mac)

    def _put(self, mac: Mac, lease: Lease) -> None:
        earlier = self.get(mac)
        files.write(self.path(mac), encode(lease))
        if earlier is None or msgspec.structs.replace(earlier, expires=lease.expires) != lease:
            logger.info("%s: DHCP lease %s", mac, lease)


def _name_file(directory: Path, mac: Mac) -> Path:
    return directory / f"{mac.replace(':', '-')}.json"


def _read(path: Path, kind: type[T]) -> T | None:
    """Return what a file holds; None if there is none, or one that cannot be read."""
    try:
        return decode(path.read_bytes(), kind)
    except FileNotFoundError:
        return None
    except (OSError, InvalidRequest) as error:
        logger.error("%s cannot be read and is left aside: %s", path, error)
        return None
