"""DHCP leases on disk: they outlive the client, the agent and the machine, until they expire."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import InvalidRequest
from amphora_agent.model.addressing import Mac
from amphora_agent.model.decode import decode, encode
from amphora_agent.network.plan.dhcp_lease import Lease, parse_lease

logger = logging.getLogger(__name__)

#: Seconds between two looks for a lease.
_LOOK = 0.02


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
        path = self.path(mac)
        try:
            lease = decode(path.read_bytes(), Lease)
        except FileNotFoundError:
            return None
        except (OSError, InvalidRequest) as error:
            logger.error("%s cannot be read and is left aside: %s", path, error)
            return None
        return lease if lease.expires > self._now() else None

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
        return self.directory / f"{mac.replace(':', '-')}.json"

    def _put(self, mac: Mac, lease: Lease) -> None:
        earlier = self.get(mac)
        files.write(self.path(mac), encode(lease))
        if earlier is None or msgspec.structs.replace(earlier, expires=lease.expires) != lease:
            logger.info("%s: DHCP lease %s", mac, lease)
