"""Find when certificates and revocation lists expire, and when that must be reported."""

import enum
import logging
import ssl
from datetime import UTC, datetime
from typing import NamedTuple

from amphora_agent.x509 import pem
from amphora_agent.x509.pem import Block

_DAY = 86400.0


class Stage(enum.IntEnum):
    """How near the end is. Each stage is reported once."""

    VALID = 0
    MONTH = 1
    WEEK = 2
    DAY = 3
    EXPIRED = 4

    @property
    def words(self) -> str:
        return _WORDS[self]

    @property
    def level(self) -> int:
        """Of the report in the log and of the alarm."""
        return logging.ERROR if self >= Stage.DAY else logging.WARNING


_WORDS = {
    Stage.VALID: "is valid for more than 30 days",
    Stage.MONTH: "expires within 30 days",
    Stage.WEEK: "expires within 7 days",
    Stage.DAY: "expires within a day",
    Stage.EXPIRED: "has expired",
}


class FileExpiry(NamedTuple):
    """When a file of a load balancer expires, in seconds since 1970: as soon as the first
    certificate or revocation list in it. `what` is what the file is for."""

    loadbalancer: str
    file: str
    what: str
    expires: float


def find_stage(expires: float, now: float) -> Stage:
    """Return the stage at `now` of what expires at `expires`; both are seconds since 1970."""
    left = expires - now
    if left <= 0:
        return Stage.EXPIRED
    if left <= _DAY:
        return Stage.DAY
    if left <= 7 * _DAY:
        return Stage.WEEK
    return Stage.MONTH if left <= 30 * _DAY else Stage.VALID


def format_time(expires: float) -> str:
    """Format seconds since 1970 for a report (RFC 3339)."""
    return f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%dT%H:%M:%SZ}"


def read_expiries(text: str) -> tuple[datetime, ...]:
    """Return when each certificate of a PEM expires, in their order.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    blocks = pem.find_blocks(text.encode(errors="surrogateescape"), pem.CERTIFICATE)
    times = tuple(_read_expiry(block.decode(errors="surrogateescape")) for block in blocks)
    if not times:
        raise ValueError("there is no certificate in it")
    return times


def _read_expiry(certificate: str) -> datetime:
    try:
        until = pem.read_expiry(Block(pem.CERTIFICATE, ssl.PEM_cert_to_DER_cert(certificate)))
    except ValueError as error:
        raise ValueError(f"the certificate cannot be read: {error}") from None
    assert until is not None  # only a revocation list may leave it out
    return until
