"""Sends heartbeats: reads, builds, remembers, sends; one controller a time, in turn."""

import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from amphora_agent import files
from amphora_agent.heartbeat import counters, endpoints, message, versions
from amphora_agent.heartbeat.counters import Reported
from amphora_agent.heartbeat.endpoints import Endpoint
from amphora_agent.heartbeat.message import Heartbeat
from amphora_agent.model.status import Counters, InstanceReading
from amphora_agent.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds that an instance may take to answer, and the share of the interval at most.
_ANSWER, _ANSWER_SHARE = 3.0, 0.4


class Source(Protocol):
    """Where readings come from."""

    def read(self, *, timeout: float) -> dict[str, InstanceReading]: ...

    def forget(self, readings: dict[str, InstanceReading]) -> None:
        """The counters of these readings are remembered elsewhere now."""


class Beat(NamedTuple):
    """A heartbeat that was made; `sent`: a controller was sent it."""

    heartbeat: Heartbeat
    listeners: int
    sent: bool


class Sender:
    """Sends one message at each `beat`. `memory` is the file of what has been reported.

    `silent` says why the amphora must look dead to the controller, if it must. `told` is called
    with each heartbeat that was made.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        source: Source,
        memory: Path,
        clock: Callable[[], float] = time.monotonic,
        *,
        version: Callable[[], int] = lambda: versions.LATEST,
        silent: Callable[[], str | None] = lambda: None,
        told: Callable[[Beat], None] = lambda beat: None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._memory = memory
        self._clock = clock
        self._version = version
        self._silent = silent
        self._told = told
        self._sequence = 0
        self._turn = 0
        self._reported: Reported | None = None
        self._complained: set[str] = set()
        self._silence: str | None = None

    def interval(self) -> float:
        """Seconds between two beats, as now set."""
        return self._settings().heartbeat_interval

    def beat(self) -> None:
        """Read all instances and send what they say.

        What has been counted is remembered before it is sent: a datagram that is lost loses its
        increases, a crash never reports them twice.
        """
        settings = self._settings()
        if not self._may_speak():
            return
        timeout = min(_ANSWER, settings.heartbeat_interval * _ANSWER_SHARE)
        if self._reported is None:
            # Not in the constructor: each process that this one is forked into, also after another
            # has died, goes on from what is on disk then.
            self._reported = _load(self._memory)
        readings = self._source.read(timeout=timeout)
        increases, reported = counters.increases(readings, self._reported)
        version = self._version()
        counted = increases if version >= versions.INCREASES else counters.totals(reported)
        content = message.content(settings.amphora_id, self._sequence, readings, counted, version)
        heartbeat = message.fit(content, settings.heartbeat_key)
        if heartbeat.left_out:
            logger.error("the heartbeat does not fit a datagram: without %s", heartbeat.left_out)
        if reported != self._reported:
            files.write(self._memory, msgspec.json.encode(reported))
            self._reported = reported
        self._source.forget(readings)
        self._sequence += 1
        sent = self._send(heartbeat.datagram, settings.controller_ip_port_list)
        self._told(Beat(heartbeat, len(content["listeners"]), sent))

    def _may_speak(self) -> bool:
        reason = self._silent()
        if reason != self._silence:
            self._silence = reason
            if reason:
                logger.error("no heartbeat while %s", reason)
            else:
                logger.info("heartbeats go on")
        return reason is None

    def _send(self, datagram: bytes, entries: tuple[str, ...]) -> bool:
        """Send to the next controller; on error to the one after it, until one takes it. Return
        whether one did."""
        for step in range(len(entries)):
            entry = entries[(self._turn + step) % len(entries)]
            try:
                _send_to(endpoints.parse(entry), datagram)
            except (ValueError, OSError) as error:
                if entry not in self._complained:
                    self._complained.add(entry)
                    logger.error("no heartbeat to %r: %s", entry, error)
                continue
            self._complained.discard(entry)
            self._turn = (self._turn + step + 1) % len(entries)
            return True
        if not entries and "" not in self._complained:
            self._complained.add("")
            logger.error("no heartbeat: controller_ip_port_list is empty")
        return False


def _send_to(endpoint: Endpoint, datagram: bytes) -> None:
    family = socket.AF_INET6 if endpoint.ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(datagram, (endpoint.host, endpoint.port))


def _load(memory: Path) -> Mapping[str, Mapping[str, Mapping[str, Counters]]]:
    try:
        return msgspec.json.decode(
            memory.read_bytes(), type=dict[str, dict[str, dict[str, Counters]]]
        )
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        logger.error("%s: cannot be read, counters begin anew: %s", memory, error)
        return {}
