"""Announce addresses to the neighbours in several rounds, in the background.

Each round looks at its addresses first. It leaves out one that the interface does not have, or
whose duplicate-address detection has not ended well: the host that has it would lose its traffic.
Binding a socket would not tell, since `ip_nonlocal_bind` is set.
"""

import logging
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from amphora_agent.errors import OperationFailed
from amphora_agent.model.addressing import Address, parse_mac
from amphora_agent.namespace import Namespace
from amphora_agent.network.plan.announcement import build_frames

logger = logging.getLogger(__name__)

#: Seconds between rounds. A neighbour advertisement may be sent three times, one second apart at
#: least (MAX_NEIGHBOR_ADVERTISEMENT and RetransTimer, RFC 4861, 7.2.6 and 10).
PAUSES = (1.0, 3.0)


def announce_once(namespace: Namespace, interface: str, addresses: Iterable[Address]) -> None:
    """Announce addresses in one round and return. An address that cannot be announced is logged."""
    for address, reason in _send(namespace, interface, addresses).items():
        _warn(interface, address, reason)


@dataclass
class _Announcement:
    """The rest of an announcement: the time of its next round, and the pauses after that.

    One that is requested again begins anew, not before `earliest`.
    """

    due: float
    earliest: float
    pauses: Sequence[float]
    complained: bool = False


class Announcer:
    """Announces addresses of interfaces in `namespace`. Many threads may call it.

    A thread of its own works while there is something to announce. Threads do not survive a fork:
    announce only after it.

    Args:
        pauses: seconds between the rounds of an announcement.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        namespace: Namespace,
        pauses: Sequence[float] = PAUSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._namespace = namespace
        self._pauses = pauses
        self._clock = clock
        self._changed = threading.Condition()
        self._under_way: dict[tuple[str, Address], _Announcement] = {}
        self._working = False

    def announce(self, interface: str, addresses: Iterable[Address]) -> None:
        """Announce addresses in the background, and return at once.

        An announcement under way begins anew after its first pause: calling this often does not
        flood the network.
        """
        with self._changed:
            now = self._clock()
            for address in addresses:
                key = interface, address
                earlier = self._under_way.get(key)
                due = earlier.earliest if earlier else now
                self._under_way[key] = _Announcement(due, due, self._pauses)
            if self._under_way and not self._working:
                threading.Thread(target=self._work, name="announcer", daemon=True).start()
                self._working = True
            self._changed.notify()

    def _work(self) -> None:
        """Send the rounds that are due, until none is left."""
        while True:
            with self._changed:
                if not self._under_way:
                    self._working = False
                    return
                now = self._clock()
                due = {key: rest for key, rest in self._under_way.items() if rest.due <= now}
                if not due:
                    first = min(rest.due for rest in self._under_way.values())
                    self._changed.wait(first - now)
                    continue
                for key, rest in due.items():
                    self._schedule_next(key, rest, now)
            self._send_round(due)

    def _schedule_next(self, key: tuple[str, Address], rest: _Announcement, now: float) -> None:
        if not rest.pauses:
            del self._under_way[key]
            return
        rest.earliest = now + self._pauses[0]
        rest.due = now + rest.pauses[0]
        rest.pauses = rest.pauses[1:]

    def _send_round(self, due: Mapping[tuple[str, Address], _Announcement]) -> None:
        by_interface = defaultdict(list)
        for interface, address in due:
            by_interface[interface].append(address)
        for interface, addresses in by_interface.items():
            for address, reason in _send(self._namespace, interface, addresses).items():
                announcement = due[interface, address]
                if not announcement.complained:
                    announcement.complained = True
                    _warn(interface, address, reason)


def _send(namespace: Namespace, interface: str, addresses: Iterable[Address]) -> dict[Address, str]:
    """Send one round; return the reason for each address that was not announced. Never raises."""
    addresses = tuple(addresses)
    try:
        return namespace.run(lambda: _send_inside(interface, addresses))
    except Exception as error:  # the change stays, and other addresses must be announced
        return dict.fromkeys(addresses, str(error) or repr(error))


def _send_inside(interface: str, addresses: Sequence[Address]) -> dict[Address, str]:
    # Costs memory and time: loaded only when there is something to announce.
    from amphora_agent.network.netlink.links import Netlink

    with Netlink(time.monotonic) as netlink:
        link = next((link for link in netlink.links() if link.is_called(interface)), None)
        if link is None:
            raise OperationFailed("there is no such interface")
        held = {address.interface.ip: address for address in netlink.read_state(link, ()).addresses}
    mac = parse_mac(link.mac)
    refused: dict[Address, str] = {}
    # Protocol 0: it receives nothing.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.setblocking(False)  # a card that sends nothing must not block
        raw.bind((link.name, 0))
        for address in addresses:
            has = held.get(address)
            if has is None or has.tentative or has.failed:
                refused[address] = "the interface does not have it, or may not use it"
                continue
            try:
                for frame in build_frames(mac, address):
                    raw.send(frame)
            except OSError as error:
                refused[address] = str(error)
    if announced := [str(address) for address in addresses if address not in refused]:
        logger.info("%s: announced %s", interface, ", ".join(announced))
    return refused


def _warn(interface: str, address: Address, reason: str) -> None:
    logger.warning("%s: %s is not announced: %s", interface, address, reason)
