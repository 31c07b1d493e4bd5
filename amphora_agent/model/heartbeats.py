"""Destinations of heartbeats, and what the agent knows of them."""

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from amphora_agent.model.addressing import split_endpoint
from amphora_agent.model.status import HungWorker, Silence


class Endpoint(NamedTuple):
    """An address and port of a health manager."""

    host: str
    port: int
    ipv6: bool


def parse(entry: str) -> Endpoint:
    """Read `192.0.2.1:5555` or `[2001:db8::1]:5555` (also without brackets: the last colon
    counts).

    Raises:
        ValueError: it is neither. The text does not quote it: it may be a secret that was written
            in the wrong place.
    """
    host, port = split_endpoint(entry.strip())
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("is not ADDRESS:PORT")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("is not ADDRESS:PORT") from None
    return Endpoint(str(address), int(port), address.version == 6)


def unusable(entries: Sequence[str]) -> tuple[int, ...]:
    """The places of the entries that cannot be read, from 1."""
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            parse(entry)
        except ValueError:
            found.append(number)
    return tuple(found)


class ControllerFigures(msgspec.Struct):
    """An entry of `controller_ip_port_list`: heartbeats sent to it, and errors that the kernel has
    told. Times are seconds since 1970, 0.0 for never."""

    address: str
    sent: int = 0
    last_sent: float = 0.0
    errors: int = 0
    last_error: float = 0.0
    error: str = ""


class HeartbeatFigures(msgspec.Struct, frozen=True, kw_only=True):
    """`sent` and `failed` count heartbeats: those that a controller was sent, and those that none
    took. `at` is when the last one was sent (CLOCK_MONOTONIC, 0.0 for never), and the figures after
    it are of that one: bytes, listeners, and the members, pools and statistics that did not fit.

    `silences` are the instances that are told as DOWN because their haproxy does not answer,
    `masters_silent` those that answer while their masters do not. `hung` are replaced workers that
    do not answer.
    """

    sent: int = 0
    failed: int = 0
    at: float = 0.0
    size: int = 0
    listeners: int = 0
    members_left_out: int = 0
    pools_left_out: int = 0
    statistics_left_out: int = 0
    controllers: tuple[ControllerFigures, ...] = ()
    silences: dict[str, Silence] = {}
    masters_silent: tuple[str, ...] = ()
    hung: dict[str, tuple[HungWorker, ...]] = {}


NO_HEARTBEATS = HeartbeatFigures()
