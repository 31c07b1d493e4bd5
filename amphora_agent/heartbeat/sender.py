"""The beat: tell the newest finished readings to one controller, in turn. It waits for nothing."""

import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from amphora_agent.heartbeat.datagram import message
from amphora_agent.heartbeat.datagram.message import Heartbeat
from amphora_agent.heartbeat.memory import CounterMemory
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

#: The option by which the kernel also tells of hosts and networks that cannot be reached
#: (linux/in.h, linux/in6.h: IP_RECVERR, IPV6_RECVERR), not only of ports.
_IPV4 = (socket.AF_INET, socket.IPPROTO_IP, 11)
_IPV6 = (socket.AF_INET6, socket.IPPROTO_IPV6, 25)

#: Datagrams that are dropped in one look at a socket.
_MOST_DATAGRAMS = 64


class Controllers:
    """Sends datagrams without waiting. Entries are those of `controller_ip_port_list` that can be
    read."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._figures: dict[str, ControllerFigures] = {}
        self._complained: set[str] = set()

    def follow(self, entries: Iterable[str]) -> None:
        """Forget controllers that are not among the entries any more."""
        wanted = set(entries)
        for entry in self._figures.keys() - wanted:
            del self._figures[entry]
            self._complained.discard(entry)
            self._close(entry)

    def send(self, entry: str, datagram: bytes, now: float) -> bool:
        """Send a datagram; return whether the kernel has taken it and knows of no error."""
        figures = self._figures.setdefault(entry, ControllerFigures(entry))
        try:
            self._connected(entry).send(datagram)
        except OSError as error:
            self._note_error(entry, error, now)
            return False
        figures.sent += 1
        figures.last_sent = now
        return not self._look(entry, now)

    def failed(self, now: float) -> set[str]:
        """Return entries whose errors have arrived since the last call; their sockets are made
        anew when they are used again."""
        return {entry for entry in [*self._sockets] if self._look(entry, now)}

    def sockets(self) -> list[socket.socket]:
        """Those that become readable when an error arrives."""
        return [*self._sockets.values()]

    def figures(self) -> tuple[ControllerFigures, ...]:
        return tuple(self._figures.values())

    def answered(self, entry: str) -> None:
        """No error has come for what was sent last."""
        if entry in self._complained:
            self._complained.discard(entry)
            logger.info("heartbeats to %r go on", entry)

    def close(self) -> None:
        for entry in [*self._sockets]:
            self._close(entry)

    def _connected(self, entry: str) -> socket.socket:
        """The socket of an entry. It is made anew when the kernel would now choose another source
        address: an address or a route has changed."""
        endpoint = status.parse_endpoint(entry)
        fresh = _connect(endpoint)
        known = self._sockets.get(entry)
        if known is not None:
            if known.getsockname()[0] == fresh.getsockname()[0]:
                fresh.close()
                return known
            logger.info("heartbeats to %r leave from another address now", entry)
            known.close()
        self._sockets[entry] = fresh
        return fresh

    def _look(self, entry: str, now: float) -> bool:
        """Take an error that has arrived, if one has."""
        error = _pending_error(self._sockets[entry])
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


def _pending_error(connected: socket.socket) -> OSError | None:
    """The error that the kernel holds for a socket. Nobody answers a heartbeat: what comes is
    dropped."""
    for _ in range(_MOST_DATAGRAMS):
        try:
            connected.recv(1)
        except BlockingIOError:
            return None
        except OSError as error:
            return error
    return None


def _connect(endpoint: ControllerEndpoint) -> socket.socket:
    """A socket that is connected, and never waits.

    Raises:
        OSError: there is no way to it now.
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


#: Intervals after which a reading is too old to be told.
OLDEST = 2


class Facts(NamedTuple):
    """What the beat must know besides readings: the settings, the version of the message, and why
    the amphora must look dead to the controller, if it must."""

    settings: Settings
    version: int = message.LATEST
    silent: str | None = None


class Beat(NamedTuple):
    """A heartbeat that was made; `sent`: a controller was sent it. `silences` are the instances
    that it tells as DOWN because they do not answer, `masters_silent` those that answer while their
    masters do not, `hung` replaced workers that do not."""

    heartbeat: Heartbeat
    listeners: int
    sent: bool
    silences: Mapping[str, Silence]
    masters_silent: tuple[str, ...]
    hung: Mapping[str, tuple[HungWorker, ...]]


class Sender:
    """Sends one message at each `beat`.

    `facts` and `readings` return the newest that others have found out, at once. `told` is called
    with each heartbeat, and when an error of a controller arrives later.
    """

    def __init__(
        self,
        facts: Callable[[], Facts],
        readings: Callable[[], Mapping[str, InstanceReading]],
        memory: CounterMemory,
        told: Callable[[Beat | None, tuple[ControllerFigures, ...]], None] = lambda beat, of: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._facts = facts
        self._readings = readings
        self._memory = memory
        self._told = told
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
        #: The list as it is written, and what of it can be used.
        self._written: tuple[str, ...] = ()
        self._usable: tuple[str, ...] = ()
        self._does_not_fit = ""

    def interval(self) -> float:
        """Seconds between two beats, as now set."""
        return self._facts().settings.heartbeat_interval

    def beat(self) -> None:
        """Build a message of what is known, and send it.

        Increases that no controller was sent, and those that do not fit, are told later.
        """
        settings, version, silent = self._facts()
        self.look_for_errors()
        if self._last_entry is not None:
            self._controllers.answered(self._last_entry)
        if not self._may_speak(silent):
            return
        readings, oldest = self._readings(), self._clock() - OLDEST * settings.heartbeat_interval
        increases = self._memory.take()
        counted = increases if version >= message.INCREASES else self._memory.totals()
        content = message.content(
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
        self._told(
            Beat(heartbeat, len(content["listeners"]), sent, silences, masters_silent, hung),
            self._controllers.figures(),
        )

    def finish(self) -> None:
        """Tell what waits to be told, if there is anything: the process ends."""
        increases = self._memory.take()
        self._memory.give_back(increases)
        if increases:
            self.beat()
        self.close()

    def close(self) -> None:
        self._controllers.close()

    def sockets(self) -> list[socket.socket]:
        """Those that become readable when `look_for_errors` would find one."""
        return self._controllers.sockets()

    def look_for_errors(self) -> None:
        """Take up errors that have arrived since the last look: a message that did not reach its
        controller goes to the next one at once."""
        failed = self._controllers.failed(self._wall_clock())
        if not failed:
            return
        if self._last_entry in failed and not self._send_to_next():
            self._memory.give_back(self._last_increases)
            self._last_increases = {}
        self._told(None, self._controllers.figures())

    def _may_speak(self, reason: str | None) -> bool:
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
            self._written, self._usable = entries, _usable(entries)
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


def _usable(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The entries that can be read. The others are reported, and not quoted: a secret may have been
    written there."""
    bad = status.find_unusable(entries)
    if bad:
        logger.error(
            "[health_manager] controller_ip_port_list: entry %s is not ADDRESS:PORT, ignored",
            ", ".join(map(str, bad)),
        )
    return tuple(entry for number, entry in enumerate(entries, 1) if number not in bad)
