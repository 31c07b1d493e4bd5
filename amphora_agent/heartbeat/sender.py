"""Send the newest readings to one controller after the other, without waiting for anything."""

import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from amphora_agent.heartbeat import message
from amphora_agent.heartbeat.memory import CounterMemory
from amphora_agent.heartbeat.message import Heartbeat
from amphora_agent.model import status
from amphora_agent.model.status import (
    ControllerEndpoint,
    ControllerFigures,
    Counters,
    HungWorker,
    InstanceReading,
    Silence,
)
from amphora_agent.settings.reader import Settings

logger = logging.getLogger(__name__)

#: The option with which the kernel reports unreachable hosts and networks, too, and not only ports
#: (linux/in.h, linux/in6.h: IP_RECVERR, IPV6_RECVERR).
_IPV4 = (socket.AF_INET, socket.IPPROTO_IP, 11)
_IPV6 = (socket.AF_INET6, socket.IPPROTO_IPV6, 25)

#: Datagrams that are dropped in one check of a socket.
_MOST_DATAGRAMS = 64


class Controllers:
    """Sends datagrams without waiting. Entries are the valid ones of `controller_ip_port_list`."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._figures: dict[str, ControllerFigures] = {}
        self._complained: set[str] = set()

    def follow(self, entries: Iterable[str]) -> None:
        """Forget controllers that are no longer among the entries."""
        wanted = set(entries)
        for entry in self._figures.keys() - wanted:
            del self._figures[entry]
            self._complained.discard(entry)
            self._close(entry)

    def send(self, entry: str, datagram: bytes, now: float) -> bool:
        """Send a datagram; return whether the kernel has taken it and reports no error."""
        figures = self._figures.setdefault(entry, ControllerFigures(entry))
        try:
            self._connect(entry).send(datagram)
        except OSError as error:
            self._note_error(entry, error, now)
            return False
        figures.sent += 1
        figures.last_sent = now
        return not self._check(entry, now)

    def failed(self, now: float) -> set[str]:
        """Return entries whose errors have arrived since the last call. Their next use makes new
        sockets."""
        return {entry for entry in [*self._sockets] if self._check(entry, now)}

    def sockets(self) -> list[socket.socket]:
        """Return the sockets, which become readable when an error arrives."""
        return [*self._sockets.values()]

    def figures(self) -> tuple[ControllerFigures, ...]:
        return tuple(self._figures.values())

    def answered(self, entry: str) -> None:
        """Note that no error has come for the last datagram."""
        if entry in self._complained:
            self._complained.discard(entry)
            logger.info("heartbeats to %r go on", entry)

    def close(self) -> None:
        for entry in [*self._sockets]:
            self._close(entry)

    def _connect(self, entry: str) -> socket.socket:
        """Return the socket of an entry. Make a new one if the kernel would now choose another
        source address, since an address or a route has changed."""
        endpoint = status.parse_endpoint(entry)
        fresh = _open_socket(endpoint)
        known = self._sockets.get(entry)
        if known is not None:
            if known.getsockname()[0] == fresh.getsockname()[0]:
                fresh.close()
                return known
            logger.info("heartbeats to %r leave from another address now", entry)
            known.close()
        self._sockets[entry] = fresh
        return fresh

    def _check(self, entry: str, now: float) -> bool:
        """Note an error that has arrived; return whether there was one."""
        error = _take_error(self._sockets[entry])
        if error is not None:
            self._note_error(entry, error, now)
        return error is not None

    def _note_error(self, entry: str, error: Exception, now: float) -> None:
        self._close(entry)
        figures = self._figures.setdefault(entry, ControllerFigures(entry))
        figures.errors += 1
        figures.last_error = now
        figures.error = str(error)
        if entry not in self._complained:
            self._complained.add(entry)
            logger.error("no heartbeat to %r: %s", entry, error)

    def _close(self, entry: str) -> None:
        known = self._sockets.pop(entry, None)
        if known is not None:
            known.close()


def _take_error(connected: socket.socket) -> OSError | None:
    """Return the error that the kernel holds for a socket, if there is one. Nobody answers a
    heartbeat: datagrams are dropped."""
    for _ in range(_MOST_DATAGRAMS):
        try:
            connected.recv(1)
        except BlockingIOError:
            return None
        except OSError as error:
            return error
    return None


def _open_socket(endpoint: ControllerEndpoint) -> socket.socket:
    """Return a connected socket that never waits.

    Raises:
        OSError: there is no route to it now.
    """
    family, level, option = _IPV6 if endpoint.ipv6 else _IPV4
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(level, option, 1)
        made.connect((endpoint.host, endpoint.port))
    except OSError:
        made.close()
        raise
    return made


#: Intervals after which a reading is too old to be sent.
OLDEST = 2


class Facts(NamedTuple):
    """What a beat needs besides readings: the settings, the version of the message, and the reason
    why the amphora must appear dead to the controller, if there is one."""

    settings: Settings
    version: int = message.LATEST
    silent: str | None = None


class Beat(NamedTuple):
    """A heartbeat, and whether it was `sent`. `silences` are the instances that it reports as DOWN
    because they do not answer, `masters_silent` those that answer while their masters do not,
    `hung` replaced workers that do not answer."""

    heartbeat: Heartbeat
    listeners: int
    sent: bool
    silences: Mapping[str, Silence]
    masters_silent: tuple[str, ...]
    hung: Mapping[str, tuple[HungWorker, ...]]


class Sender:
    """Sends one message at each `beat`.

    `facts` and `readings` return the newest values at once. `report` is called with each heartbeat,
    and when an error of a controller arrives later.
    """

    def __init__(
        self,
        facts: Callable[[], Facts],
        readings: Callable[[], Mapping[str, InstanceReading]],
        memory: CounterMemory,
        report: Callable[[Beat | None, tuple[ControllerFigures, ...]], None] = lambda beat, of: (
            None
        ),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._facts = facts
        self._readings = readings
        self._memory = memory
        self._report = report
        self._clock = clock
        self._wall_clock = wall_clock
        self._controllers = Controllers()
        self._sequence = 0
        self._turn = 0
        #: The last message, and the controllers that have not been tried with it.
        self._datagram = b""
        self._untried: list[str] = []
        self._last_entry: str | None = None
        self._last_increases: Mapping[str, Counters] = {}
        self._silence: str | None = None
        self._no_controllers = False
        #: The list as it is written, and its valid entries.
        self._written: tuple[str, ...] = ()
        self._usable: tuple[str, ...] = ()
        self._does_not_fit = ""

    def interval(self) -> float:
        """Return the seconds between two beats, as now set."""
        return self._facts().settings.heartbeat_interval

    def beat(self) -> None:
        """Build a message of the newest readings, and send it.

        Increases that were sent to no controller, or do not fit, are sent later.
        """
        settings, version, silent = self._facts()
        self.take_errors()
        if self._last_entry is not None:
            self._controllers.answered(self._last_entry)
        if not self._may_send(silent):
            return
        readings, oldest = self._readings(), self._clock() - OLDEST * settings.heartbeat_interval
        increases = self._memory.take()
        counted = increases if version >= message.INCREASES else self._memory.totals()
        content = message.build_content(
            settings.amphora_id, self._sequence, readings, counted, version, oldest
        )
        heartbeat = message.fit(content, settings.heartbeat_key)
        self._report_fit(heartbeat)
        self._sequence += 1
        sent = self._send(heartbeat.datagram, settings.controller_ip_port_list)
        if not sent or heartbeat.statistics_left_out:
            self._memory.give_back(increases)
            increases = {}
        self._last_increases = increases
        silences = {
            name: reading.silence
            for name, reading in readings.items()
            if reading.silence is not None and reading.told(oldest) is None
        }
        masters_silent = tuple(
            name
            for name, reading in readings.items()
            if reading.master_silence is not None and reading.current is not None
        )
        hung = {name: reading.hung for name, reading in readings.items() if reading.hung}
        self._report(
            Beat(heartbeat, len(content["listeners"]), sent, silences, masters_silent, hung),
            self._controllers.figures(),
        )

    def finish(self) -> None:
        """Send the waiting increases, if there are any: the process ends."""
        increases = self._memory.take()
        self._memory.give_back(increases)
        if increases:
            self.beat()
        self.close()

    def close(self) -> None:
        self._controllers.close()

    def sockets(self) -> list[socket.socket]:
        """Return the sockets that become readable when `take_errors` would find an error."""
        return self._controllers.sockets()

    def take_errors(self) -> None:
        """Note errors that have arrived since the last call: a message that did not reach its
        controller goes to the next one at once."""
        failed = self._controllers.failed(self._wall_clock())
        if not failed:
            return
        if self._last_entry in failed and not self._send_to_next():
            self._memory.give_back(self._last_increases)
            self._last_increases = {}
        self._report(None, self._controllers.figures())

    def _may_send(self, reason: str | None) -> bool:
        if reason != self._silence:
            self._silence = reason
            if reason:
                logger.error("no heartbeat while %s", reason)
            else:
                logger.info("heartbeats go on")
        return reason is None

    def _report_fit(self, heartbeat: Heartbeat) -> None:
        left_out = heartbeat.left_out
        if left_out == self._does_not_fit:
            return
        self._does_not_fit = left_out
        if left_out:
            logger.error("the heartbeat does not fit a datagram: without %s", left_out)
        else:
            logger.info("the heartbeat fits a datagram again")

    def _send(self, datagram: bytes, entries: tuple[str, ...]) -> bool:
        """Send to the next controller; on error to the one after it, until one takes it. Return
        whether one did."""
        if entries != self._written:
            self._written, self._usable = entries, _select_usable(entries)
        entries = self._usable
        self._controllers.follow(entries)
        if not entries:
            if not self._no_controllers:
                logger.error("no heartbeat: controller_ip_port_list names no controller")
            self._no_controllers = True
            return False
        self._no_controllers = False
        turn = self._turn % len(entries)
        self._untried = [*entries[turn:], *entries[:turn]]
        self._datagram = datagram
        sent = self._send_to_next()
        self._turn = (turn + len(entries) - len(self._untried)) % len(entries)
        return sent

    def _send_to_next(self) -> bool:
        self._last_entry = None
        while self._untried:
            entry = self._untried.pop(0)
            if self._controllers.send(entry, self._datagram, self._wall_clock()):
                self._last_entry = entry
                return True
        return False


def _select_usable(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Return the valid entries. The others are logged by number: one may be a secret by mistake."""
    bad = status.find_unusable(entries)
    if bad:
        logger.error(
            "[health_manager] controller_ip_port_list: entry %s is not ADDRESS:PORT, ignored",
            ", ".join(map(str, bad)),
        )
    return tuple(entry for number, entry in enumerate(entries, 1) if number not in bad)
